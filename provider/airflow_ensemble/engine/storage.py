"""Output roots: where products, logs and outcome segments lie, and under which names.

An output root is a folder on a file system or a prefix in an object store; everything in it is
named relative to the root, so that the same records are true wherever the root is seen from. The
layout is in the functions of this module and nowhere else. Three rules hold on every root:

* a product appears whole or not at all, under a name that carries its execution token, and is never
  overwritten: a losing execution leaves a file of its own, which is garbage, not damage;
* a segment only grows, so that readers may come back with an offset;
* a root belongs to one ensemble, and remembers every settings hash that ever wrote to it.

This module holds the interface and the local root, with the standard library alone; object stores
are in :mod:`airflow_ensemble.engine.object_store`, loaded when a URI asks for one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from airflow_ensemble.engine.errors import EnsembleError, UsageError
from airflow_ensemble.engine.recipe import Settings

OUTCOMES = ".ensemble/outcomes"
FORGOTTEN = ".ensemble/forgotten"
SETTINGS = ".ensemble/settings.json"
SETTINGS_FORMAT = 1

_BLOCK = 1 << 20
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SUFFIX = re.compile(r"(\.[A-Za-z0-9_+-]{1,16}){0,3}")
_SEGMENT_PART = re.compile(r"\.\d{4}\.jsonl$")
#: What a file system answers that has no hard links, or forbids this one.
_NO_LINKS = frozenset(
    {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
)
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


class StorageError(EnsembleError):
    """The output root did not do what was asked: the message names the root and the file."""


class NotInRoot(StorageError, FileNotFoundError):
    """There is no such file below the output root."""


@dataclass(frozen=True)
class Claim:
    """What :meth:`OutputRoot.claim_owner` found.

    :param is_new: whether these settings have never written to this root before.
    :param previous: the full settings hash that was used last, if it is another one.
    """

    is_new: bool
    previous: str | None

    @property
    def message(self) -> str:
        """Return one line for people when the settings have changed, else an empty string."""
        if self.previous is None:
            return ""
        return (
            f"settings changed since the last run: results under {self.previous[:8]}/ stay and "
            "are not reused"
        )


# --- layout ---------------------------------------------------------------------------------------


def shard(id: str) -> str:
    """Return the folder, two hexadecimal digits, that bounds the number of files per folder."""
    return hashlib.sha256(id.encode()).hexdigest()[:2]


def product_name(hash8: str, product: str, id: str, token: str, suffix: str) -> str:
    """Return the name of a product below the output root.

    :param suffix: with its dot, such as ``.nc``.
    :raises ValueError: when the suffix is none.
    """
    if not _SUFFIX.fullmatch(suffix):
        raise ValueError(f"{suffix!r} is no file name suffix")
    return f"{hash8}/{product}/{shard(id)}/{id}.{token}{suffix}"


def log_name(hash8: str, id: str, token: str) -> str:
    """Return the name of the log of one attempt below the output root."""
    return f"{hash8}/logs/{shard(id)}/{id}.{token}.log"


def pack_name(hash8: str, writer: str, token: str) -> str:
    """Return the name of the file that holds many logs of one worker below the output root."""
    return f"{hash8}/logs/{writer}.{token}.pack"


def segment_name(hash8: str, writer: str, submission: int, token: str) -> str:
    """Return the name of an outcome segment below the output root.

    :param writer: the chunk of a push worker, the worker id of a pull worker.
    :param submission: the chunk's submission; 0 for a pull worker.
    """
    return f"{OUTCOMES}/{hash8}/{writer}.{submission}.{token}.jsonl"


def segments_prefix(hash8: str, writer: str | None = None) -> str:
    """Return what the names of all segments, or of one writer's, begin with."""
    return f"{OUTCOMES}/{hash8}/{writer}." if writer else f"{OUTCOMES}/{hash8}/"


def forgotten_name(hash8: str, token: str) -> str:
    """Return the name of a record of forgotten simulations below the output root."""
    return f"{forgotten_prefix(hash8)}{token}.jsonl"


def forgotten_prefix(hash8: str) -> str:
    """Return what the names of all records of forgotten simulations begin with."""
    return f"{FORGOTTEN}/{hash8}/"


def segment_head(name: str) -> str:
    """Return the name of the file that holds a segment's header.

    :param name: a file of the segment: the segment itself, or one of its numbered objects.
    """
    return _SEGMENT_PART.sub(r".0001.jsonl", name)


# --- the interface --------------------------------------------------------------------------------


class Appender(ABC):
    """Adds whole lines to one growing file below an output root."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Add complete lines; on a local root they are in the file when this returns."""

    @abstractmethod
    def sync(self) -> None:
        """Make what was written safe against a crash of this machine; cheap when called often."""

    @abstractmethod
    def close(self) -> None:
        """Make everything safe and close; closing twice is fine."""


