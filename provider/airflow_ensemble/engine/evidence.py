"""Evidence that an execution, or whoever drives a batch, is alive.

A live process holds an exclusive lock on a small file, and touches it now and then. On one host the
kernel drops the lock with the process, so a lock that can be had proves the end. Across hosts the
lock may not be visible; there the age of the last touch decides, by the file system's own clock.
Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from airflow_ensemble.engine.errors import UsageError

#: Seconds between two touches of a held lock file.
TOUCH_INTERVAL = 10.0
#: Seconds without a touch after which an execution on another host counts as ended.
STALE_AFTER = 120.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Evidence(Enum):
    """What can be said of a process from its lock file."""

    NOT_STARTED = "not started"
    ALIVE = "alive"
    ENDED = "ended"


class LockHeld(Exception):
    """Another live process holds the lock."""


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` and keep it fresh, until the block ends.

    :raises LockHeld: when another live process holds it.
    :raises UsageError: when its file system cannot lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock_exclusively(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
        with _kept_fresh(path):
            yield
    finally:
        os.close(descriptor)


def find_evidence(path: Path) -> Evidence:
    """Look at a lock file, without waiting.

    :param path: the lock file.
    :return: what it proves.
    :raises UsageError: when its file system cannot lock.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Evidence.NOT_STARTED
    try:
        if not _try_lock(descriptor, fcntl.LOCK_SH, path):
            return Evidence.ALIVE
    finally:
        os.close(descriptor)
    if _holder(path).partition(" ")[0] == socket.gethostname():
        return Evidence.ENDED
    return Evidence.ENDED if _age(path) > STALE_AFTER else Evidence.ALIVE


def _lock_exclusively(descriptor: int, path: Path) -> None:
    # Someone who looks for evidence holds a shared lock for a moment: that is no other owner.
    for pause in (0.01, 0.05, 0.2):
        if _try_lock(descriptor, fcntl.LOCK_EX, path):
            return
        time.sleep(pause)
    if not _try_lock(descriptor, fcntl.LOCK_EX, path):
        raise LockHeld(f"{path} is held by {_holder(path)}")


def _try_lock(descriptor: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise UsageError(
            f"{path} cannot be locked ({error.strerror}): its file system has no locks, so nobody "
            "could tell a live run from a dead one. Set 'control' of the ensemble file to a folder "
            "on another file system"
        ) from error
    return True


def _holder(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    # A process that died between creating and filling its lock file left it empty: it was a
    # neighbour on this host, for anyone else would not have seen the file yet.
    return text or socket.gethostname()


def _age(path: Path) -> float:
    # Both times come from the file system that holds the lock: hosts' clocks may differ.
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock-") as clock:
        return Path(clock.name).stat().st_mtime - path.stat().st_mtime


@contextmanager
def _kept_fresh(path: Path) -> Iterator[None]:
    over = threading.Event()

    def touch() -> None:
        while not over.wait(TOUCH_INTERVAL):
            try:
                os.utime(path)
            except OSError:  # the folder was removed under us: the lock itself still holds
                return

    thread = threading.Thread(target=touch, name="lock-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
