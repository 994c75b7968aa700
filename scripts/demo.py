"""``make demo`` and ``make ui``: real footprints, computed by a real Airflow on this machine.

``demo.py`` starts an Airflow of its own in ``.airflow``, runs the DAG ``footprints``, shows how far
it is, and says what it made and where; results go to ``demo-output``. Its exit code is 0 only when
every simulation has run and none failed. ``demo.py --ui`` starts the same Airflow and leaves it up
until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_airflow import FINISHED, AirflowError, Client, LocalAirflow, exit_on_signals
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from airflow_ensemble.engine.collect import open_collection, summarize
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import Ensemble, load
from airflow_ensemble.engine.errors import OutputIndexError
from airflow_ensemble.engine.index.interface import Counts, Scope, batch_id
from airflow_ensemble.engine.simulation import Status
from airflow_ensemble.models.stilt_map import plot_map

ROOT = Path(__file__).resolve().parent.parent
DAG = GROUP = "footprints"
FAILED, INTERRUPTED = 1, 3
#: Seconds between two lines about progress where there is no terminal.
LINE_INTERVAL = 5.0
#: How lines of a task's log begin that say nothing to people.
NOISE = ("::", "Task failed with exception")


def main() -> int:
    """Run the demo, or the user interface, as the command line says."""
    arguments = _parse_arguments()
    exit_on_signals()
    console = Console()
    try:
        if arguments.ui:
            return show_ui(arguments, console)
        return run_demo(arguments, console)
    except KeyboardInterrupt:
        console.print("\nstopped; what is complete is kept, the next run goes on from there")
        return INTERRUPTED
    except AirflowError as error:
        console.print(str(error), markup=False, highlight=False)
        return FAILED


def run_demo(arguments: argparse.Namespace, console: Console) -> int:
    """Start Airflow, run the DAG, report; return the exit code."""
    deadline = time.monotonic() + arguments.deadline
    ensemble = load(ROOT / "dags/footprints/ensemble.yaml", {"output": str(output(arguments))})
    by_hand = {"ENSEMBLE_SCHEDULE": ""}
    with started(arguments, console, by_hand) as airflow, airflow.client() as client:
        client.await_dag(DAG)
        client.unpause(DAG)
        run = client.trigger(DAG, form(arguments))
        console.print(f"started run {run} of DAG {DAG}")
        state = Watch(airflow, client, ensemble, run, console).follow(deadline)
        ok = report(client, ensemble, run, state, console)
    console.print("look at the run in Airflow: [bold]make ui[/bold]")
    return 0 if ok else FAILED


def form(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the DAG's parameters that the command line gives."""
    return {"receptors": str(arguments.receptors)} if arguments.receptors else {}


def show_ui(arguments: argparse.Namespace, console: Console) -> int:
    """Start Airflow and leave it up until Ctrl-C or a component's death."""
    with started(arguments, console, {}) as airflow:
        console.print(f"\n  open      {airflow.url}/dags/{DAG}")
        console.print(f"  user      admin\n  password  {airflow.password}", highlight=False)
        console.print("\nCtrl-C ends it.")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                airflow.check()
                time.sleep(1)
    return 0


@contextlib.contextmanager
def started(
    arguments: argparse.Namespace, console: Console, variables: dict[str, str]
) -> Iterator[LocalAirflow]:
    """Run an Airflow on SQLite inside the checkout while the block runs."""
    environment = {
        "ENSEMBLE_HOME": str(arguments.results),
        # Idealised meteorology is kept here, too: nothing is written outside the checkout.
        "XDG_CACHE_HOME": str(arguments.home / "cache"),
        **variables,
    }
    console.print("starting Airflow (scheduler, API server, DAG processor, triggerer) …")
    begin = time.monotonic()
    with LocalAirflow(arguments.home, ROOT / "dags", environment=environment) as airflow:
        console.print(f"Airflow is up at {airflow.url} after {time.monotonic() - begin:.0f} s")
        try:
            yield airflow
        finally:
            console.print("stopping Airflow …")


def output(arguments: argparse.Namespace) -> Path:
    """Return where the DAG puts its results."""
    return Path(arguments.results) / "output"


# --- watching -----------------------------------------------------------------------------------


