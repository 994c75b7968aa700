"""``ensemble status``: how far it is, and why simulations failed."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ensemble.cli.command import Command, add_file_argument
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.failures import FailureGroup, read_failures, render_failures
from airflow_ensemble.cli.kubernetes.jobs import (
    KubernetesView,
    read_view,
    render_view,
    summarise_view,
)
from airflow_ensemble.cli.kubernetes.jobs import as_record as kubernetes_record
from airflow_ensemble.cli.opening import (
    file_option,
    load_ensemble,
    warn_of_unread,
    warn_readers,
)
from airflow_ensemble.cli.progress import Pace, make_progress
from airflow_ensemble.cli.slurm.jobs import (
    SlurmView,
    read_slurm_view,
    render_slurm_view,
    summarise_slurm_view,
)
from airflow_ensemble.cli.slurm.jobs import as_record as slurm_record
from airflow_ensemble.cli.slurm.place import make_settlers
from airflow_ensemble.cli.standing import describe_standing, standing_record
from airflow_ensemble.cli.stopping import stop_on_signals
from airflow_ensemble.cli.text import format_duration, format_rate, render_table
from airflow_ensemble.engine.errors import Interrupted, UsageError
from airflow_ensemble.engine.pulling import add_index_options, open_named_index

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.index.interface import Counts, EnsembleKey, OutputIndex, Scope
    from airflow_ensemble.engine.standing import Standing

#: Version of the JSON that ``--json`` and ``--write`` give.
FORMAT = 1
#: Seconds between two looks of ``--watch``.
WATCH_INTERVAL = 1.0
#: The same while a cluster is asked each time, too.
CLUSTER_WATCH_INTERVAL = 5.0
#: The answer to Ctrl-C.
STOPPING = "stopping to watch; once more to stop at once"
COUNTED = ("total", "pending", "running", "complete", "empty", "failed")


@dataclass(frozen=True)
class Report:
    """What there is to say of an ensemble at one moment.

    :param key: the ensemble, with the settings of its file.
    :param counts: its simulations by status: those of the table, or all that the index knows.
    :param output: its output root.
    :param time: Unix time, seconds.
    :param rate: simulations that end per second; None if nothing runs.
    :param failures: failed ones by reason.
    :param earlier: the counts of each earlier settings hash, newest first.
    :param slurm: Slurm's view of the open array jobs; None when there are none.
    :param kubernetes: Kubernetes' view of the Jobs that it still knows; None when there are none.
    :param standing: of the table; None where all that the index knows is meant.
    """

    key: EnsembleKey
    counts: Counts
    output: str
    time: float
    rate: float | None
    failures: Sequence[FailureGroup] = ()
    earlier: Sequence[tuple[str, Counts]] = field(default_factory=tuple)
    slurm: SlurmView | None = None
    kubernetes: KubernetesView | None = None
    standing: Standing | None = None

    @property
    def eta(self) -> float | None:
        """Return the seconds until all is done, or None when that cannot be said."""
        if not self.rate or not self.counts.unfinished:
            return None
        return self.counts.unfinished / self.rate


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--watch", action="store_true", help="stay and show progress until all is terminal"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write status.json beside the index, atomically; with --watch every second",
    )
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="first settle what dead runs left, and read new outcomes",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="of all simulations that the index knows, whatever the table has now, as --index does",
    )
    add_index_options(parser)
    add_file_argument(parser)


def _run(args: Namespace, console: Console) -> int:
    with _opened(args) as source:
        report = _watch(source, args, console) if args.watch else source.look(args.refresh)
        if args.write:
            source.write(report)
        code = source.judge(report) if args.watch else 0
    if args.json:
        console.say_json(as_record(report))
    else:
        console.say(render(report, console, file_option(args)))
    return code


# --- reading --------------------------------------------------------------------------------------


@dataclass
class _Source:
    """What reports are read from: an index, and the ensemble's control where there is a file."""

    index: OutputIndex
    key: EnsembleKey
    output: str
    control: Control | None = None
    has_table: bool = False
    _last: Standing | None = None

    @property
    def can_refresh(self) -> bool:
        """Return whether new outcomes can be brought into the index from here."""
        return self.control is not None and self.index.may_write

    def look(self, refresh: bool, pace: Pace | None = None) -> Report:
        """Read one report.

        :param refresh: first settle and ingest.
        :param pace: measures the rate over several looks.
        """
        if refresh:
            self._refresh()
        counts, scope, standing = self._count()
        now = self.index.now()
        rate = measure_rate(self.index, self.key, now)
        if pace is not None:
            pace.look(now, counts.complete + counts.failed)
            rate = pace.rate or rate
        return Report(
            key=self.key,
            counts=counts,
            output=self.output,
            time=now,
            rate=rate,
            failures=read_failures(self.index, self.key, counts, scope),
            earlier=[
                (other.settings_hash, self.index.counts(other))
                for other in self.index.ensembles(self.key.name)
                if other.settings_hash != self.key.settings_hash
            ],
            slurm=read_slurm_view(self.index, self.key),
            kubernetes=read_view(self.control.ensemble) if self.control else None,
            standing=standing,
        )

    def _count(self) -> tuple[Counts, Scope, Standing | None]:
        """Count what is meant; also return which failed ones are named, and how the table stands.

        A long table takes a while to compare. While nothing was registered since, all that the
        index knows is still what the table has, if it was so at the last look.
        """
        from airflow_ensemble.engine.index.interface import Scope
        from airflow_ensemble.engine.standing import take_standing

        if self.control is None or not self.has_table:
            return self.index.counts(self.key), Scope(), None
        last = self._last
        if last and last.is_whole and self.index.extent(self.key) == last.extent:
            return self.index.counts(self.key), Scope(), last
        simulations = self.control.ensemble.read_simulations()
        try:
            standing = self._last = take_standing(self.index, self.key, simulations)
        except UsageError as error:
            raise UsageError(f"{error}; `ensemble status --all` reads no table") from error
        return standing.counts, Scope(ids=standing.failed_ids), standing

    def write(self, report: Report) -> None:
        """Write the report beside the index, so that readers see the old or the new one whole."""
        if self.control is None:
            raise UsageError("--write needs the ensemble file: it names where status.json goes")
        write_atomically(self.control.ensemble.control / "status.json", as_record(report))

    def judge(self, report: Report) -> int:
        """Return the exit code of a finished ensemble, by its ``max_failed``."""
        from airflow_ensemble.engine.batch import verdict

        max_failed = self.control.ensemble.max_failed if self.control else 0
        absent = report.standing.absent if report.standing else 0
        return 0 if verdict(report.counts, max_failed, absent).ok else 1

    def _refresh(self) -> None:
        from airflow_ensemble.engine.batch import reconcile

        if self.control is None:
            raise UsageError("--refresh needs the ensemble file: segments lie below its output")
        reconcile(self.control, settlers=make_settlers(self.control.ensemble))


