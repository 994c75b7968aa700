"""Output roots in object stores, through fsspec.

An object appears whole or not at all, which is all that publishing needs. What object stores lack
is appending: a segment becomes numbered objects (``….0001.jsonl``, ``….0002.jsonl``), of which only
the last one still grows, by being put again with more lines. Readers by offset cannot tell the
difference from a growing file, and the number of objects follows the bytes written, never the
number of simulations.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, TypeVar

from airflow_ensemble.engine.cache import cache_home
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.storage import (
    Appender,
    NotInRoot,
    OutputRoot,
    StorageError,
    check_name,
    measure,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Scheme -> (module of its driver, what to install when it is missing).
DRIVERS = {
    "s3": ("s3fs", "pip install 'airflow-provider-ensemble[s3]'"),
    "gs": ("gcsfs", "pip install gcsfs"),
    "memory": ("fsspec", "pip install fsspec"),
}
ATTEMPTS = 6
#: Seconds before the second try; each further one doubles it.
FIRST_DELAY = 0.1
#: Bytes after which a segment goes on in a new object.
PART_SIZE = 1 << 20
#: Seconds between two puts of a growing object, unless much has come together.
SYNC_INTERVAL = 5.0
SYNC_SIZE = 1 << 18

_PERMANENT = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    TypeError,
    ValueError,
)


def open_object_root(uri: str, scheme: str) -> ObjectRoot:
    """Open an output root in an object store; nothing is read or written yet.

    :raises UsageError: on an unknown scheme, credentials in the URI, or a missing driver.
    """
    if scheme not in DRIVERS:
        raise UsageError(
            f"output scheme '{scheme}://' is unknown: use a path, file://, "
            + ", ".join(f"{known}://" for known in DRIVERS)
        )
    bucket = uri.split("://", 1)[1].split("/", 1)[0]
    if "@" in bucket:
        raise UsageError(
            f"the '{scheme}://' output holds credentials: leave them to the environment or to the "
            "driver's own configuration, and write only bucket and prefix"
        )
    if "::" in uri or not bucket:
        raise UsageError(f"output {uri!r} is not of the form {scheme}://bucket/prefix")
    module, advice = DRIVERS[scheme]
    for needed in ("fsspec", module):
        try:
            importlib.import_module(needed)
        except ImportError as error:
            raise UsageError(
                f"output {uri} needs the Python package {needed!r}: {advice}"
            ) from error
    return ObjectRoot(uri.rstrip("/"))


class ObjectRoot(OutputRoot):
    """An output root in an object store."""

    is_local = False

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._pid = -1
        self._filesystem: Any = None
        self._prefix = ""

    @property
    def filesystem(self) -> Any:
        """Return the fsspec file system; a forked process gets one of its own."""
        if self._pid != os.getpid():
            import fsspec

            options = {"use_listings_cache": False, "skip_instance_cache": True}
            self._filesystem, self._prefix = fsspec.core.url_to_fs(self.uri, **options)
            self._prefix = self._prefix.rstrip("/")
            self._pid = os.getpid()
        return self._filesystem

    def publish(self, source: Path, name: str) -> tuple[int, str]:
        """See :meth:`OutputRoot.publish`."""
        what = f"cannot publish {source} as {self.uri}/{name}"
        try:
            with source.open("rb") as stream:
                size, checksum = measure(stream)
        except OSError as error:
            raise StorageError(f"{what}: {error.strerror}") from error
        if self.exists(name):
            self._check_same(name, checksum)
            return size, checksum
        path = self._path(name)
        self._retry(what, lambda: self.filesystem.put_file(str(source), path))
        stored = self._retry(what, lambda: self.filesystem.info(path)["size"])
        if stored != size:
            raise StorageError(f"{what}: {stored} bytes arrived of {size}")
        return size, checksum

    def _check_same(self, name: str, checksum: str) -> None:
        def stored() -> str:
            with self.filesystem.open(self._path(name), "rb") as stream:
                return measure(stream)[1]

        if self._retry(f"cannot read {self.uri}/{name}", stored) != checksum:
            raise StorageError(
                f"{self.uri}/{name} exists with other content: products are never overwritten"
            )

    def fetch(self, name: str) -> Path:
        """See :meth:`OutputRoot.fetch`. Published names are unique, so a copy stays true."""
        source = self._path(name)
        target = cache_folder() / hashlib.sha256(self.uri.encode()).hexdigest()[:16] / name
        if target.is_file():
            return target
        aside = target.parent / f".{uuid.uuid4().hex}.tmp"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._retry(
                f"cannot fetch {self.uri}/{name} into {target.parent}",
                lambda: self.filesystem.get_file(source, str(aside)),
            )
            aside.replace(target)
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"cannot cache {self.uri}/{name} in {target}: {error}") from error
        finally:
            aside.unlink(missing_ok=True)
        return target

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`OutputRoot.read`."""
        path = self._path(name)
        what = f"cannot read {self.uri}/{name}"
        if offset == 0 and length is None:
            return bytes(self._retry(what, lambda: self.filesystem.cat_file(path)))
        size = self._retry(what, lambda: self.filesystem.info(path)["size"])
        end = size if length is None else min(size, offset + length)
        if offset >= end:
            return b""
        return bytes(
            self._retry(what, lambda: self.filesystem.cat_file(path, start=offset, end=end))
        )

    def write_text(self, name: str, text: str) -> None:
        """See :meth:`OutputRoot.write_text`."""
        self.put(name, text.encode("utf-8"))

    def put(self, name: str, data: bytes) -> None:
        """Write an object, replacing the old one in one step."""
        path = self._path(name)
        what = f"cannot write {self.uri}/{name}"
        self._retry(what, lambda: self.filesystem.pipe_file(path, data))

    def exists(self, name: str) -> bool:
        """See :meth:`OutputRoot.exists`."""
        path = self._path(name)
        try:
            self._retry(f"cannot look at {self.uri}/{name}", lambda: self.filesystem.info(path))
        except NotInRoot:
            return False
        return True

    def delete(self, name: str) -> None:
        """See :meth:`OutputRoot.delete`."""
        path = self._path(name)
        try:
            self._retry(f"cannot delete {self.uri}/{name}", lambda: self.filesystem.rm_file(path))
        except NotInRoot:
            return

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :meth:`OutputRoot.list`."""
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self._root()
        what = f"cannot list {self.uri}/{folder}"
        try:
            found = self._retry(what, lambda: self.filesystem.find(start, detail=True))
        except NotInRoot:
            return
        for path in sorted(found):
            name = path[len(self._root()) + 1 :]
            if name.startswith(prefix):
                yield name, found[path]["size"]

    def modified(self, name: str) -> float:
        """See :meth:`OutputRoot.modified`."""
        path = self._path(name)
        moment = self._retry(
            f"cannot look at {self.uri}/{name}", lambda: self.filesystem.modified(path)
        )
        return float(moment.timestamp())

    def append(self, name: str) -> Appender:
        """See :meth:`OutputRoot.append`."""
        return ObjectAppender(self, name)

    def check_there(self) -> None:
        """See :meth:`OutputRoot.check_there`."""
        bucket = self._root().partition("/")[0]
        try:
            self._retry(f"cannot look at {bucket}", lambda: self._look(bucket))
        except NotInRoot as error:
            raise UsageError(
                f"output root {self.uri}: there is no bucket {bucket!r}: check 'output', and which "
                "store the environment points to"
            ) from error
        except StorageError as error:
            raise UsageError(
                f"output root {self.uri} cannot be read: {error.__cause__ or error}. Check that "
                "this machine has the credentials for it"
            ) from error

    def _look(self, bucket: str) -> None:
        try:
            self.filesystem.info(bucket)
        except PermissionError:  # who may not ask about the bucket may still use a part of it
            self.filesystem.find(self._path(".ensemble"), maxdepth=1)

    def check_writable(self) -> None:
        """See :meth:`OutputRoot.check_writable`."""
        probe = f".ensemble/.{uuid.uuid4().hex}.tmp"
        try:
            self.put(probe, b"probe")
            self.delete(probe)
        except StorageError as error:
            raise UsageError(
                f"output root {self.uri} is not writable: {error.__cause__ or error}. Check that "
                "the bucket exists and that this machine has the credentials for it"
            ) from error

    def _root(self) -> str:
        return self.filesystem and self._prefix

    def _path(self, name: str) -> str:
        return f"{self._root()}/{check_name(name)}"

    def _retry(self, what: str, action: Callable[[], T]) -> T:
        """Do something in the store; temporary errors are tried again, a bounded number of times.

        :raises NotInRoot: when the object is not there.
        :raises StorageError: when the store refuses, or goes on failing.
        """
        for attempt in range(1, ATTEMPTS):
            try:
                return _once(what, action)
            except StorageError as error:
                if isinstance(error.__cause__, _PERMANENT):
                    raise
                log.warning("%s (try %d of %d)", error, attempt, ATTEMPTS)
            time.sleep(FIRST_DELAY * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        return _once(what, action)


class ObjectAppender(Appender):
    """Collects lines and puts them into numbered objects, few and growing.

    :param root: where to put them.
    :param name: of the segment, ending in ``.jsonl``; the objects' names derive from it.
    """

    def __init__(self, root: ObjectRoot, name: str) -> None:
        self._root = root
        self._stem, dot, suffix = check_name(name).rpartition(".")
        self._suffix = dot + suffix
        self._number = 1
        self._part = bytearray()
        self._uploaded = 0
        self._last_put = float("-inf")
        self._is_closed = False

    def write(self, data: bytes) -> None:
        """See :meth:`Appender.write`. Lines leave this process only with :meth:`sync`."""
        if self._is_closed:
            raise ValueError(f"{self._name} is closed")
        if self._part and len(self._part) + len(data) > PART_SIZE:
            self._put()
            self._number += 1
            self._part.clear()
            self._uploaded = 0
        self._part += data

    def sync(self) -> None:
        """Put what has come together, unless the last put was a moment ago and little is new."""
        is_due = time.monotonic() - self._last_put >= SYNC_INTERVAL
        if is_due or len(self._part) - self._uploaded >= SYNC_SIZE:
            self._put()

    def close(self) -> None:
        """See :meth:`Appender.close`."""
        if not self._is_closed:
            self._put()
            self._is_closed = True

    @property
    def _name(self) -> str:
        return f"{self._stem}.{self._number:04d}{self._suffix}"

    def _put(self) -> None:
        if len(self._part) == self._uploaded:
            return
        self._root.put(self._name, bytes(self._part))
        self._uploaded = len(self._part)
        self._last_put = time.monotonic()


def _once(what: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except FileNotFoundError as error:
        raise NotInRoot(f"{what}: {error}") from error
    except Exception as error:
        raise StorageError(f"{what}: {type(error).__name__}: {error}") from error


def cache_folder() -> Path:
    """Return where fetched objects are kept on this machine: ``$ENSEMBLE_CACHE_DIR`` if set."""
    given = os.environ.get("ENSEMBLE_CACHE_DIR")
    if given:
        return Path(given)
    return cache_home() / "airflow-ensemble"
