"""Putting files on a cluster: whole folders, in one command each, or nothing at all."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import os
import secrets
import shlex
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from airflow_ensemble.engine.bundle import NAME, write_bundle
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.errors import ClusterError
from airflow_ensemble.slurm.runner import Runner

log = logging.getLogger(__name__)

#: Bytes of ``execution.code`` that are staged at most: more is data, not code.
MAX_CODE = 200 << 20
#: Seconds for one upload.
UPLOAD_LIMIT = 900.0
#: File of a folder that says which files are in it.
STAMP = ".staged"

_NO_ROOT, _NOT_WRITABLE, _FAILED = 71, 72, 73
_DENIED = ("permission denied", "read-only file system", "operation not permitted")
_NO_CODE = frozenset({"__pycache__", "node_modules"})


class StagingError(ClusterError):
    """Files could not be put on the cluster; nothing half staged is left there."""


class StagingRefused(StagingError, UsageError):
    """Files cannot be put on the cluster until a person changes something there."""

    exit_code = 2


@dataclass(frozen=True)
class File:
    """A file to be.

    :param name: its path below the folder that it belongs to.
    :param data: its bytes.
    :param is_program: whether it may be executed.
    """

    name: str
    data: bytes
    is_program: bool = False


class Stage:
    """The folder on a cluster below which everything of ours lies.

    :param runner: how it is reached.
    :param root: the folder.
    :param makes_root: whether it is made where it is missing; else that is an error.
    """

    def __init__(self, runner: Runner, root: str, *, makes_root: bool = False) -> None:
        self.runner = runner
        self.root = root
        self._makes_root = makes_root

    def stamps(self, folders: Sequence[str]) -> list[str | None]:
        """Return what stamp each folder has; None for one that is not there."""
        names = " ".join(map(shlex.quote, folders))
        script = f'for d in {names}; do cat "$d"/{STAMP} 2>/dev/null || echo; done'
        answer = self.runner.run(script)
        lines = [line or None for line in answer.out.split("\n")[: len(folders)]]
        if len(lines) != len(folders):
            raise StagingError(
                f"cannot look at {self.root} on {self.runner.place}: {answer.err.strip()}"
            )
        return lines

    def put(self, folder: str, files: Iterable[File], stamp: str) -> None:
        """Make a folder with files in it; one that is there gets these files in place of its own.

        :param folder: absolute path below the root; folders above it are made.
        :param stamp: kept in the folder, to know its contents by.
        :raises StagingRefused: when the root is missing, or may not be written to.
        :raises StagingError: when it could not be done now, such as for a full disk.
        """
        archive = _pack([*files, File(STAMP, f"{stamp}\n".encode())])
        script = _upload_script(self.root, folder, self._makes_root)
        answer = self.runner.run(script, input=archive, timeout=UPLOAD_LIMIT)
        if answer.code:
            raise _explain(answer.code, answer.err, folder, self.root, self.runner.place)
        log.debug("put %d bytes into %s on %s", len(archive), folder, self.runner.place)

    def put_missing(self, folders: Sequence[tuple[str, str, Iterable[File]]]) -> None:
        """Put those of some folders (path, stamp, files) that are not there with that stamp."""
        found = self.stamps([folder for folder, _, _ in folders])
        for (folder, stamp, files), present in zip(folders, found):
            if present != stamp:
                self.put(folder, files, stamp)


def stamp_of(files: Iterable[File]) -> str:
    """Return a stamp that names exactly these files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{len(file.data)}\0{file.is_program}\0".encode())
        digest.update(file.data)
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def worker_bundle() -> tuple[str, bytes]:
    """Return the stamp and the bytes of the worker bundle of this version."""
    with tempfile.TemporaryDirectory(prefix="ensemble-") as folder:
        data = write_bundle(Path(folder) / NAME).read_bytes()
    return stamp_of([File(NAME, data, is_program=True)]), data


