"""Trees of processes: who descends from whom, how much memory they hold, and killing all of them.

On Linux a process can adopt the orphans among its descendants (a "subreaper"), so that a tree stays
a tree whatever double forks and new sessions happen in it. Elsewhere process groups must do.
Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

IS_LINUX = sys.platform.startswith("linux")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAGE = os.sysconf("SC_PAGE_SIZE")


def adopt_orphans() -> bool:
    """Make this process the parent of orphans among its descendants; tell whether that worked."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> bool:
    """Have the kernel kill this process when its parent dies; tell whether that worked."""
    return _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Return the children of a process, those included that have ended and were not waited for."""
    if not IS_LINUX:
        return []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 (called once per simulation)
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as stream:  # noqa: PTH123
                found.extend(map(int, stream.read().split()))
        except FileNotFoundError:
            if not _KERNEL_LISTS_CHILDREN:
                return [child for child, parent in _parents() if parent == pid]
        except OSError:
            continue
    return found


def descendants(pid: int) -> list[int]:
    """Return all processes below a process, parents before their children."""
    found: list[int] = []
    rest = children(pid)
    while rest:
        found.extend(rest)
        rest = [grandchild for child in rest for grandchild in children(child)]
    return found


def reap_strangers(own: int) -> None:
    """Take leave of ended children that this process did not start.

    The first process of a container is handed every orphan in it.

    :param own: the one child that is waited for elsewhere.
    """
    for child in children(os.getpid()):
        if child != own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def kill_tree(pid: int) -> None:
    """Kill a process and everything below it, so that nothing is forked meanwhile."""
    _send(pid, signal.SIGSTOP)
    kill_descendants(pid)
    if not IS_LINUX:
        _send_group(pid)
    _send(pid, signal.SIGKILL)


def kill_descendants(pid: int, spare: Iterable[int] = ()) -> None:
    """Kill everything below a process, except the trees of the children to spare.

    All are stopped before the first is killed: who is stopped cannot fork.
    """
    spared = frozenset(spare)
    stopped: set[int] = set()
    while True:
        tops = [child for child in children(pid) if child not in spared]
        below = [process for top in tops for process in (top, *descendants(top))]
        fresh = [process for process in below if process not in stopped]
        if not fresh:
            break
        for process in fresh:
            _send(process, signal.SIGSTOP)
            stopped.add(process)
    for process in stopped:
        _send(process, signal.SIGKILL)


def memory_of_tree(pid: int) -> int:
    """Return the bytes of memory that a process and everything below it hold.

    Resident pages first, which are cheap to ask for but count shared pages once per process.
    """
    return sum(map(_resident, (pid, *descendants(pid))))


def exact_memory_of_tree(pid: int) -> int:
    """Return the same as :func:`memory_of_tree` with shared pages divided among their holders."""
    return sum(map(_proportional, (pid, *descendants(pid))))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return _resident(pid)


def _parents() -> Iterator[tuple[int, int]]:
    """Yield every process with its parent, for kernels that do not list children."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            after_name = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            yield int(entry.name), int(after_name[1])


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _send_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _prctl(option: int, argument: int) -> bool:
    if not IS_LINUX:
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(option, argument, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


_KERNEL_LISTS_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").exists()
