"""``ensemble gc``: remove files that no result refers to."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from airflow_ensemble.cli.command import Command, add_file_argument
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import opened
from airflow_ensemble.cli.text import format_bytes, format_count


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would go; remove nothing")
    add_file_argument(parser)


def _run(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.upkeep import collect_garbage
    from airflow_ensemble.slurm.housekeeping import remove_job_folders, remove_staged

    with opened(args, read_only=args.dry_run) as control:
        control.root.check_there()
        garbage = collect_garbage(control, dry_run=args.dry_run)
        folders = remove_job_folders(control, dry_run=args.dry_run)
        staged = remove_staged(control, without=folders, dry_run=args.dry_run)
    for folder in [*folders, *staged] if args.dry_run else ():
        console.say(str(folder))
    console.say(
        f"{'would remove' if args.dry_run else 'removed'} {format_count(garbage.files, 'file')} "
        f"({format_bytes(garbage.bytes)}) and the chunk files of "
        f"{garbage.batches:,} settled {'batch' if garbage.batches == 1 else 'batches'}"
        + (f", and {format_count(len(folders), 'job folder')} of Slurm" if folders else "")
        + (f", and {len(staged):,} of bundles and code" if staged else "")
    )
    return 0


COMMAND = Command(
    name="gc",
    summary="Remove products and logs that no result refers to, such as those of killed attempts.",
    example="ensemble gc --dry-run",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={0: "done", 2: "something is running, or wrong input: nothing was removed"},
)
