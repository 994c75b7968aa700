"""How commands and files reach a cluster: one interface, three ways.

A runner belongs to one thread at a time. It connects when it is first used, and again after it has
lost its connection; ``connections`` counts how often. Nothing here knows what Slurm is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Completed:
    """What a command answered.

    :param code: its exit code; 128 + n when signal n ended it.
    :param out: standard output, decoded as UTF-8 with replacement.
    :param err: standard error, likewise.
    """

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Entry:
    """A file or folder as a listing shows it.

    :param name: the last part of its path.
    :param size: bytes.
    :param modified: Unix time, seconds, by the file system's clock.
    :param is_folder: whether it is a folder.
    """

    name: str
    size: int
    modified: float
    is_folder: bool


class Runner(ABC):
    """Commands and files of one account on one cluster.

    A context manager: leaving it closes the connection. Every method raises
    :class:`~airflow_ensemble.slurm.errors.Unreachable` when there is no connection to be had,
    :class:`~airflow_ensemble.slurm.errors.AccessRefused` when the cluster refuses us, and
    :class:`~airflow_ensemble.slurm.errors.OutcomeUnknown` when the connection broke, or the time
    ran out, in the middle. Paths are absolute, on the cluster. What the file methods cannot do for
    reasons of the file system they raise as the ``OSError`` of that errno, path included.
    """

    #: Connections opened so far.
    connections: int = 0

    @property
    @abstractmethod
    def place(self) -> str:
        """Return ``user@host`` for messages, or ``this machine``."""

    @abstractmethod
    def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0) -> Completed:
        """Run a text with ``/bin/sh`` in the account's home folder, and wait.

        Whatever is user-given in it must have been quoted by the caller (``shlex``).

        :param script: commands for a POSIX shell.
        :param input: standard input.
        :param timeout: seconds until the outcome is given up as unknown.
        """

    @abstractmethod
    def list(self, folder: str) -> list[Entry]:
        """Return what is in a folder, in any order.

        :raises FileNotFoundError: when there is no such folder.
        """

    @abstractmethod
    def stat(self, path: str) -> Entry:
        """Return what is known of one file or folder.

        :raises FileNotFoundError: when there is none.
        """

    @abstractmethod
    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return bytes of a file from ``offset`` on; none when that is at or past its end."""

    @abstractmethod
    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a whole file aside and rename it over ``path``; its folder must exist."""

    @abstractmethod
    def append(self, path: str, data: bytes) -> None:
        """Add to the end of a file, which is made if there is none."""

    @abstractmethod
    def make_folders(self, path: str) -> None:
        """Make a folder and those above it; one that is there already is fine."""

    @abstractmethod
    def rename(self, source: str, target: str) -> None:
        """Rename a file or folder in one step.

        :raises FileExistsError: when ``target`` exists.
        """

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; one that is gone already is fine."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; the next use opens another."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