@contextmanager
def _opened(args: Namespace) -> Iterator[_Source]:
    from airflow_ensemble.engine.control import open_control

    if args.index or args.name:
        with open_named_index(args, read_only=True) as (index, key):
            warn_of_unread(index, key)
            yield _Source(index, key, index.recipe(key).output)
        return
    with open_control(load_ensemble(args), read_only=not args.refresh) as control:
        warn_readers(control)
        output, has_table = control.ensemble.output, not args.all
        yield _Source(control.index, control.key, output, control, has_table)


def measure_rate(index: OutputIndex, key: EnsembleKey, now: float) -> float | None:
    """Return how many dispatched simulations end per second, from the open batches alone.

    :param now: the database's time, Unix seconds.
    """
    rate = 0.0
    for batch in index.open_batches(key):
        chunks = index.chunks(batch.id)
        ended = sum(chunk.size - chunk.unfinished for chunk in chunks)
        if now > batch.created:
            rate += ended / (now - batch.created)
    return rate or None


def _watch(source: _Source, args: Namespace, console: Console) -> Report:
    pace = Pace()
    with stop_on_signals(console, STOPPING) as stop, make_progress(console.quiet) as progress:
        while True:
            report = source.look(refresh=args.refresh or source.can_refresh, pace=pace)
            views = (summarise_slurm_view(report.slurm), summarise_view(report.kubernetes))
            progress.remark = " · ".join(filter(None, views))
            progress.update(report.counts)
            if args.write:
                source.write(report)
            if not report.counts.unfinished:
                return report
            asks = report.slurm or report.kubernetes
            if stop.wait(CLUSTER_WATCH_INTERVAL if asks else WATCH_INTERVAL):
                raise Interrupted("stopped watching; the simulations are not touched by that")


