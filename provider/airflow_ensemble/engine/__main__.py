"""``python -m airflow_ensemble.engine``: the workers' own command line. Standard library only."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from airflow_ensemble import __version__
from airflow_ensemble.engine.errors import EnsembleError, UsageError
from airflow_ensemble.engine.pulling import (
    add_index_options,
    add_worker_options,
    open_named_index,
    positive,
    run_worker,
)

_DESCRIPTION = "Workers of airflow-provider-ensemble: they run simulations and record outcomes."
_PUSH = """\
Run the simulations of one chunk file and append what comes of each to a segment below the output
root. No database is needed. Started again, it runs only what is unfinished.

exit codes: 0 all complete; 1 some attempts failed; 2 the chunk, the output root or the model cannot
be used (no attempt is charged); 3 stopped, or another worker runs this chunk.

SIGTERM, SIGINT and SIGHUP stop it, and what runs is recorded as interrupted. SIGUSR1 stops it too,
and what runs is recorded as ended by the job's time limit: sbatch --signal=B:USR1@60.

A file CHUNK.cancel beside the chunk file, with ids one a line or *, cancels simulations.
environment: ENSEMBLE_SCRATCH  where working directories are made (default TMPDIR)
             ENSEMBLE_KEEP_WORKDIR=1  keep the working directories of failed simulations
"""

_PULL = """\
Claim simulations of a registered ensemble from the output index and run them, until all are
complete or failed for good. Any number of workers may do so at once.

exit codes: 0 all complete; 1 some failed (0 with --failed-ok); 2 index, output root or model cannot
be used; 3 stopped, or the lease was lost (what ran is dead then and will be claimed again).
"""
_COLLECT = """\
Write the products of finished simulations as one dataset. No database is needed: which simulations
and which files, says a file of results, one JSON record a line. The dataset is written aside and
renamed, so that readers see the old one or the new one.

exit codes: 0 written; 1 the products do not fit together, or cannot be read or written; 2 wrong
input, or a Python without the packages that read and write datasets.
"""
_SERVE = _PULL.replace("until all are\ncomplete or failed for good", "and wait for more,\nfor ever")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker from the command line.

    :param arguments: default ``sys.argv[1:]``.
    :return: the exit code.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        code: int = options.function(options)
    except EnsembleError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m airflow_ensemble.engine", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    push = commands.add_parser(
        "push-worker",
        help="run one chunk file",
        description=_PUSH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    push.add_argument("chunk", type=Path, help="the chunk file, <chunk>.<submission>.jsonl")
    push.add_argument(
        "--cpus", type=positive, default=1, help="cores to use at one time (default 1)"
    )
    push.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="stop when standard input ends, because the parent is gone",
    )
    push.add_argument("--verbose", action="store_true", help="log every simulation")
    push.set_defaults(function=_push)
    for name, text in (("pull-worker", _PULL), ("serve", _SERVE)):
        pull = commands.add_parser(
            name,
            help=text.partition(".")[0].replace("\n", " ").lower(),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_pull(pull)
        pull.set_defaults(function=_pull, serve=name == "serve")
    collect = commands.add_parser(
        "collect",
        help="write products as one dataset",
        description=_COLLECT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_collect(collect)
    collect.set_defaults(function=_collect)
    return parser


def _add_collect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, required=True, help="the file of results")
    parser.add_argument("--output", required=True, help="output root that holds the products")
    parser.add_argument("--to", required=True, metavar="PATH", help="path or URI of the dataset")
    parser.add_argument(
        "--format", choices=("zarr", "netcdf"), help="default: by the ending of PATH"
    )
    parser.add_argument(
        "--product", action="append", metavar="NAME", help="only this product; may be repeated"
    )
    parser.add_argument(
        "--align",
        choices=("exact", "outer"),
        default="exact",
        help="refuse axes of different sizes, or join them to their union",
    )
    parser.add_argument("--verbose", action="store_true", help="log more")


def _add_pull(parser: argparse.ArgumentParser) -> None:
    add_index_options(parser, default="env:ENSEMBLE_INDEX")
    add_worker_options(parser)
    parser.add_argument("--verbose", action="store_true", help="log every simulation")


def _push(options: argparse.Namespace) -> int:
    from airflow_ensemble.engine.worker import Stop, push_worker, stop_on_signals

    stop = Stop()
    with stop_on_signals(stop, stdin=options.stop_with_stdin):
        return push_worker(options.chunk, cpus=options.cpus, stop=stop)


def _pull(options: argparse.Namespace) -> int:
    return run_worker(options, open_named_index(options), serve=options.serve)


def _collect(options: argparse.Namespace) -> int:
    from airflow_ensemble.engine.collect import (
        check_format,
        check_packages,
        open_collection,
        write_collection,
    )
    from airflow_ensemble.engine.result_lines import read_results
    from airflow_ensemble.engine.storage import open_root

    check_packages(check_format(options.to, options.format))
    results = read_results(options.results)
    if not results:
        raise UsageError(f"{options.results} names no result: there is nothing to collect")
    try:
        dataset = open_collection(
            results,
            open_root(options.output),
            options.product,
            align=options.align,
            outer_option='--align outer (align="outer" in a DAG)',
        )
        written = write_collection(dataset, options.to, options.format)
    except OSError as error:
        raise EnsembleError(f"{options.to} was not written: {error}") from error
    print(f"wrote {written} of {len(results)} simulations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
