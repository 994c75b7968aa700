"""``ensemble collect``: what came of the ensemble, and all products in one file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from airflow_ensemble.cli.command import Command, add_file_argument
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.failures import read_failures, render_failures
from airflow_ensemble.cli.opening import file_option, opened
from airflow_ensemble.cli.standing import describe_standing
from airflow_ensemble.cli.text import format_bytes, render_table
from airflow_ensemble.engine.errors import UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.collect import ProductSummary
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.index.interface import Counts, Result, Scope
    from airflow_ensemble.engine.standing import Standing


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--to", metavar="PATH", help="write all products as one dataset there")
    parser.add_argument(
        "--format",
        choices=("zarr", "netcdf"),
        help="of the dataset (default: by the ending of PATH)",
    )
    parser.add_argument(
        "--product", metavar="NAME", action="append", help="only this product; may be repeated"
    )
    parser.add_argument(
        "--align",
        choices=("exact", "outer"),
        default="exact",
        help="what to do with axes of different sizes: refuse them (exact, the default), or join "
        "them to their union (outer)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="all simulations that the index knows with these settings, whatever the table has now",
    )
    add_file_argument(parser)


def _run(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.batch import verdict
    from airflow_ensemble.engine.collect import summarize

    _check_target(args)
    with opened(args, read_only=True) as control:
        meant = _meant(control, args.all)
        counts = meant.counts
        summaries = {one.product: one for one in summarize(meant.results(), counts.failed)}
        failures = render_failures(
            read_failures(control.index, control.key, counts, meant.scope), file_option(args)
        )
        chosen = _chosen_products(control, args.product)
        total = counts.total + meant.absent
        console.say(render([summaries.get(name) or _nothing(name) for name in chosen], total))
        if args.to:
            console.say(f"\nwrote {_write(control, meant.results(), chosen, args)}")
    judged = verdict(counts, control.ensemble.max_failed, meant.absent)
    console.say(f"\n{console.style(judged.message, 'good' if judged.ok else 'bad')}")
    for fact in describe_standing(meant.standing, file_option(args)):
        console.say(fact)
    if failures:
        console.say(f"\n{failures}")
    return 0 if judged.ok else 1


@dataclass(frozen=True)
class _Meant:
    """The simulations that are collected: those of the table, or all that the index knows.

    :param counts: by status.
    :param scope: the failed ones that are named.
    :param results: yields their results, in order, each time that it is called.
    :param standing: of the table; None where all are meant.
    """

    counts: Counts
    scope: Scope
    results: Callable[[], Iterator[Result]]
    standing: Standing | None

    @property
    def absent(self) -> int:
        """Return how many rows of the table have not run as they are."""
        return self.standing.absent if self.standing else 0


def _meant(control: Control, all_known: bool) -> _Meant:
    from airflow_ensemble.engine.index.interface import Scope
    from airflow_ensemble.engine.standing import table_results, take_standing

    index, key = control.index, control.key
    if all_known:
        return _Meant(index.counts(key), Scope(), partial(index.results, key), None)
    standing = take_standing(index, key, control.ensemble.read_simulations())
    failed = Scope(ids=standing.failed_ids)
    return _Meant(standing.counts, failed, partial(table_results, control), standing)


def render(summaries: Sequence[ProductSummary], total: int) -> str:
    """Return a table of products; ``missing`` counts simulations without any result of it."""
    rows = [
        (
            one.product,
            f"{one.complete:,}",
            f"{one.empty:,}",
            f"{total - one.complete - one.empty:,}",
            format_bytes(one.bytes),
        )
        for one in summaries
    ]
    headers = ("product", "complete", "empty", "missing", "size")
    return render_table(headers, rows, right=headers[1:])


def _check_target(args: Namespace) -> None:
    from airflow_ensemble.engine.collect import check_format

    if args.to == "":
        raise UsageError("--to is empty: name a path where to write the dataset")
    if args.to:
        check_format(args.to, args.format)
    elif args.format:
        raise UsageError(f"--format {args.format} needs --to PATH, where to write it")


def _chosen_products(control: Control, wanted: Sequence[str] | None) -> Sequence[str]:
    names = [spec.name for spec in control.recipe.settings.products]
    for name in wanted or ():
        if name not in names:
            raise UsageError(f"--product {name}: the ensemble's products are {', '.join(names)}")
    return [name for name in names if not wanted or name in wanted]


def _nothing(product: str) -> ProductSummary:
    from airflow_ensemble.engine.collect import ProductSummary

    return ProductSummary(product, complete=0, empty=0, failed=0, bytes=0)


def _write(
    control: Control, results: Iterable[Result], products: Sequence[str], args: Namespace
) -> str:
    from airflow_ensemble.engine.collect import open_collection, write_collection

    dataset = open_collection(
        results, control.root, products, align=args.align, outer_option="--align outer"
    )
    return write_collection(dataset, args.to, args.format)


COMMAND = Command(
    name="collect",
    summary="Sum up the products of the table's simulations, judge them, and write one dataset.",
    example="ensemble collect\nensemble collect --to all.zarr --product footprint --align outer",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={
        0: "all complete (or no more failed than max_failed allows)",
        1: "some failed or have not run, and what is there is collected; or products do not fit "
        "into one dataset, and nothing is written",
        2: "wrong input, nothing was written",
    },
)
