"""Commands and files of this machine, as on a login node."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from airflow_ensemble.slurm.errors import OutcomeUnknown
from airflow_ensemble.slurm.runner import Completed, Entry, Runner


class LocalRunner(Runner):
    """Runs on this machine, as this account, with no connection at all.

    :param environment: variables added to this process's own for commands.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})

    @property
    def place(self) -> str:
        """See :attr:`Runner.place`."""
        return "this machine"

    def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0) -> Completed:
        """See :meth:`Runner.run`."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=_home(),
            env={**os.environ, **self._environment},
            start_new_session=True,
        )
        with process:
            try:
                out, err = process.communicate(input, timeout)
            except subprocess.TimeoutExpired as error:
                raise OutcomeUnknown(
                    f"a command did not end within {timeout:g} s on this machine and was killed"
                ) from error
            finally:
                if process.returncode is None:
                    _kill_group(process)
        code = process.returncode
        return Completed(
            128 - code if code < 0 else code,
            out.decode("utf-8", "replace"),
            err.decode("utf-8", "replace"),
        )

    def list(self, folder: str) -> list[Entry]:
        """See :meth:`Runner.list`."""
        entries = []
        with os.scandir(folder) as found:
            for item in found:
                # A file may go, and a link may lead nowhere, between the listing and the question.
                with contextlib.suppress(FileNotFoundError):
                    entries.append(_entry(item.name, item.stat()))
        return entries

    def stat(self, path: str) -> Entry:
        """See :meth:`Runner.stat`."""
        return _entry(os.path.basename(path.rstrip("/")), os.stat(path))  # noqa: PTH116, PTH119

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Runner.read`."""
        with Path(path).open("rb") as stream:
            stream.seek(offset)
            return stream.read(-1 if length is None else length)

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """See :meth:`Runner.write`."""
        target = Path(path)
        aside = target.parent / f".{uuid.uuid4().hex}.tmp"
        try:
            _write_new(aside, data, mode)
            aside.replace(target)
        except OSError as error:
            raise _renamed(error, path) from error
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()

    def append(self, path: str, data: bytes) -> None:
        """See :meth:`Runner.append`."""
        with Path(path).open("ab") as stream:
            stream.write(data)

    def make_folders(self, path: str) -> None:
        """See :meth:`Runner.make_folders`."""
        Path(path).mkdir(parents=True, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        """See :meth:`Runner.rename`."""
        if os.path.lexists(target):
            raise _exists(target)
        if stat.S_ISREG(os.lstat(source).st_mode) and _linked(source, target):
            return
        Path(source).rename(target)

    def remove(self, path: str) -> None:
        """See :meth:`Runner.remove`."""
        Path(path).unlink(missing_ok=True)

    def close(self) -> None:
        """See :meth:`Runner.close`."""


def _home() -> str:
    """Return the home folder, where a command over SSH would begin, as far as there is one."""
    home = os.path.expanduser("~")  # noqa: PTH111 (stays as it is where there is none)
    return home if os.path.isdir(home) else "/"  # noqa: PTH112


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Something that left the group may hold the pipes open for ever: nobody waits for it.
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def _entry(name: str, found: os.stat_result) -> Entry:
    return Entry(name, found.st_size, found.st_mtime, stat.S_ISDIR(found.st_mode))


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _linked(source: str, target: str) -> bool:
    """Give a file its new name by a hard link, which never overwrites; False without links."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:
        return False
    Path(source).unlink()
    return True


def _exists(path: str) -> OSError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def _renamed(error: OSError, path: str) -> OSError:
    """Return the same refusal with the name that the caller knows."""
    return OSError(error.errno, error.strerror, path)