def read_code(path: str, excluded: Sequence[str] = ()) -> list[File]:
    """Return the files of one entry of ``execution.code``, in order.

    Hidden files, caches, virtual environments and ``excluded`` folders are left out.

    :param path: a folder, or a single file such as a ``.zip``.
    :param excluded: absolute paths: output and control folders that lie inside.
    :raises UsageError: when it cannot be read, or is too large to be code.
    """
    files, size = [], 0
    try:
        for name, source in _code_files(Path(path), {os.path.realpath(one) for one in excluded}):
            size += source.stat().st_size
            if size > MAX_CODE:
                raise UsageError(
                    f"execution.code: {path} holds more than {MAX_CODE >> 20} MiB: name the folder "
                    "of the model's modules alone; data belongs on the cluster's file system"
                )
            files.append(File(name, source.read_bytes(), os.access(source, os.X_OK)))
    except OSError as error:
        raise UsageError(f"execution.code: {path} cannot be read: {error}") from error
    return files


def _code_files(path: Path, excluded: set[str]) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield path.name, path
        return
    seen = set(excluded)
    for folder, below, names in os.walk(path, followlinks=True):
        below[:] = sorted(name for name in below if _is_code(Path(folder, name), seen))
        for name in sorted(names):
            source = Path(folder, name)
            if name.startswith(".") or name.endswith((".pyc", ".sqlite")):
                continue
            if source.is_file():
                yield source.relative_to(path).as_posix(), source


def _is_code(folder: Path, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    if real in seen or folder.name in _NO_CODE or folder.name.startswith("."):
        return False
    seen.add(real)  # a link that leads back up would never end
    return not (folder / "pyvenv.cfg").exists()


def _pack(files: Iterable[File]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=5) as archive:
        for file in files:
            entry = tarfile.TarInfo(file.name)
            entry.size = len(file.data)
            entry.mode = 0o755 if file.is_program else 0o644
            archive.addfile(entry, io.BytesIO(file.data))
    return stream.getvalue()


def _upload_script(root: str, folder: str, makes_root: bool) -> str:
    """Return what unpacks an archive from its input beside the folder, and then moves it there."""
    parent, _, name = folder.rpartition("/")
    aside = f"{parent}/.{name}.{secrets.token_hex(6)}"
    lines = [
        "LC_ALL=C; export LC_ALL",
        f"root={shlex.quote(root)} parent={shlex.quote(parent)}",
        f"folder={shlex.quote(folder)} aside={shlex.quote(aside)}",
        "trap 'rm -rf \"$aside\"' EXIT",
        "trap 'exit 74' HUP INT TERM",
        'mkdir -p "$root" || exit 72' if makes_root else "",
        f'[ -d "$root" ] || exit {_NO_ROOT}',
        f'mkdir -p "$parent" && mkdir "$aside" || exit {_NOT_WRITABLE}',
        f'tar -xzof - -C "$aside" || exit {_FAILED}',
        'if mv -T "$aside" "$folder" 2>/dev/null; then exit 0; fi',
        f'[ -d "$folder" ] || {{ mv -T "$aside" "$folder"; exit {_FAILED}; }}',
        # The stamp comes last: until then the folder is not what it is going to be.
        'for f in "$aside"/*; do there="$folder/${f##*/}"',
        f'  if [ -d "$there" ]; then cp -R "$f"/. "$there"/ || exit {_FAILED}',
        f'  else mv -f "$f" "$there" || exit {_FAILED}; fi',
        "done",
        f'mv -f "$aside"/{STAMP} "$folder"/{STAMP} || exit {_FAILED}',
    ]
    return "\n".join(filter(None, lines))


def _explain(code: int, words: str, folder: str, root: str, place: str) -> StagingError:
    said = "; ".join(line.strip() for line in words.splitlines() if line.strip())[-500:]
    if code == _NO_ROOT:
        return StagingRefused(
            f"remote_root {root} is no folder on {place}: make it there, or name another one"
        )
    if any(word in said.lower() for word in _DENIED):
        return StagingRefused(
            f"no permission to write {folder} on {place}: {said}. Name a remote_root that the "
            "account can write to"
        )
    return StagingError(
        f"files could not be put into {folder} on {place}, and none were left there: "
        f"{said or f'the command ended with {code}'}"
    )