class OutputRoot(ABC):
    """A place for results. Names are relative to it, with forward slashes.

    :param uri: the absolute path, or the URI without a trailing slash.
    """

    is_local: bool

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @abstractmethod
    def publish(self, source: Path, name: str) -> tuple[int, str]:
        """Bring a finished local file under its final name, whole, and never over another file.

        The source may be gone afterwards. Publishing equal content again is fine.

        :return: its size in bytes and its checksum, ``sha256:`` and 64 hexadecimal digits.
        :raises StorageError: when other content has this name, or the root fails.
        """

    @abstractmethod
    def fetch(self, name: str) -> Path:
        """Return a local path of a published file, which may be a cached copy: do not change it.

        :raises NotInRoot: when there is none.
        """

    @abstractmethod
    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return bytes of a file from ``offset`` on; none when the offset is at or past its end.

        :raises NotInRoot: when there is none.
        """

    @abstractmethod
    def write_text(self, name: str, text: str) -> None:
        """Write a small file, replacing the old one in one step."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file; one that is gone already is fine."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield name and size of every file whose name begins with ``prefix``, sorted by folder."""

    @abstractmethod
    def modified(self, name: str) -> float:
        """Return when a file last changed, Unix seconds by the root's own clock.

        :raises NotInRoot: when there is none.
        """

    @abstractmethod
    def append(self, name: str) -> Appender:
        """Open a file for adding lines."""

    @abstractmethod
    def check_writable(self) -> None:
        """Write and delete a small file.

        :raises UsageError: naming the root and what hinders.
        """

    def check_there(self) -> None:  # noqa: B027 (a root that cannot tell says nothing)
        """Look whether the folder or bucket is there at all, which an empty listing does not tell.

        :raises UsageError: naming the root, when it is not.
        """

    def check_owner(self, ensemble: str, settings: Settings) -> Claim:
        """Say what :meth:`claim_owner` would find, without changing anything.

        :raises UsageError: when the root belongs to another ensemble, or its record is unreadable.
        """
        return judge_claim(self._read_record(), self.uri, ensemble, settings.hash)

    def claim_owner(self, ensemble: str, settings: Settings) -> Claim:
        """Enter an ensemble and its settings in the root's own record.

        :param ensemble: the ensemble's name; the first to come owns the root.
        :param settings: what its results are made with.
        :raises UsageError: when the root belongs to another ensemble, or its record is unreadable.
        """
        for _ in range(5):
            with self._owner_lock():
                record = self._read_record()
                claim = judge_claim(record, self.uri, ensemble, settings.hash)
                if record and record["last"] == settings.hash:
                    return claim
                entered = enter_claim(record, ensemble, settings, time.time())
                self.write_text(SETTINGS, json.dumps(entered, indent=1, sort_keys=True) + "\n")
                if self._has_entered(ensemble, settings.hash):
                    return claim
        raise StorageError(
            f"{self.uri}/{SETTINGS} is being changed by others all the time: try again"
        )

    def _owner_lock(self) -> contextlib.AbstractContextManager[None]:
        """Keep others from changing the owner's record, where the root can."""
        return contextlib.nullcontext()

    def _read_record(self) -> dict[str, Any]:
        try:
            text = self.read(SETTINGS).decode("utf-8")
        except NotInRoot:
            return {}
        except UnicodeDecodeError as error:
            raise UsageError(_unreadable_record(self.uri)) from error
        return parse_record(text, self.uri)

    def _has_entered(self, ensemble: str, settings_hash: str) -> bool:
        record = self._read_record()
        return record.get("ensemble") == ensemble and settings_hash in record["settings"]


def open_root(uri: str | Path) -> OutputRoot:
    """Open an output root; nothing is read or written yet.

    :param uri: a path, ``file://``, ``s3://``, ``gs://`` or ``memory://``.
    :raises UsageError: on an unknown scheme, credentials in the URI, or a missing driver.
    """
    text = str(uri)
    scheme = uri_scheme(text)
    if scheme in ("", "file"):
        return LocalRoot(local_path(text))
    from airflow_ensemble.engine.object_store import open_object_root

    return open_object_root(text, scheme)


def uri_scheme(text: str) -> str:
    """Return the lower-case scheme of a URI, or ``''`` for a path."""
    match = _SCHEME.match(text)
    return match.group(1).lower() if match else ""


