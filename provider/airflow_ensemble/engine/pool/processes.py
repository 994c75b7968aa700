"""The ``processes`` pool: simulations in separate, warm processes, as many at once as cores allow.

A crash, a hang or a flood costs the one simulation that did it its attempt: its process is
replaced and the others go on. Standard library only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.errors import ModelError
from airflow_ensemble.engine.pool import limits, pace, verdict
from airflow_ensemble.engine.pool.crew import Crew
from airflow_ensemble.engine.pool.limits import Limits
from airflow_ensemble.engine.pool.loading import Loading
from airflow_ensemble.engine.pool.pace import Pace
from airflow_ensemble.engine.pool.process import Process
from airflow_ensemble.engine.pool.spool import Spool
from airflow_ensemble.engine.pool.task import Began, Ended, Event, Task, Verdict
from airflow_ensemble.engine.pool.waiting import Waiting
from airflow_ensemble.engine.pool.watch import Watch
from airflow_ensemble.engine.recipe import Recipe
from airflow_ensemble.engine.simulation import Reason


class Processes:
    """Runs assignments of one recipe; use it as a context manager, from one thread.

    :param recipe: what every process loads.
    :param token: the worker's token, part of every product's name.
    :param cpus: cores that simulations may occupy at one time.
    """

    def __init__(self, recipe: Recipe, *, token: str, cpus: int) -> None:
        self.recipe = recipe
        self.cpus = cpus
        self._waiting = Waiting()
        self._events: list[Event] = []
        self._numbers = 0
        self._is_closed = False
        self._doomed: dict[int, Verdict] = {}
        self._pace = Pace()
        self._limits = Limits()
        self._loading = Loading(recipe.settings)
        self._failed_products = verdict.failed_products(recipe.settings)
        self._watch = Watch()
        self._crew = Crew(recipe, token, cpus, self._watch, self._on_results, self._on_death)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what a worker asks ---------------------------------------------------------------------

    @property
    def mean_duration(self) -> float | None:
        """Return how long recent simulations took on average, seconds; None before the first."""
        return self._pace.mean

    @property
    def waiting(self) -> int:
        """Return how many simulations have not begun."""
        ahead = sum(max(0, len(process.tasks) - 1) for process in self._crew)
        return len(self._waiting) + ahead

    @property
    def running(self) -> list[Task]:
        """Return the simulations that have begun and not ended."""
        return [process.tasks[0] for process in self._crew if process.tasks]

    @property
    def is_busy(self) -> bool:
        """Return whether there is anything to wait for."""
        return bool(self._events or self._waiting or self.running)

    def submit(self, assignments: Iterable[Assignment]) -> None:
        """Queue simulations; they begin in this order as far as their cores allow."""
        for assignment in assignments:
            task = self._new_task(assignment)
            if task.cores <= self.cpus:
                self._waiting.add(task)
                continue
            self._end_without_start(
                task,
                Reason.INVALID,
                f"it needs {task.cores} cores and the worker has {self.cpus}: give the worker "
                "more, or lower tasks or cores_per_task",
            )

    def wait(self, timeout: float) -> list[Event]:
        """Keep things going until something happens, and return what did.

        :param timeout: seconds after which an empty list is fine.
        :raises ModelError: when the model cannot be used at all.
        :raises EnsembleError: when the pool itself broke.
        """
        self._dispatch()
        if self._waiting and not self._events and self._pace.is_rapid(self._crew):
            time.sleep(pace.RAPID)  # one wake-up for many ends: all processes have enough to do
        self._watch.wait(self._patience(timeout))
        self._look_after()
        self._dispatch()
        events, self._events = self._events, []
        return events

    def cancel(self, ids: Collection[str] | None, reason: Reason, detail: str) -> None:
        """Stop simulations; what has begun ends with ``reason``, the rest likewise at once.

        :param ids: which ones; None is all.
        """
        for process in self._crew:
            if len(process.tasks) > 1:
                self._take_back(process)
        sent = [task for process in self._crew for task in process.tasks]
        for task in (*self._waiting, *sent):
            if ids is None or task.id in ids:
                self._doomed[task.number] = (reason, detail)
        self._end_doomed()

    def withdraw(self) -> list[Assignment]:
        """Return what no process has yet, and forget it: somebody else may run it."""
        self._end_doomed()
        return [task.assignment for task in self._waiting.take_all()]

    def stop(self, reason: Reason, detail: str) -> None:
        """Stop all that has begun and forget the rest, of which no event comes."""
        self._waiting.clear()
        for process in self._crew:
            while len(process.tasks) > 1:
                process.tasks.pop()
            if process.tasks:
                self._kill_for(process, process.tasks[0], reason, detail)

    def abandon(self, reason: Reason, detail: str) -> list[Event]:
        """Return what has happened and was not told, and end what has begun; nothing is awaited."""
        events, self._events = self._events, []
        now = time.monotonic()
        products = self._failed_products
        for process in self._crew:
            if process.tasks:
                task = process.tasks.popleft()
                lasted = now - task.clock
                events.append(
                    Ended(task.assignment, task.started, lasted, reason, detail, products)
                )
            process.tasks.clear()
        self._waiting.clear()
        return events

    def wake(self) -> None:
        """End the present :meth:`wait`; may be called from any thread and from signal handlers."""
        self._watch.wake()

    def close(self) -> None:
        """Kill what is left and remove the scratch directory; closing twice is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        self._crew.close()

    # --- dispatch -------------------------------------------------------------------------------

    def _new_task(self, assignment: Assignment) -> Task:
        own = assignment.simulation.time_limit
        self._numbers += 1
        return Task(self._numbers, assignment, self.recipe.time_limit if own is None else own)

    def _dispatch(self) -> None:
        while self._waiting:
            task = self._waiting.first_fit(self._crew.free_cores)
            if task is None:
                break
            process = self._crew.idle(task.cores)
            if process is None:
                if self._crew.n_loading >= len(self._waiting):
                    break
                self._crew.start(task.cores)
                continue
            self._waiting.remove(task)
            self._assign(process, task)
        self._send_ahead()

    def _send_ahead(self) -> None:
        depth = self._pace.depth(len(self._waiting), len(self._crew))
        if not depth:
            return
        now = time.monotonic()
        for process in self._crew:
            if not pace.may_get_more(process, depth, now):
                continue
            while len(process.tasks) < depth:
                task = self._waiting.take_next(process.cores)
                if task is None:
                    break
                self._assign(process, task)

    def _take_back(self, process: Process) -> None:
        self._waiting.put_back(process.take_back())
        self._watch.room(process)

    def _assign(self, process: Process, task: Task) -> None:
        self._numbers += 1
        task.sending = self._numbers
        process.tasks.append(task)
        if len(process.tasks) == 1:
            self._begin(task)
        process.send(task.message())
        self._watch.room(process)

    def _begin(self, task: Task) -> None:
        task.begin()
        self._events.append(Began(task.assignment, task.started))

    # --- what runs --------------------------------------------------------------------------------

    def _look_after(self) -> None:
        self._crew.reap()
        if self._doomed:
            self._end_doomed()
        for process, (reason, detail) in self._limits.broken(self._crew):
            self._kill_for(process, process.tasks[0], reason, detail)
        now = time.monotonic()
        for process in self._crew:
            if not process.is_ready:
                self._loading.watch(process)
                self._watch.log(process)
            elif process.tasks and now - process.tasks[0].clock > pace.LOG_DELAY:
                self._watch.log(process)
            if pace.holds_up_others(process, now):
                self._take_back(process)

    def _end_doomed(self) -> None:
        """End cancelled simulations: those that wait at once, those that run with their process.

        One that was sent ahead and could not be taken back is found here again.
        """
        for task in self._waiting.take_numbered(self._doomed):
            self._end_without_start(task, *self._doomed.pop(task.number))
        for process in self._crew:
            if process.tasks and process.tasks[0].number in self._doomed:
                task = process.tasks[0]
                self._kill_for(process, task, *self._doomed.pop(task.number))

    def _kill_for(self, process: Process, task: Task, reason: Reason, detail: str) -> None:
        if task.verdict is None:
            task.verdict = (reason, detail)
            self._crew.kill(process)

    def _patience(self, timeout: float) -> float:
        if self._events:
            return 0.0
        now = time.monotonic()
        for process in self._crew:
            if process.tasks:
                own = min(limits.patience(process.tasks[0], now), pace.patience(process))
                timeout = min(timeout, own)
        return max(0.0, timeout)

    # --- what happens ---------------------------------------------------------------------------

    def _on_results(self, process: Process) -> None:
        self._take_messages(process, process.inbox.read())
        if process.inbox.garbage is not None:
            self._watch.forget(process.inbox.descriptor)
            self._kill(process, f"it wrote garbage into the worker's pipe: {process.inbox.garbage}")
        elif process.inbox.is_over:
            self._watch.forget(process.inbox.descriptor)
            if process.tasks:
                # It has died, or the model closed the pipe: give the warden a moment to tell.
                task = process.tasks[0]
                task.is_cut_off = True
                task.deadline = min(task.deadline, time.monotonic() + 1.0)

    def _take_messages(self, process: Process, messages: Sequence[Mapping[str, Any]]) -> None:
        try:
            for message in messages:
                self._on_message(process, message)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            process.inbox.garbage = f"a message that makes no sense ({error!r})"

    def _kill(self, process: Process, why: str) -> None:
        if process.tasks:
            self._kill_for(process, process.tasks[0], Reason.CRASHED, why)
        else:
            self._crew.kill(process)

    def _on_message(self, process: Process, message: Mapping[str, Any]) -> None:
        if "task" in message:
            self._on_result(process, message)
        elif "ready" in message:
            process.is_ready = True
            self._watch.forget_log(process)
            self._loading.succeeded(process)
        elif "recalled" in message:
            self._on_given_back(process, process.give_back(message["recalled"]))
        else:
            raise ModelError(str(message["unusable"]))

    def _on_given_back(self, process: Process, tasks: list[Task]) -> None:
        for task in tasks:
            if task.verdict is not None:
                self._end_without_start(task, *task.verdict)
            task.clock, task.deadline = 0.0, float("inf")
        self._waiting.put_back([task for task in tasks if task.verdict is None])
        if process.tasks and not process.tasks[0].clock:
            self._begin(process.tasks[0])

    def _on_result(self, process: Process, message: Mapping[str, Any]) -> None:
        task = process.tasks[0]
        if message["task"] != task.sending:
            raise ValueError(f"task {message['task']!r} is not {task.sending}")
        result = verdict.parse_result(message)
        log = process.take_log()
        reason, detail = self._judge_result(task, result, log)
        if result.kept:
            log.write(_note_of_kept(result.kept))
        process.tasks.popleft()
        self._watch.forget_log(process)
        started, lasted, products = result.started, result.duration, result.products
        self._events.append(Ended(task.assignment, started, lasted, reason, detail, products, log))
        self._pace.note(lasted)
        if process.tasks:
            self._begin(process.tasks[0])

    def _on_death(self, process: Process, report: Mapping[str, Any]) -> None:
        self._take_messages(process, process.inbox.read_all())
        self._crew.remove(process)
        if process.tasks:
            self._charge(process, report)
            self._waiting.put_back(process.tasks)
        elif not process.is_ready:
            self._loading.failed(process, report)
        self._crew.bury(process)

    def _charge(self, process: Process, report: Mapping[str, Any]) -> None:
        """Charge the death of a process to the simulation that ran in it, and to no other."""
        task = process.tasks.popleft()
        log = process.take_log()
        judged = task.verdict or self._judge_death(task, report["status"])
        reason, detail = verdict.with_last_words(judged, log.last_words())
        kept = self._crew.keep_workdir(process, f"{task.id}.{task.assignment.attempt}")
        if kept is not None:
            log.write(_note_of_kept(kept))
        lasted = time.monotonic() - task.clock
        products = self._failed_products
        self._events.append(
            Ended(task.assignment, task.started, lasted, reason, detail, products, log)
        )

    def _judge_result(
        self, task: Task, result: verdict.Result, log: Spool
    ) -> tuple[Reason | None, str]:
        if result.reason is None:
            return None, result.detail
        judged = (result.reason, result.detail)
        if result.was_killed:
            ran_out = self._limits.ran_out_of_memory(task)
            judged = verdict.verdict_of_kill(result.detail, ran_out)
        # A Python model's exception says more than what it printed.
        is_command = bool(self.recipe.settings.command)
        return verdict.with_last_words(judged, log.last_words()) if is_command else judged

    def _judge_death(self, task: Task, status: int) -> Verdict:
        return verdict.verdict_of_death(
            status, ran_out_of_memory=self._limits.ran_out_of_memory(task)
        )

    def _end_without_start(self, task: Task, reason: Reason, detail: str) -> None:
        products = self._failed_products
        self._events.append(Ended(task.assignment, time.time(), 0.0, reason, detail, products))


def _note_of_kept(workdir: str | os.PathLike[str]) -> bytes:
    return f"\nENSEMBLE_KEEP_WORKDIR is set: {os.fspath(workdir)} is kept\n".encode()
