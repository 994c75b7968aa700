"""The ``processes`` pool: simulations in separate, warm processes, as many at once as cores allow.

A crash, a hang or a flood costs the one simulation that did it its attempt: its process is
replaced and the others go on. Standard library only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shutil
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.command import signal_name
from airflow_ensemble.engine.errors import ModelError
from airflow_ensemble.engine.model import remove_workdir
from airflow_ensemble.engine.pool import process_tree
from airflow_ensemble.engine.pool.memory_kills import MemoryKills
from airflow_ensemble.engine.pool.process import Process
from airflow_ensemble.engine.pool.task import Began, Ended, Event, Task
from airflow_ensemble.engine.pool.warden_link import WardenLink
from airflow_ensemble.engine.pool.workdir import keep_workdir, workdir_of_dead
from airflow_ensemble.engine.recipe import Recipe
from airflow_ensemble.engine.simulation import Product, ProductStatus, Reason

logger = logging.getLogger(__name__)

#: Simulations shorter than this (seconds) on average are sent ahead of time.
SHORT = 0.02
#: Seconds of work that are sent ahead, and how many simulations at most.
AHEAD = 0.05
MAX_AHEAD = 512
#: Seconds that a simulation may hold up others sent to the same process.
HOLD_UP = 0.05
#: Seconds to let ends come together when simulations are much shorter than this.
RAPID = 0.002
#: Seconds after which the output of a running simulation is read as it comes.
LOG_DELAY = 0.005
MEMORY_INTERVAL = 0.25
LOAD_LIMIT = 600.0
MAX_LOAD_FAILURES = 3

_MEBIBYTE = 1 << 20
_LOOK_AHEAD = 1000
_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Processes:
    """Runs assignments of one recipe; use it as a context manager, from one thread.

    :param recipe: what every process loads.
    :param token: the worker's token, part of every product's name.
    :param cpus: cores that simulations may occupy at one time.
    """

    def __init__(self, recipe: Recipe, *, token: str, cpus: int) -> None:
        self.recipe = recipe
        self.cpus = cpus
        self._token = token
        self._queue: deque[Task] = deque()
        self._processes: dict[int, Process] = {}
        self._events: list[Event] = []
        self._numbers = 0
        self._is_closed = False
        self._doomed: dict[int, tuple[Reason, str]] = {}
        self._mean: float | None = None
        self._recent: deque[float] = deque(maxlen=16)
        self._load_failures = 0
        self._memory_kills = MemoryKills()
        self._next_memory = 0.0
        self._scratch, self._keep_scratch = make_scratch()
        self._warden = WardenLink(None if self._keep_scratch else self._scratch)
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = os.pipe()
        for descriptor in (self._wake, self._waker):
            os.set_blocking(descriptor, False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_wake)
        self._selector.register(self._warden, selectors.EVENT_READ, self._on_warden)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what a worker asks ---------------------------------------------------------------------

    @property
    def mean_duration(self) -> float | None:
        """Return how long recent simulations took on average, seconds; None before the first."""
        return self._mean

    @property
    def waiting(self) -> int:
        """Return how many simulations have not begun."""
        ahead = sum(max(0, len(process.tasks) - 1) for process in self._processes.values())
        return len(self._queue) + ahead

    @property
    def running(self) -> list[Task]:
        """Return the simulations that have begun and not ended."""
        return [process.tasks[0] for process in self._processes.values() if process.tasks]

    @property
    def is_busy(self) -> bool:
        """Return whether there is anything to wait for."""
        return bool(self._events or self._queue or self.running)

    def submit(self, assignments: Iterable[Assignment]) -> None:
        """Queue simulations; they begin in this order as far as their cores allow."""
        for assignment in assignments:
            task = self._new_task(assignment)
            if task.cores <= self.cpus:
                self._queue.append(task)
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
        if self._is_rapid():
            time.sleep(RAPID)  # one wake-up for many ends, while all processes have enough to do
        for key, _ in self._selector.select(self._patience(timeout)):
            key.data()
        self._watch()
        self._dispatch()
        events, self._events = self._events, []
        return events

    def cancel(self, ids: Collection[str] | None, reason: Reason, detail: str) -> None:
        """Stop simulations; what has begun ends with ``reason``, the rest likewise at once.

        :param ids: which ones; None is all.
        """
        for process in self._processes.values():
            if len(process.tasks) > 1:
                self._take_back(process)
        sent = [task for process in self._processes.values() for task in process.tasks]
        for task in (*self._queue, *sent):
            if ids is None or task.id in ids:
                self._doomed[task.number] = (reason, detail)
        self._end_doomed()

    def stop(self, reason: Reason, detail: str) -> None:
        """Stop all that has begun and forget the rest, of which no event comes."""
        self._queue.clear()
        for process in self._processes.values():
            while len(process.tasks) > 1:
                process.tasks.pop()
            if process.tasks:
                self._kill_for(process, process.tasks[0], reason, detail)

    def abandon(self, reason: Reason, detail: str) -> list[Event]:
        """Return what has happened and was not told, and end what has begun; nothing is awaited."""
        events, self._events = self._events, []
        products = self._failed_products()
        now = time.monotonic()
        for process in self._processes.values():
            if process.tasks:
                task = process.tasks.popleft()
                lasted = now - task.clock
                events.append(
                    Ended(task.assignment, task.started, lasted, reason, detail, products)
                )
            process.tasks.clear()
        self._queue.clear()
        return events

    def wake(self) -> None:
        """End the present :meth:`wait`; may be called from any thread and from signal handlers."""
        with contextlib.suppress(OSError):
            if not self._is_closed:
                os.write(self._waker, b"!")

    def close(self) -> None:
        """Kill what is left and remove the scratch directory; closing twice is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        self._warden.close()
        self._selector.close()
        left = list(self._processes.values())
        for process in left:
            process.close()
        self._processes.clear()
        for descriptor in (self._wake, self._waker):
            os.close(descriptor)
        if self._keep_scratch:
            for process in left:
                remove_workdir(self._folder(process))
            with contextlib.suppress(OSError):
                self._scratch.rmdir()
        else:  # the warden did it already, unless it was killed
            shutil.rmtree(self._scratch, ignore_errors=True)

    # --- dispatch -------------------------------------------------------------------------------

    def _new_task(self, assignment: Assignment) -> Task:
        own = assignment.simulation.time_limit
        self._numbers += 1
        return Task(self._numbers, assignment, self.recipe.time_limit if own is None else own)

    def _dispatch(self) -> None:
        while self._queue:
            position = self._first_fit()
            if position is None:
                break
            process = self._idle(self._queue[position].cores)
            if process is None:
                starting = sum(not process.is_ready for process in self._processes.values())
                if starting >= len(self._queue):
                    break
                self._start(self._queue[position].cores)
                continue
            task = self._queue[position]
            del self._queue[position]
            self._assign(process, task)
        usual = self._usual_duration()
        if self._queue and usual < SHORT:
            self._send_ahead(usual)

    def _first_fit(self) -> int | None:
        busy = sum(
            process.cores
            for process in self._processes.values()
            if process.tasks or not process.is_ready
        )
        free = self.cpus - busy
        if free <= 0:
            return None
        for position, task in enumerate(self._queue):
            if task.cores <= free:
                return position
            if position >= _LOOK_AHEAD:
                break
        return None

    def _idle(self, cores: int) -> Process | None:
        for process in self._processes.values():
            if process.is_idle and process.cores == cores:
                return process
        return None

    def _usual_duration(self) -> float:
        """Return the median of the last durations: a busy machine makes some of them long."""
        if len(self._recent) < 3:
            return SHORT
        return sorted(self._recent)[len(self._recent) // 2]

    def _send_ahead(self, usual: float) -> None:
        fair = len(self._queue) // len(self._processes)
        now = time.monotonic()
        depth = min(MAX_AHEAD, int(AHEAD / max(usual, 1e-6)), fair + 1)
        for process in self._processes.values():
            if not process.tasks or len(process.tasks) > depth // 2 or process.is_full:
                continue
            if now - process.tasks[0].clock > HOLD_UP:
                continue
            while self._queue and len(process.tasks) < depth:
                if self._queue[0].cores != process.cores or process.tasks[0].verdict:
                    break
                self._assign(process, self._queue.popleft())

    def _assign(self, process: Process, task: Task) -> None:
        self._numbers += 1
        task.sending = self._numbers
        process.tasks.append(task)
        if len(process.tasks) == 1:
            self._begin(task)
        process.send(task.message())
        self._watch_room(process)

    def _begin(self, task: Task) -> None:
        task.started, task.clock = time.time(), time.monotonic()
        if task.time_limit is not None:
            task.deadline = task.clock + task.time_limit
        self._events.append(Began(task.assignment, task.started))

    # --- processes ------------------------------------------------------------------------------

    def _start(self, cores: int) -> None:
        idle = [process for process in self._processes.values() if process.is_idle]
        if idle and len(self._processes) >= self.cpus:
            idle[0].leave()
        self._numbers += 1
        process = Process(self._numbers, cores, self._scratch)
        environment = {name: str(cores) for name in _THREAD_LIMITS if name not in os.environ}
        self._processes[process.number] = process
        process.hand_over(lambda ends: self._warden.start(process.number, ends, environment))
        self._selector.register(
            process.inbox.descriptor, selectors.EVENT_READ, lambda: self._on_results(process)
        )
        process.send(
            {
                "recipe": self.recipe.as_dict(),
                "token": self._token,
                "scratch": str(self._folder(process)),
                "log_end": process.log_end,
            }
        )
        self._watch_room(process)

    def _folder(self, process: Process) -> Path:
        return self._scratch / str(process.number)

    def _kill_for(self, process: Process, task: Task, reason: Reason, detail: str) -> None:
        if task.verdict is None:
            task.verdict = (reason, detail)
            self._warden.kill(process.number)

    def _watch(self) -> None:
        now = time.monotonic()
        self._memory_kills.look()
        if self._doomed:
            self._end_doomed()
        for process in list(self._processes.values()):
            if not process.is_ready:
                self._watch_loading(process, now)
                self._watch_log(process)
            if not process.tasks:
                continue
            task = process.tasks[0]
            if now - task.clock > LOG_DELAY:
                self._watch_log(process)
            if now >= task.deadline:
                limit = task.time_limit
                detail = f"it ran longer than its time limit of {limit:g} s"
                self._kill_for(process, task, Reason.TIMEOUT, detail)
            if len(process.tasks) > 1 and now - task.clock > HOLD_UP:
                self._take_back(process)
        if now >= self._next_memory:
            self._next_memory = now + MEMORY_INTERVAL
            self._watch_memory()

    def _take_back(self, process: Process) -> None:
        self._queue.extendleft(reversed(process.take_back()))
        self._watch_room(process)

    def _end_doomed(self) -> None:
        """End cancelled simulations: those that wait at once, those that run with their process.

        One that was sent ahead and could not be taken back is found here again.
        """
        for task in [task for task in self._queue if task.number in self._doomed]:
            self._queue.remove(task)
            self._end_without_start(task, *self._doomed.pop(task.number))
        for process in self._processes.values():
            if process.tasks and process.tasks[0].number in self._doomed:
                task = process.tasks[0]
                self._kill_for(process, task, *self._doomed.pop(task.number))

    def _watch_memory(self) -> None:
        for process in self._processes.values():
            if not process.tasks or process.tasks[0].assignment.simulation.resources.memory is None:
                continue
            task = process.tasks[0]
            limit = task.assignment.simulation.resources.memory or 0
            if process_tree.memory_of_tree(process.pid) <= limit * _MEBIBYTE:
                continue
            used = process_tree.exact_memory_of_tree(process.pid)
            if used > limit * _MEBIBYTE:
                detail = f"it held {used // _MEBIBYTE} MiB and declared {limit} MiB of memory"
                self._kill_for(process, task, Reason.OUT_OF_MEMORY, detail)

    def _watch_loading(self, process: Process, now: float) -> None:
        if now - process.born > LOAD_LIMIT and not process.is_leaving:
            raise ModelError(
                f"{self._model_name()} was not loaded after {LOAD_LIMIT:g} s: {self._said(process)}"
            )

    def _is_rapid(self) -> bool:
        usual = self._usual_duration()
        if self._events or usual > RAPID / 4 or not self._queue:
            return False
        enough = 2 * RAPID / max(usual, 1e-6)
        return all(
            len(process.tasks) >= min(enough, MAX_AHEAD // 4)
            for process in self._processes.values()
        )

    def _patience(self, timeout: float) -> float:
        if self._events:
            return 0.0
        now = time.monotonic()
        for process in self._processes.values():
            if not process.tasks:
                continue
            task = process.tasks[0]
            timeout = min(timeout, task.deadline - now if task.verdict is None else timeout)
            if len(process.tasks) > 1:
                timeout = min(timeout, HOLD_UP)
            if not process.is_log_watched:
                timeout = min(timeout, LOG_DELAY)
            if task.assignment.simulation.resources.memory is not None:
                timeout = min(timeout, MEMORY_INTERVAL)
        return max(0.0, timeout)

    # --- what happens ---------------------------------------------------------------------------

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)

    def _on_room(self, process: Process) -> None:
        process.flush()
        if not process.is_full:
            self._forget(process.descriptor_for_tasks)

    def _watch_room(self, process: Process) -> None:
        """Send the rest of what the process's pipe did not take at once, as it takes it."""
        if process.is_full and process.descriptor_for_tasks not in self._selector.get_map():
            self._selector.register(
                process.descriptor_for_tasks, selectors.EVENT_WRITE, lambda: self._on_room(process)
            )

    def _watch_log(self, process: Process) -> None:
        # Short simulations are not worth a wake-up of their own: their end tells in time.
        if not process.is_log_watched and process.log >= 0:
            process.is_log_watched = True
            self._selector.register(
                process.log, selectors.EVENT_READ, lambda: self._on_log(process)
            )

    def _unwatch_log(self, process: Process) -> None:
        if process.is_log_watched:
            process.is_log_watched = False
            self._forget(process.log)

    def _on_log(self, process: Process) -> None:
        if not process.read_log():
            self._forget(process.log)
            process.close_log()

    def _on_results(self, process: Process) -> None:
        if process.number not in self._processes:
            return
        self._take_messages(process, process.inbox.read())
        if process.inbox.garbage is not None:
            self._forget(process.inbox.descriptor)
            self._kill(process, f"it wrote garbage into the worker's pipe: {process.inbox.garbage}")
        elif process.inbox.is_over:
            self._forget(process.inbox.descriptor)
            if process.tasks:
                # It has died, or the model closed the pipe: give the warden a moment to tell.
                task = process.tasks[0]
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
            self._warden.kill(process.number)

    def _on_message(self, process: Process, message: Mapping[str, Any]) -> None:
        if "task" in message:
            self._on_result(process, message)
        elif "ready" in message:
            process.is_ready = True
            self._unwatch_log(process)
            self._load_failures = 0
            process.take_log().close()
        elif "recalled" in message:
            self._on_given_back(process, process.give_back(message["recalled"]))
        else:
            raise ModelError(str(message["unusable"]))

    def _on_given_back(self, process: Process, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            if task.verdict is not None:
                self._end_without_start(task, *task.verdict)
                continue
            task.clock, task.deadline = 0.0, float("inf")
            self._queue.appendleft(task)
        if process.tasks and not process.tasks[0].clock:
            self._begin(process.tasks[0])

    def _on_result(self, process: Process, message: Mapping[str, Any]) -> None:
        task = process.tasks[0]
        if message["task"] != task.sending:
            raise ValueError(f"task {message['task']!r} is not {task.sending}")
        ended = self._judge(task, message, process)
        process.tasks.popleft()
        self._unwatch_log(process)
        self._events.append(ended)
        mean = ended.duration if self._mean is None else self._mean
        self._mean = 0.8 * mean + 0.2 * ended.duration
        self._recent.append(ended.duration)
        if process.tasks:
            self._begin(process.tasks[0])

    def _judge(self, task: Task, message: Mapping[str, Any], process: Process) -> Ended:
        reason = Reason(message["reason"]) if message.get("reason") else None
        detail = str(message.get("detail") or "")
        products = tuple(Product.from_dict(product) for product in message.get("products", ()))
        started, duration = float(message["started"]), float(message["duration"])
        log = process.take_log()
        if message.get("signal") == signal.SIGKILL:
            reason, detail = self._kill_reason(task, detail)
        elif reason is Reason.ERROR and self.recipe.settings.command:
            detail = f"{detail}: {log.last_line()}" if log else detail
        return Ended(task.assignment, started, duration, reason, detail, products, log)

    def _on_warden(self) -> None:
        for report in self._warden.reports():
            if "pid" in report:
                self._processes[report["started"]].pid = report["pid"]
            elif report["ended"] in self._processes:
                self._on_death(self._processes[report["ended"]], report)

    def _on_death(self, process: Process, report: Mapping[str, Any]) -> None:
        self._take_messages(process, process.inbox.read_all())
        del self._processes[process.number]
        for descriptor in (process.inbox.descriptor, process.log, process.descriptor_for_tasks):
            self._forget(descriptor)
        if process.tasks:
            self._charge(process, report)
            self._queue.extendleft(reversed(process.tasks))
        elif not process.is_ready:
            self._on_load_failure(process, report)
        process.close()
        folder = self._folder(process)
        threading.Thread(target=remove_workdir, args=[folder], daemon=True).start()

    def _charge(self, process: Process, report: Mapping[str, Any]) -> None:
        """Charge the death of a process to the simulation that ran in it, and to no other."""
        task = process.tasks.popleft()
        log = process.take_log()
        reason, detail = task.verdict or self._death_reason(task, report["status"])
        if self._keep_scratch:
            place = self._scratch / f"{task.id}.{task.assignment.attempt}"
            kept = keep_workdir(workdir_of_dead(self._folder(process)), place)
            log.write(f"\nENSEMBLE_KEEP_WORKDIR is set: {kept} is kept\n".encode())
        duration = time.monotonic() - task.clock
        products = self._failed_products()
        self._events.append(
            Ended(task.assignment, task.started, duration, reason, detail, products, log)
        )

    def _death_reason(self, task: Task, status: int) -> tuple[Reason, str]:
        if status >= 0:
            return Reason.CRASHED, f"its process ended with exit status {status} before it was done"
        if status == -signal.SIGKILL:
            return self._kill_reason(task, "its process was killed by SIGKILL")
        return Reason.CRASHED, f"its process was killed by {signal_name(-status)}"

    def _kill_reason(self, task: Task, detail: str) -> tuple[Reason, str]:
        if self._memory_kills.happened_since(task.clock):
            return Reason.OUT_OF_MEMORY, f"{detail}: the kernel ran out of memory"
        return Reason.CRASHED, detail

    def _on_load_failure(self, process: Process, report: Mapping[str, Any]) -> None:
        if process.is_leaving:
            return
        self._load_failures += 1
        status = report["status"]
        how = f"killed by {signal_name(-status)}" if status < 0 else f"exit status {status}"
        what = report.get("why") or self._said(process)
        message = f"{self._model_name()}: its process ended while loading it ({how}): {what}"
        if self._load_failures >= MAX_LOAD_FAILURES:
            raise ModelError(message)
        logger.warning("%s; trying again", message)

    def _end_without_start(self, task: Task, reason: Reason, detail: str) -> None:
        products = self._failed_products()
        now = time.time()
        self._events.append(Ended(task.assignment, now, 0.0, reason, detail, products))

    def _failed_products(self) -> tuple[Product, ...]:
        names = (spec.name for spec in self.recipe.settings.products)
        return tuple(Product(name, ProductStatus.FAILED) for name in names)

    def _model_name(self) -> str:
        settings = self.recipe.settings
        return f"model {settings.model!r}" if settings.model else f"command {settings.command[0]!r}"

    def _said(self, process: Process) -> str:
        log = process.take_log()
        try:
            return log.last_line() or "it printed nothing"
        finally:
            log.close()

    def _forget(self, descriptor: int) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(descriptor)


def make_scratch() -> tuple[Path, bool]:
    """Make this worker's directory for working directories.

    :return: the directory, and whether it must be kept in the end.
    """
    parent = os.environ.get("ENSEMBLE_SCRATCH") or tempfile.gettempdir()
    Path(parent).mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="ensemble-", dir=parent)).resolve()
    return scratch, bool(os.environ.get("ENSEMBLE_KEEP_WORKDIR"))
