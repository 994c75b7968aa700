"""The process in which simulations run, one after the other, with the model loaded once.

It reads tasks from one pipe and writes results to another; both close when it starts a program, and
neither is standard input, output or error, which belong to the model. Its standard output and error
go to the worker, which keeps them as the simulation's log. Standard library only.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from airflow_ensemble.engine import storage
from airflow_ensemble.engine.errors import EnsembleError, ModelError
from airflow_ensemble.engine.model import Model, Result, Run, execute, load_model
from airflow_ensemble.engine.parameters import take_apart
from airflow_ensemble.engine.pool import process_tree
from airflow_ensemble.engine.pool.channel import Inbox, render, send
from airflow_ensemble.engine.pool.spool import end_mark
from airflow_ensemble.engine.pool.task import execution_token
from airflow_ensemble.engine.pool.workdir import Workdirs
from airflow_ensemble.engine.recipe import Recipe
from airflow_ensemble.engine.simulation import Reason, derive_seed

#: Seconds to wait for killed processes to disappear before the next simulation.
_REAP_LIMIT = 2.0


def main(task_pipe: int, result_pipe: int) -> None:
    """Run tasks until the pipe ends; never returns.

    :param task_pipe: descriptor to read tasks from; the first line says what to load.
    :param result_pipe: descriptor to write results to.
    """
    process_tree.die_with_parent()
    process_tree.adopt_orphans()
    for descriptor in (task_pipe, result_pipe):
        os.set_inheritable(descriptor, False)
    faulthandler.enable()
    streams = Streams()
    tasks = TaskQueue(task_pipe, result_pipe)
    greeting = tasks.next()
    if greeting is not None:
        _serve(greeting, tasks, streams, result_pipe)
    os._exit(0)


class TaskQueue:
    """Tasks that the worker has sent ahead, less those that it has taken back."""

    def __init__(self, task_pipe: int, result_pipe: int) -> None:
        os.set_blocking(task_pipe, False)
        self._inbox = Inbox(task_pipe)
        self._result_pipe = result_pipe
        self._waiting: deque[dict[str, Any]] = deque()

    def next(self) -> dict[str, Any] | None:
        """Return the next task, waiting for it; None when the worker is gone."""
        # What was taken back must be known before the next task begins: the worker relies on it.
        self._take(self._inbox.read_all())
        while not self._waiting:
            if self._inbox.is_over:
                return None
            select.select([self._inbox.descriptor], [], [])
            self._take(self._inbox.read_all())
        return self._waiting.popleft()

    def _take(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            if "recall" not in message:
                self._waiting.append(message)
                continue
            recalled = set(message["recall"])
            gone = [task["task"] for task in self._waiting if task["task"] in recalled]
            self._waiting = deque(t for t in self._waiting if t["task"] not in recalled)
            send(self._result_pipe, render({"recalled": gone}))


class Streams:
    """The model's standard streams, put back before each simulation whatever the last one did."""

    def __init__(self) -> None:
        # Descriptors below 64 are what a careless model closes or writes to.
        self._log = _high_copy(1)
        self._null = _high_copy(0)
        sys.stdout = self._out = open(  # noqa: SIM115
            1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False
        )
        sys.stderr = self._err = open(  # noqa: SIM115
            2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
        )
        self._flush_libraries = _flush_of_libc()

    def restore(self) -> None:
        """Make standard input empty, and output and error the log again."""
        os.dup2(self._null, 0)
        os.dup2(self._log, 1)
        os.dup2(self._log, 2)
        if self._out.closed or self._err.closed:
            self._reopen()
        sys.stdout, sys.stderr = self._out, self._err

    def flush(self) -> None:
        """Bring everything that was printed into the log."""
        for stream in (sys.stdout, sys.stderr, self._out, self._err):
            with contextlib.suppress(Exception):
                stream.flush()
        self._flush_libraries()

    def end_log(self, secret: str) -> None:
        """Mark the end of one simulation's output, when nobody is left who could add to it."""
        os.set_blocking(self._log, True)  # a program may have changed that for all of us
        send(self._log, end_mark(secret))

    def _reopen(self) -> None:
        self._out = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        self._err = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115


