"""``ensemble retry | cancel | reconcile | rebuild``: put the index in order."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from airflow_ensemble.cli.command import (
    Command,
    add_file_argument,
    add_file_option,
    add_ids_argument,
)
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.kubernetes.jobs import delete_idle_jobs
from airflow_ensemble.cli.opening import check_ids, file_option, load_ensemble, opened
from airflow_ensemble.cli.slurm.place import make_reach, make_settlers
from airflow_ensemble.cli.text import format_count, render_table
from airflow_ensemble.engine.errors import UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control


# --- retry ----------------------------------------------------------------------------------------


def _add_retry_arguments(parser: ArgumentParser) -> None:
    add_ids_argument(parser, "retry")
    parser.add_argument("--reason", metavar="R", help="retry those that failed with this reason")
    add_file_option(parser)


def _retry(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.index.interface import Scope

    _require_one(args.ids, args.all, args.reason)
    with opened(args) as control:
        check_ids(control, args.ids)
        scope = Scope(ids=args.ids or _failed_ids(control, args.reason))
        retried = control.index.retry(control.key, scope)
        left = 0 if args.ids else _count_failed(control, args.reason)
    if left:
        console.note(
            f"{format_count(left, 'failed simulation')} not in the table: left as they are; name "
            f"them to send them back, or `ensemble forget{file_option(args)}` removes them"
        )
    if not retried:
        console.note("nothing to retry: none of them is failed")
        return 0
    console.say(
        f"{format_count(retried, 'simulation')} pending again; "
        f"`ensemble run{file_option(args)}` runs what is pending"
    )
    return 0


def _failed_ids(control: Control, reason: str | None) -> list[str]:
    """Return the failed simulations of the table, in its order: all, or those with a reason."""
    from airflow_ensemble.engine.simulation import Status
    from airflow_ensemble.engine.standing import look_up

    wanted = _parse_reason(reason) if reason else None
    simulations = control.ensemble.read_simulations()
    return [
        entry.id
        for _, entry in look_up(control.index, control.key, simulations)
        if entry and entry.status is Status.FAILED and wanted in (None, entry.reason)
    ]


def _count_failed(control: Control, reason: str | None) -> int:
    """Count what the index has as failed, or failed for a reason."""
    counts = control.index.counts(control.key)
    return counts.reasons.get(reason, 0) if reason else counts.failed


def _parse_reason(text: str) -> object:
    from airflow_ensemble.engine.simulation import Reason

    try:
        return Reason(text)
    except ValueError:
        known = ", ".join(reason.value for reason in Reason)
        raise UsageError(f"--reason {text}: it is one of {known}") from None


def _require_one(*choices: object) -> None:
    if sum(1 for choice in choices if choice) != 1:
        raise UsageError("say which simulations: either their ids or one option that selects them")


# --- cancel ---------------------------------------------------------------------------------------


def _add_cancel_arguments(parser: ArgumentParser) -> None:
    add_ids_argument(parser, "cancel")
    add_file_option(parser)


def _cancel(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.batch import cancel
    from airflow_ensemble.engine.index.interface import Scope

    _require_one(args.ids, args.all)
    with opened(args) as control:
        check_ids(control, args.ids)
        cancelled = cancel(control, Scope(ids=args.ids or None), make_reach(control))
        if not control.index.counts(control.key).unfinished:
            for job in delete_idle_jobs(control.ensemble):
                console.note(f"job {job} deleted: it has nothing left to run")
    if not cancelled:
        console.note("nothing to cancel: none of them is unfinished")
        return 0
    console.say(
        f"{format_count(cancelled, 'simulation')} cancelled; "
        f"`ensemble retry --reason cancelled{file_option(args)}` takes it back"
    )
    return 0


# --- reconcile and rebuild ------------------------------------------------------------------------


def _add_reconcile_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="settle also batches of whose driver nothing is known: only if none is running",
    )
    add_file_argument(parser)


def _reconcile(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.batch import reconcile

    with opened(args) as control:
        control.root.check_there()
        found = reconcile(control, force=args.force, settlers=make_settlers(control.ensemble))
    if found.counted:
        console.say(f"{format_count(found.counted, 'finished attempt')} read from segments")
    if found.expired:
        console.say(f"{format_count(found.expired, 'simulation')} taken back from vanished workers")
    if found.settled:
        console.say(render_table(("chunk", "given back"), found.settled, right=("given back",)))
    if not (found.counted or found.expired or found.settled):
        console.note("nothing to reconcile: no work was abandoned")
    return 0


def _rebuild(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.storage import open_root
    from airflow_ensemble.engine.upkeep import rebuild

    # Before an index is made that nothing can fill.
    open_root(load_ensemble(args).output).check_there()
    # The one command besides init and register that makes an index: it is for the day it is lost.
    with opened(args, create=True) as control:
        control.root.check_owner(control.ensemble.name, control.recipe.settings)
        restored = rebuild(control)
    output = control.ensemble.output
    if not restored:
        console.say(f"the outcome segments under {output} tell nothing that the index did not know")
        return 0
    console.say(
        f"{format_count(restored, 'simulation')} finished by the outcome segments under {output}; "
        f"see `ensemble status{file_option(args)}`"
    )
    return 0


RETRY = Command(
    name="retry",
    summary="Send failed simulations of the table back to pending, with all their tries.",
    example="ensemble retry --reason timeout\nensemble retry receptor-017 receptor-018",
    add_arguments=_add_retry_arguments,
    run=_retry,
    exit_codes={0: "done, also when none was failed", 2: "no such simulation or reason"},
)
CANCEL = Command(
    name="cancel",
    summary="Stop unfinished simulations, wherever they run, and keep them from running.",
    example="ensemble cancel receptor-017\nensemble cancel --all",
    add_arguments=_add_cancel_arguments,
    run=_cancel,
    exit_codes={0: "done, also when none was unfinished", 2: "no such simulation"},
)
RECONCILE = Command(
    name="reconcile",
    summary="Take back what dead runs and workers left behind (`run` does so by itself).",
    example="ensemble reconcile",
    add_arguments=_add_reconcile_arguments,
    run=_reconcile,
    exit_codes={0: "done", 2: "wrong input, nothing was changed", 3: "the index was lost"},
)
REBUILD = Command(
    name="rebuild",
    summary="Fill a lost index again from the outcome segments under the output root.",
    example="ensemble rebuild",
    add_arguments=add_file_argument,
    run=_rebuild,
    exit_codes={0: "done", 2: "wrong input, nothing was changed", 3: "the index was lost"},
)