# --- writing --------------------------------------------------------------------------------------


def as_record(report: Report) -> dict[str, Any]:
    """Return a report as JSON values; the same keys always, absent ones null."""
    counts = report.counts
    return {
        "format": FORMAT,
        "ensemble": report.key.name,
        "settings_hash": report.key.settings_hash,
        "output": report.output,
        "time": datetime.fromtimestamp(report.time, timezone.utc).isoformat(timespec="seconds"),
        "counts": count_record(counts),
        "pending": {
            "blocked": counts.blocked,
            "pending": counts.pending,
            "dispatched": counts.dispatched,
        },
        "results": counts.results,
        "reasons": dict(counts.reasons),
        "first_failed": {found.reason: list(found.ids) for found in report.failures},
        "rate": report.rate,
        "eta": report.eta,
        "over": counts.unfinished == 0,
        "earlier_settings": [
            {"settings_hash": settings_hash, "counts": count_record(earlier)}
            for settings_hash, earlier in report.earlier
        ],
        "slurm": slurm_record(report.slurm),
        "kubernetes": kubernetes_record(report.kubernetes),
        "table": standing_record(report.standing),
    }


def count_record(counts: Counts) -> dict[str, int]:
    """Return counts by the statuses that users see."""
    return {
        "total": counts.total,
        "pending": counts.blocked + counts.pending + counts.dispatched,
        "running": counts.running,
        "complete": counts.complete,
        "empty": counts.empty,
        "failed": counts.failed,
    }


def render(report: Report, console: Console, file_option: str = "") -> str:
    """Return a report as text; ``file_option`` is what its hints need to name the ensemble."""
    rows = [_row(report.key.settings_hash, report.counts)]
    rows.extend(_row(settings_hash, counts) for settings_hash, counts in report.earlier)
    headers = ("settings", *COUNTED)
    parts = [
        f"{console.style(report.key.name, 'strong')} — {report.output}",
        render_table(headers, rows, right=COUNTED),
    ]
    if report.earlier:
        parts[-1] += (
            "\nthe first line has the settings of the file; earlier ones keep their results"
        )
    if facts := describe_standing(report.standing, file_option):
        parts.append("\n".join(facts))
    if report.rate and report.counts.unfinished:
        eta = f", done in about {format_duration(report.eta)}" if report.eta else ""
        parts.append(f"{format_rate(report.rate)}{eta}")
    if report.slurm is not None:
        parts.append(render_slurm_view(report.slurm))
    if report.kubernetes is not None:
        parts.append(render_view(report.kubernetes))
    failures = render_failures(report.failures, file_option)
    if failures:
        parts.append(failures)
    elif report.counts.pending and not report.counts.dispatched + report.counts.running:
        parts.append(f"nothing is running; `ensemble run{file_option}` runs what is pending")
    return "\n\n".join(parts)


def _row(settings_hash: str, counts: Counts) -> list[str]:
    record = count_record(counts)
    return [settings_hash[:8], *(f"{record[name]:,}" for name in COUNTED)]


def write_atomically(path: Path, record: dict[str, Any]) -> None:
    """Write JSON aside and rename it, so that nobody ever reads half of it."""
    aside = path.with_name(f".{path.name}.{time.time_ns()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): leave --write out, or send the output "
            "of --json somewhere else"
        ) from error


COMMAND = Command(
    name="status",
    summary="Show how many simulations of the table are pending, running, complete and failed.",
    example="ensemble status\nensemble status --json | jq .counts\nensemble status --watch",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={
        0: "shown; with --watch: all complete",
        1: "with --watch: all are over and some failed",
        2: "no such ensemble, or nothing registered yet",
        3: "stopped watching, or the index was lost on the way",
    },
)
