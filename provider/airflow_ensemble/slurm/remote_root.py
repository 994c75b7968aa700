"""Output roots on a cluster's file system, seen through a runner."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import random
import shlex
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.recipe import Settings
from airflow_ensemble.engine.storage import (
    SETTINGS,
    Appender,
    Claim,
    LocalRoot,
    NotInRoot,
    OutputRoot,
    StorageError,
    check_name,
    enter_claim,
    judge_claim,
    local_path,
    measure,
    open_root,
    parse_record,
    uri_scheme,
)
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.runner import Runner

#: Bytes that are moved at a time.
BLOCK = 8 << 20
#: What the claiming command ends with when the record is no longer the one that was read.
_CHANGED = 74
#: How often to enter a claim while others enter theirs.
_CLAIMS = 20


def open_output(uri: str, runner: Runner) -> OutputRoot:
    """Open an output root as a cluster's workers see it; nothing is read or written yet.

    :param uri: a path on the cluster, ``file://``, or a URI of an object store, which is reached
        from here directly.
    :param runner: how the cluster is reached; it connects when the root is first used.
    :raises UsageError: on an unknown scheme, a relative path, or a missing driver.
    """
    if uri_scheme(uri) not in ("", "file"):
        return open_root(uri)
    if isinstance(runner, LocalRunner):
        return LocalRoot(local_path(uri))
    if not uri_scheme(uri) and not uri.startswith("/"):
        raise UsageError(
            f"output {uri!r} is relative, but lies on {runner.place}: write its absolute path there"
        )
    return RemoteRoot(str(local_path(uri)), runner)


class RemoteRoot(OutputRoot):
    """An output root in a folder that a runner reaches. As the runner, it serves one thread.

    :param path: absolute, on the cluster.
    :param runner: stays the caller's, who closes it.
    """

    is_local = False

    def __init__(self, path: str, runner: Runner) -> None:
        super().__init__(path.rstrip("/") or "/")
        self.runner = runner

    def publish(self, source: Path, name: str) -> tuple[int, str]:
        """See :meth:`OutputRoot.publish`."""
        target = self._path(name)
        aside = _aside(target)
        with self._explained(f"cannot publish {source} as {target}"):
            self.runner.make_folders(target.rpartition("/")[0])
            try:
                with source.open("rb") as stream:
                    size, checksum = measure(stream)
                    stream.seek(0)
                    self.runner.write(aside, stream.read(BLOCK))
                    while block := stream.read(BLOCK):
                        self.runner.append(aside, block)
                self._check_arrived(aside, size)
                try:
                    self.runner.rename(aside, target)
                except FileExistsError:
                    self._check_same(name, checksum)
            finally:
                with contextlib.suppress(Exception):
                    self.runner.remove(aside)
        return size, checksum

    def fetch(self, name: str) -> Path:
        """See :meth:`OutputRoot.fetch`. Published names are unique, so a copy stays true."""
        place = hashlib.sha256(f"{self.runner.place}:{self.uri}".encode()).hexdigest()[:16]
        target = cache_folder(os.getpid()) / place / check_name(name)
        if target.is_file():
            return target
        aside = target.parent / f".{uuid.uuid4().hex}.tmp"
        with self._explained(f"cannot fetch {name}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with aside.open("xb") as stream:
                    for block in self._blocks(name):
                        stream.write(block)
                aside.replace(target)
            finally:
                aside.unlink(missing_ok=True)
        return target

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`OutputRoot.read`."""
        with self._explained(f"cannot read {self._path(name)}"):
            return self.runner.read(self._path(name), offset, length)

    def write_text(self, name: str, text: str) -> None:
        """See :meth:`OutputRoot.write_text`."""
        target = self._path(name)
        with self._explained(f"cannot write {target}"):
            self.runner.make_folders(target.rpartition("/")[0])
            self.runner.write(target, text.encode())

    def exists(self, name: str) -> bool:
        """See :meth:`OutputRoot.exists`."""
        try:
            with self._explained(f"cannot look at {self._path(name)}"):
                return not self.runner.stat(self._path(name)).is_folder
        except NotInRoot:
            return False

    def delete(self, name: str) -> None:
        """See :meth:`OutputRoot.delete`."""
        with self._explained(f"cannot delete {self._path(name)}"):
            self.runner.remove(self._path(name))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :meth:`OutputRoot.list`. Each folder that may hold such names is listed once."""
        start = prefix.rpartition("/")[0]
        if start:
            check_name(start)
        yield from self._walk(f"{start}/" if start else "", prefix)

    def modified(self, name: str) -> float:
        """See :meth:`OutputRoot.modified`."""
        with self._explained(f"cannot look at {self._path(name)}"):
            return self.runner.stat(self._path(name)).modified

    def append(self, name: str) -> Appender:
        """Refuse: what grows below a cluster's root is written by the workers there."""
        raise StorageError(
            f"cannot append to {self._path(name)} on {self.runner.place}: only what runs there can"
        )

    def check_writable(self) -> None:
        """See :meth:`OutputRoot.check_writable`."""
        probe = self._path(f".ensemble/.{uuid.uuid4().hex}.tmp")
        try:
            self.runner.make_folders(probe.rpartition("/")[0])
            try:
                self.runner.write(probe, b"probe")
            finally:
                self.runner.remove(probe)
        except OSError as error:
            raise UsageError(
                f"output root {self.uri} on {self.runner.place} is not writable: "
                f"{error.strerror or error} ({error.filename}). Create it there, change its "
                "permissions, free some space, or set another 'output'"
            ) from error

    def claim_owner(self, ensemble: str, settings: Settings) -> Claim:
        """See :meth:`OutputRoot.claim_owner`.

        The record is exchanged on the cluster, by one command that holds the lock which local
        roots hold as well, and only if it is still the one that was read.
        """
        for _ in range(_CLAIMS):
            before = self._read_raw_record()
            record = {} if before is None else parse_record(_decoded(before), self.uri)
            claim = judge_claim(record, self.uri, ensemble, settings.hash)
            if record and record["last"] == settings.hash:
                return claim
            entered = enter_claim(record, ensemble, settings, time.time())
            text = json.dumps(entered, indent=1, sort_keys=True) + "\n"
            if self._exchange_record(before, text.encode()):
                return claim
            time.sleep(random.uniform(0.0, 0.2))
        raise StorageError(
            f"{self.uri}/{SETTINGS} is being changed by others all the time: try again"
        )

    def _read_raw_record(self) -> bytes | None:
        try:
            return self.read(SETTINGS)
        except NotInRoot:
            return None

    def _exchange_record(self, before: bytes | None, after: bytes) -> bool:
        """Replace the record if it is still the one that was read; return whether it was."""
        target = self._path(SETTINGS)
        aside = _aside(target)
        with self._explained(f"cannot write {target}"):
            self.runner.make_folders(target.rpartition("/")[0])
            self.runner.write(aside, after)
        script = _exchange_script(target, aside, is_there=before is not None)
        done = self.runner.run(script, input=before or b"")
        if done.code not in (0, _CHANGED):
            raise StorageError(f"cannot write {target} on {self.runner.place}: {done.err.strip()}")
        return done.code == 0

    def _walk(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield what is below a folder, whose name ends with a slash or is empty."""
        path = f"{self.uri}/{folder}".rstrip("/") or "/"
        try:
            with self._explained(f"cannot list {path}"):
                entries = self.runner.list(path)
        except NotInRoot:
            return
        folders = []
        for entry in sorted(entries, key=lambda each: each.name):
            name = folder + entry.name
            if entry.is_folder:
                folders.append(f"{name}/")
            elif name.startswith(prefix):
                yield name, entry.size
        for below in folders:
            if below.startswith(prefix) or prefix.startswith(below):
                yield from self._walk(below, prefix)

    def _blocks(self, name: str) -> Iterator[bytes]:
        size = self.runner.stat(self._path(name)).size
        offset = 0
        while offset < size:
            block = self.runner.read(self._path(name), offset, min(BLOCK, size - offset))
            if not block:
                raise StorageError(f"{self._path(name)} became shorter while it was read")
            offset += len(block)
            yield block

    def _check_arrived(self, path: str, size: int) -> None:
        arrived = self.runner.stat(path).size
        if arrived != size:
            raise StorageError(f"{arrived} bytes of {size} arrived in {path}")

    def _check_same(self, name: str, checksum: str) -> None:
        total = hashlib.sha256()
        for block in self._blocks(name):
            total.update(block)
        if f"sha256:{total.hexdigest()}" != checksum:
            raise StorageError(
                f"{self._path(name)} exists with other content: products are never overwritten"
            )

    def _path(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{check_name(name)}"

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Say what was tried, and where, when the file system refuses."""
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise NotInRoot(f"{what} on {self.runner.place}: no such file") from error
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(f"{what} on {self.runner.place}: {reason}") from error


@functools.lru_cache(maxsize=1)
def cache_folder(process: int) -> Path:
    """Return this process's own folder of fetched files, which goes when the process ends.

    :param process: its id, so that a forked process gets a folder of its own.
    """
    folder = Path(tempfile.mkdtemp(prefix="ensemble-fetched-"))
    atexit.register(_remove_folder, folder, process)
    return folder


def _remove_folder(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _aside(target: str) -> str:
    return f"{target.rpartition('/')[0]}/.{uuid.uuid4().hex}.tmp"


def _decoded(record: bytes) -> str:
    """Return the text of a record; an empty one, which is no record, if it is no text."""
    try:
        return record.decode()
    except UnicodeDecodeError:
        return ""


def _exchange_script(target: str, aside: str, *, is_there: bool) -> str:
    """Return a command that renames ``aside`` to ``target`` unless that has changed.

    :param is_there: whether ``target`` should be there, with what comes on standard input.
    """
    record, new = shlex.quote(target), shlex.quote(aside)
    lock = shlex.quote(f"{target.rpartition('/')[0]}/settings.lock")
    is_same = f"cmp -s - {record}" if is_there else f"[ ! -e {record} ]"
    # Where there is no flock(1), or no locks, the comparison alone keeps the moment short.
    return (
        f"exec 9>>{lock} || exit 1\n"
        "flock -w 30 9 2>/dev/null\n"
        f"if {is_same}; then mv -f {new} {record}; exit $?; fi\n"
        f"rm -f {new}; exit {_CHANGED}\n"
    )