class Publisher:
    """Brings products of one simulation under their final names.

    :param recipe: names the output root and its result folder.
    :param token: the worker's token.
    """

    def __init__(self, recipe: Recipe, token: str) -> None:
        self._root = storage.open_root(recipe.output)
        self._hash8 = recipe.hash8
        self._token = token
        self.id = ""
        self.attempt = 0

    def __call__(self, product: str, source: Path, suffix: str) -> tuple[str, int, str]:
        """Publish one file; return its name below the root, its size and its checksum."""
        token = execution_token(self._token, self.attempt)
        name = storage.product_name(self._hash8, product, self.id, token, suffix)
        return (name, *self._root.publish(source, name))


def _serve(
    greeting: Mapping[str, Any], tasks: TaskQueue, streams: Streams, result_pipe: int
) -> None:
    recipe = Recipe.from_dict(greeting["recipe"])
    workdirs = Workdirs(Path(greeting["scratch"]))
    try:
        streams.restore()
        model = load_model(recipe.settings, recipe.code)
        publisher = Publisher(recipe, greeting["token"])
    except (ModelError, EnsembleError) as error:
        streams.flush()
        send(result_pipe, render({"unusable": str(error)}))
        return
    streams.flush()
    streams.end_log(greeting["log_end"])
    gc.freeze()
    helpers = frozenset(process_tree.children(os.getpid()))
    send(result_pipe, render({"ready": True}))
    while (task := tasks.next()) is not None:
        streams.restore()
        message = _run(task, recipe, model, publisher, workdirs)
        streams.flush()
        _clear_up(helpers)
        workdirs.leave()
        streams.end_log(greeting["log_end"])
        send(result_pipe, render(message))


def _run(
    task: Mapping[str, Any], recipe: Recipe, model: Model, publisher: Publisher, workdirs: Workdirs
) -> dict[str, Any]:
    started, clock = time.time(), time.monotonic()
    publisher.id, publisher.attempt = task["id"], task["attempt"]
    try:
        run = _make_run(task, recipe, workdirs.enter())
    except OSError as error:
        result = Result(Reason.ERROR, f"no working directory for the simulation: {error}")
    else:
        result = execute(model, run, recipe.settings.products, publisher)
    message = _as_message(task["task"], result, started, time.monotonic() - clock)
    if result.reason is not None and os.environ.get("ENSEMBLE_KEEP_WORKDIR"):
        message["kept"] = str(workdirs.keep(f"{task['id']}.{task['attempt']}"))
    return message


def _make_run(task: Mapping[str, Any], recipe: Recipe, workdir: Path) -> Run:
    params, written, own_seed = take_apart(recipe.settings.parameters, task["params"])
    return Run(
        id=task["id"],
        params=params,
        workdir=workdir,
        seed=derive_seed(recipe.settings.seed, task["id"]) if own_seed is None else own_seed,
        cpus=task["cpus"],
        attempt=task["attempt"],
        products=tuple(spec.name for spec in recipe.settings.products),
        written=written,
    )


def _as_message(task: int, result: Result, started: float, duration: float) -> dict[str, Any]:
    message: dict[str, Any] = {"task": task, "started": started, "duration": duration}
    if result.reason is not None:
        message.update(reason=result.reason.value, detail=result.detail, signal=result.signal)
    if result.products:
        message["products"] = [product.as_dict() for product in result.products]
    return message


def _clear_up(helpers: frozenset[int]) -> None:
    """Leave nothing of one simulation to the next: no process and no timer."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    if not _has_children():
        return
    process_tree.kill_descendants(os.getpid(), spare=helpers)
    give_up = time.monotonic() + _REAP_LIMIT
    while set(process_tree.children(os.getpid())) - helpers and time.monotonic() < give_up:
        _reap(helpers)
        time.sleep(0.001)


def _has_children() -> bool:
    if not hasattr(os, "waitid"):
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _reap(helpers: frozenset[int]) -> None:
    for child in process_tree.children(os.getpid()):
        if child not in helpers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def _high_copy(descriptor: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64)


def _flush_of_libc() -> Callable[[], object]:
    """Return what flushes the streams of C libraries, as far as Python can reach it."""
    try:
        import ctypes

        flush = ctypes.CDLL(None).fflush
    except (ImportError, OSError, AttributeError):
        return lambda: None
    return lambda: flush(None)