@dataclass
class Watch:
    """Follows one run by the output index, which knows each simulation, and by Airflow."""

    airflow: LocalAirflow
    client: Client
    ensemble: Ensemble
    run: str
    console: Console
    counts: Counts = field(default_factory=Counts)
    _control: Control | None = None
    _began: float | None = None
    _done_before: int = 0

    def follow(self, deadline: float) -> str:
        """Show progress until the run has ended; return its state.

        :raises AirflowError: when a component dies, or the deadline passes.
        """
        show = self._follow_bar if self.console.is_terminal else self._follow_lines
        try:
            return show(deadline)
        finally:
            if self._control is not None:
                self._control.index.close()

    def _states(self, deadline: float) -> Iterator[str]:
        while True:
            self.airflow.check()
            state = self.client.run_state(DAG, self.run)
            self.counts = self._count()
            yield state
            if state in FINISHED:
                return
            if time.monotonic() > deadline:
                raise AirflowError(f"run {self.run} had not ended at the deadline: {self.line()}")
            time.sleep(1)

    def _follow_bar(self, deadline: float) -> str:
        columns = (BarColumn(), TextColumn("{task.fields[line]}"))
        state = ""
        with Progress(*columns, console=self.console) as progress:
            bar: TaskID = progress.add_task("", total=None, line="waiting for the registration")
            for current in self._states(deadline):
                state = current
                if self.counts.total:
                    done = self.counts.complete + self.counts.failed
                    total = self.counts.total
                    progress.update(bar, completed=done, total=total, line=self.line())
        return state

    def _follow_lines(self, deadline: float) -> str:
        state, shown, last = "", "", 0.0
        for state in self._states(deadline):
            line = self.line()
            due = time.monotonic() - last > LINE_INTERVAL or state in FINISHED
            if self.counts.total and due and line != shown:
                self.console.print(line, highlight=False)
                shown, last = line, time.monotonic()
        return state

    def _count(self) -> Counts:
        try:
            if self._control is None:
                self._control = open_control(self.ensemble)
            key = f"{DAG}/{self.run}/{GROUP}"
            batch = batch_id(self.ensemble.name, self.ensemble.settings.hash, key)
            counts = self._control.index.counts(self._control.key, Scope(batch=batch))
        except (OutputIndexError, LookupError, ValueError):
            return self.counts
        if self._began is None and counts.total:
            self._began, self._done_before = time.monotonic(), counts.complete + counts.failed
        return counts

    def line(self) -> str:
        """Return the counts, the rate and the remaining time in one line."""
        c = self.counts
        text = (
            f"{c.complete} of {c.total} complete ({c.empty} empty), {c.failed} failed, "
            f"{c.running} running"
        )
        done = c.complete + c.failed - self._done_before
        if self._began is None or done <= 0 or not c.unfinished:
            return text
        rate = done / (time.monotonic() - self._began)
        return f"{text}, {rate * 60:.0f} a minute, {c.unfinished / rate:.0f} s to go"


# --- reporting ----------------------------------------------------------------------------------


def report(client: Client, ensemble: Ensemble, run: str, state: str, console: Console) -> bool:
    """Say what the run made, or why it failed; return whether all is well."""
    registration = _registration(client, run)
    if registration is None:
        _explain_failure(client, run, console)
        return False
    with open_control(ensemble) as control:
        counts = control.index.counts(control.key, Scope(batch=registration["batch"]))
        _print_outcome(registration, counts, console)
        console.print(products_table(control))
        for line in failed_lines(control):
            console.print(line, markup=False, soft_wrap=True)
        console.print(f"products: {ensemble.output}/{ensemble.recipe().hash8}", soft_wrap=True)
        if counts.complete:
            picture = draw_map(control, Path(ensemble.output).parent / "footprints.png")
            console.print(f"map of the summed footprint: {picture}", soft_wrap=True)
    ok = state == "success" and counts.total > 0 and not counts.failed and not counts.unfinished
    if state != "success":
        _explain_failure(client, run, console)
    return ok


def products_table(control: Control) -> Table:
    """Return a table of the ensemble's products: what there is, how many files, how large."""
    table = Table("product", "complete", "empty", "size", title=f"{control.ensemble.name}")
    for row in summarize(control.index.results(control.key)):
        size = f"{row.bytes / 1e6:.2f} MB"
        table.add_row(row.product, str(row.complete), str(row.empty), size)
    return table


def draw_map(control: Control, target: Path) -> Path:
    """Draw the footprints of all receptors, summed, as a PNG file."""
    dataset = open_collection(control.index.results(control.key), control.root, ["footprint"])
    with dataset:
        return plot_map(dataset, target)


def failed_lines(control: Control) -> list[str]:
    """Return a line for each of the first failed simulations."""
    failed = control.index.simulations(control.key, Scope(statuses=(Status.FAILED,)), limit=20)
    return [
        f"{info.simulation.id} failed: {info.reason.value if info.reason else '?'}: {info.detail}"
        for info in failed
    ]


def _print_outcome(registration: dict[str, Any], counts: Counts, console: Console) -> None:
    kept, total = registration["complete"], registration["total"]
    if kept == total:
        console.print(f"all {total} simulations were complete already: skipped, nothing was run")
    elif kept:
        console.print(f"{kept} of {total} simulations were complete already and skipped")
    console.print(
        f"{counts.complete} complete ({counts.empty} empty), {counts.failed} failed, "
        f"{counts.unfinished} unfinished of {counts.total}"
    )


def _registration(client: Client, run: str) -> dict[str, Any] | None:
    try:
        return dict(client.xcom(DAG, run, f"{GROUP}.register"))
    except AirflowError:
        return None


def _explain_failure(client: Client, run: str, console: Console) -> None:
    for task in client.tasks(DAG, run):
        if task["state"] == "failed":
            name, index = task["task_id"], task["map_index"]
            log = client.log(DAG, run, name, index, task["try_number"])
            said = [line for line in log.splitlines() if not line.startswith(NOISE)]
            console.print(f"task {name} [{index}] failed; its log ends:", markup=False)
            console.print("\n".join(said[-15:]), markup=False, highlight=False, soft_wrap=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compute real footprints with a local Airflow.")
    parser.add_argument("--ui", action="store_true", help="start Airflow and leave it up")
    parser.add_argument(
        "--deadline", type=float, default=1800, help="seconds until the run must have ended"
    )
    parser.add_argument("--home", type=Path, default=ROOT / ".airflow", help="AIRFLOW_HOME")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "demo-output", help="where the results go"
    )
    parser.add_argument("--receptors", type=Path, help="another table of receptors than the demo's")
    arguments = parser.parse_args()
    arguments.home, arguments.results = arguments.home.resolve(), arguments.results.resolve()
    arguments.receptors = arguments.receptors and arguments.receptors.resolve()
    return arguments


if __name__ == "__main__":
    sys.exit(main())
