"""``ensemble collect``: what came of the ensemble, and all products in one file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_ensemble.cli.command import Command, add_file_argument
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.failures import read_failures, render_failures
from airflow_ensemble.cli.opening import file_option, opened
from airflow_ensemble.cli.text import format_bytes, render_table
from airflow_ensemble.engine.errors import UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.collect import ProductSummary
    from airflow_ensemble.engine.control import Control


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--to", metavar="PATH", help="write all products as one dataset there")
    parser.add_argument(
        "--format",
        choices=("zarr", "netcdf"),
        help="of the dataset (default: by the ending of PATH)",
    )
    parser.add_argument("--product", metavar="NAME", help="only this product")
    add_file_argument(parser)


def _run(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.batch import verdict
    from airflow_ensemble.engine.collect import summarize
    from airflow_ensemble.engine.index.interface import Scope

    _check_target(args)
    with opened(args) as control:
        index, key = control.index, control.key
        counts = index.counts(key)
        summaries = {one.product: one for one in summarize(index.results(key), counts.failed)}
        failures = render_failures(read_failures(index, key, counts, Scope()), file_option(args))
        chosen = _chosen_products(control, args.product)
        console.say(
            render([summaries.get(name) or _nothing(name) for name in chosen], counts.total)
        )
        if args.to:
            console.say(f"\nwrote {_write(control, chosen, args)}")
    judged = verdict(counts, control.ensemble.max_failed)
    console.say(f"\n{console.style(judged.message, 'good' if judged.ok else 'bad')}")
    if failures:
        console.say(f"\n{failures}")
    return 0 if judged.ok else 1


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

    if args.to:
        check_format(args.to, args.format)
    elif args.format:
        raise UsageError(f"--format {args.format} needs --to PATH, where to write it")


def _chosen_products(control: Control, name: str | None) -> Sequence[str]:
    names = [spec.name for spec in control.recipe.settings.products]
    if name is None:
        return names
    if name not in names:
        raise UsageError(f"--product {name}: the ensemble's products are {', '.join(names)}")
    return [name]


def _nothing(product: str) -> ProductSummary:
    from airflow_ensemble.engine.collect import ProductSummary

    return ProductSummary(product, complete=0, empty=0, failed=0, bytes=0)


def _write(control: Control, products: Sequence[str], args: Namespace) -> str:
    from airflow_ensemble.engine.collect import open_collection, write_collection

    results = control.index.results(control.key)
    dataset = open_collection(results, control.root, products)
    return write_collection(dataset, args.to, args.format)


COMMAND = Command(
    name="collect",
    summary="Sum up the products, judge the ensemble, and write all products as one dataset.",
    example="ensemble collect\nensemble collect --to all.zarr --product footprint",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={
        0: "all complete (or no more failed than max_failed allows)",
        1: "some failed or have not run; what is there is collected",
        2: "wrong input, nothing was written",
    },
)