def local_path(text: str) -> Path:
    """Return the absolute path of a path or a ``file://`` URI.

    :raises UsageError: when the URI names another host or a relative path, or nobody knows the
        home folder that the path begins with.
    """
    if not uri_scheme(text):
        try:
            return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 (keeps links)
        except RuntimeError as error:
            raise UsageError(
                f"{text!r} begins with a home folder that is not known here: write the path out"
            ) from error
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UsageError(f"{text!r} is not a local file URI: write file:///absolute/path")
    return Path(unquote(parts.path))


def check_name(name: str) -> str:
    """Return a relative name unchanged if it stays below the root.

    :raises ValueError: when it does not.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise ValueError(f"{name!r} is not a name below an output root")
    return name


# --- the owner's record ---------------------------------------------------------------------------


def parse_record(text: str, uri: str) -> dict[str, Any]:
    """Read the text of the owner's record.

    :raises UsageError: when it is none, or of a newer format.
    """
    try:
        record = json.loads(text)
        version = record["format"]
        well_formed = isinstance(record["ensemble"], str) and isinstance(record["settings"], dict)
        well_formed = well_formed and isinstance(record["last"], str)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(_unreadable_record(uri)) from error
    if version != SETTINGS_FORMAT:
        raise UsageError(
            f"{uri}/{SETTINGS} has format {version}, this version reads {SETTINGS_FORMAT}: "
            "use the version of airflow-provider-ensemble that wrote it"
        )
    if not well_formed:
        raise UsageError(_unreadable_record(uri))
    return dict(record)


def judge_claim(record: Mapping[str, Any], uri: str, ensemble: str, settings_hash: str) -> Claim:
    """Decide whether an ensemble may use a root, and what is new about it.

    :raises UsageError: when the root belongs to another ensemble.
    """
    if not record:
        return Claim(is_new=True, previous=None)
    if record["ensemble"] != ensemble:
        raise UsageError(
            f"output root {uri} belongs to the ensemble {record['ensemble']!r}, not to "
            f"{ensemble!r}: give this ensemble an output of its own"
        )
    previous = record["last"] if record["last"] != settings_hash else None
    return Claim(is_new=settings_hash not in record["settings"], previous=previous)


def enter_claim(
    record: Mapping[str, Any], ensemble: str, settings: Settings, now: float
) -> dict[str, Any]:
    """Return the record with these settings entered as the last used ones."""
    known = dict(record.get("settings", {}))
    known.setdefault(settings.hash, {"settings": settings.as_dict(), "first_used": round(now, 3)})
    return {
        "format": SETTINGS_FORMAT,
        "ensemble": ensemble,
        "last": settings.hash,
        "settings": known,
    }


def _unreadable_record(uri: str) -> str:
    return (
        f"{uri}/{SETTINGS} cannot be read as the record of this root's owner: restore it, or "
        "delete it if you know that no other ensemble writes here"
    )


# --- the local root -------------------------------------------------------------------------------


class LocalRoot(OutputRoot):
    """An output root on a file system of this machine, shared or not.

    :param path: absolute.
    """

    is_local = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def publish(self, source: Path, name: str) -> tuple[int, str]:
        """See :meth:`OutputRoot.publish`."""
        target = self.path / check_name(name)
        with _explained(f"cannot publish {source} as {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            if not source.is_file():
                raise StorageError(f"cannot publish {source}: it is gone or is not a regular file")
            if source.is_symlink() or source.stat().st_nlink > 1:
                return self._publish_copy(source, target)
            with source.open("rb") as stream:
                size, checksum = measure(stream)
                try:
                    _move(source, target, checksum)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    return self._publish_copy(source, target)
                os.fsync(stream.fileno())
            return size, checksum

    def _publish_copy(self, source: Path, target: Path) -> tuple[int, str]:
        aside = _aside(target)
        try:
            with source.open("rb") as stream, aside.open("xb") as copy:
                size, checksum = measure(stream, copy)
                copy.flush()
                os.fsync(copy.fileno())
            _move(aside, target, checksum)
        finally:
            aside.unlink(missing_ok=True)
        return size, checksum

    def fetch(self, name: str) -> Path:
        """See :meth:`OutputRoot.fetch`."""
        path = self.path / check_name(name)
        if not path.is_file():
            raise NotInRoot(f"there is no {name} below {self.uri}")
        return path

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`OutputRoot.read`."""
        path = self.path / check_name(name)
        with _explained(f"cannot read {path}"), path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(-1 if length is None else length)

    def write_text(self, name: str, text: str) -> None:
        """See :meth:`OutputRoot.write_text`."""
        target = self.path / check_name(name)
        aside = _aside(target)
        with _explained(f"cannot write {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with aside.open("x", encoding="utf-8") as stream:
                    stream.write(text)
                    stream.flush()
                    os.fsync(stream.fileno())
                aside.replace(target)
            finally:
                aside.unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """See :meth:`OutputRoot.exists`."""
        return (self.path / check_name(name)).is_file()

    def delete(self, name: str) -> None:
        """See :meth:`OutputRoot.delete`."""
        path = self.path / check_name(name)
        with _explained(f"cannot delete {path}"):
            path.unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :meth:`OutputRoot.list`."""
        start = prefix.rpartition("/")[0]
        if start:
            check_name(start)
        for folder, folders, files in os.walk(self.path / start, onerror=_refuse_folder):
            relative = os.path.relpath(folder, self.path)
            below = "" if relative == "." else f"{relative}/"
            folders[:] = sorted(name for name in folders if _may_hold(f"{below}{name}/", prefix))
            for name in sorted(below + file for file in files):
                if name.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):
                        # Paths as text: of a folder with thousands, every look makes them all.
                        yield name, os.stat(f"{self.path}/{name}").st_size  # noqa: PTH116

    def modified(self, name: str) -> float:
        """See :meth:`OutputRoot.modified`."""
        path = self.path / check_name(name)
        with _explained(f"cannot look at {path}"):
            return path.stat().st_mtime

    def append(self, name: str) -> Appender:
        """See :meth:`OutputRoot.append`."""
        path = self.path / check_name(name)
        with _explained(f"cannot append to {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            return LocalAppender(path)

    def check_there(self) -> None:
        """See :meth:`OutputRoot.check_there`."""
        if not self.path.is_dir():
            raise UsageError(f"output root {self.path} does not exist: check 'output'")

    def check_writable(self) -> None:
        """See :meth:`OutputRoot.check_writable`."""
        probe = self.path / ".ensemble" / f".{uuid.uuid4().hex}.tmp"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            try:
                probe.write_bytes(b"probe")
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(
                f"output root {self.uri} is not writable: {error.strerror or error}. "
                f"{_what_to_do(error)}"
            ) from error

    @contextlib.contextmanager
    def _owner_lock(self) -> Iterator[None]:
        path = self.path / ".ensemble" / "settings.lock"
        with _explained(f"cannot lock {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)


def _what_to_do(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space, such as with `ensemble gc`, or set another 'output'"
    return "Create it, change its permissions, or set another 'output'"


class LocalAppender(Appender):
    """Adds to a file of a local root. Every write is one append of the operating system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor: int | None = os.open(path, flags, 0o666)
        self._is_dirty = False
        _sync_folder(path.parent)

    def write(self, data: bytes) -> None:
        """See :meth:`Appender.write`."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        self._is_dirty = True
        rest = memoryview(data)
        with _explained(f"cannot append to {self.path}"):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def sync(self) -> None:
        """See :meth:`Appender.sync`."""
        if self._descriptor is None or not self._is_dirty:
            return
        self._is_dirty = False  # before, not after: another thread may write meanwhile
        with _explained(f"cannot sync {self.path}"):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """See :meth:`Appender.close`."""
        if self._descriptor is None:
            return
        try:
            self.sync()
        finally:
            os.close(self._descriptor)
            self._descriptor = None


def measure(stream: BinaryIO, copy: BinaryIO | None = None) -> tuple[int, str]:
    """Read a stream to its end; return its size and checksum, and copy it where asked."""
    size = 0
    total = hashlib.sha256()
    while block := stream.read(_BLOCK):
        size += len(block)
        total.update(block)
        if copy is not None:
            copy.write(block)
    return size, f"sha256:{total.hexdigest()}"


def _move(source: Path, target: Path, checksum: str) -> None:
    """Give a file its final name on the same file system, unless other content has it."""
    try:
        os.link(source, target)
    except FileExistsError:
        _check_same(target, checksum)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Without hard links there is a moment between the question and the rename; the execution
        # token in the name is what keeps two writers apart then.
        if not target.exists():
            source.rename(target)
            return
        _check_same(target, checksum)
    source.unlink()


def _check_same(target: Path, checksum: str) -> None:
    with target.open("rb") as stream:
        if measure(stream)[1] == checksum:
            return
    raise StorageError(f"{target} exists with other content: products are never overwritten")


def _may_hold(folder: str, prefix: str) -> bool:
    return folder.startswith(prefix) or prefix.startswith(folder)


def _refuse_folder(error: OSError) -> None:
    """Let a folder that is gone be gone, and never take an unreadable one for empty."""
    if not isinstance(error, FileNotFoundError):
        raise StorageError(f"cannot list {error.filename}: {error.strerror}") from error


def _aside(target: Path) -> Path:
    """Return a new name in the target's folder, short enough beside the longest ids."""
    return target.parent / f".{uuid.uuid4().hex}.tmp"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Wait for the lock; on a file system that has none, go on without."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Say what was tried when the operating system refuses."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise NotInRoot(f"{what}: no such file") from error
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}") from error
