"""A runner in whose way something comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from airflow_ensemble.slurm.runner import Completed, Entry, Runner

Result = TypeVar("Result")
#: Is told the method's name and its first argument, and does the rest itself.
Meddle = Callable[[str, str, Callable[[], object]], object]


class MeddledRunner(Runner):
    """Passes everything on, through somebody who may act before, after or instead.

    :param inner: does the work.
    :param meddle: is called for every use.
    """

    def __init__(self, inner: Runner, meddle: Meddle) -> None:
        self._inner = inner
        self._meddle = meddle

    @property
    def place(self) -> str:
        return self._inner.place

    def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0) -> Completed:
        return self._do(
            "run", script, lambda: self._inner.run(script, input=input, timeout=timeout)
        )

    def list(self, folder: str) -> list[Entry]:
        return self._do("list", folder, lambda: self._inner.list(folder))

    def stat(self, path: str) -> Entry:
        return self._do("stat", path, lambda: self._inner.stat(path))

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._do("read", path, lambda: self._inner.read(path, offset, length))

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        self._do("write", path, lambda: self._inner.write(path, data, mode=mode))

    def append(self, path: str, data: bytes) -> None:
        self._do("append", path, lambda: self._inner.append(path, data))

    def make_folders(self, path: str) -> None:
        self._do("make_folders", path, lambda: self._inner.make_folders(path))

    def rename(self, source: str, target: str) -> None:
        self._do("rename", source, lambda: self._inner.rename(source, target))

    def remove(self, path: str) -> None:
        self._do("remove", path, lambda: self._inner.remove(path))

    def close(self) -> None:
        self._inner.close()

    def _do(self, name: str, argument: str, work: Callable[[], Result]) -> Result:
        return self._meddle(name, argument, work)  # type: ignore[return-value]


def at_sbatch(act: Callable[[Callable[[], object]], object]) -> Callable[[Runner], Runner]:
    """Return what puts ``act`` in the way of the first ``sbatch``, and of nothing else.

    :param act: is given what runs it.
    """
    done: list[bool] = []

    def meddle(name: str, argument: str, work: Callable[[], object]) -> object:
        if name == "run" and "sbatch" in argument and "--parsable" in argument and not done:
            done.append(True)
            return act(work)
        return work()

    return lambda inner: MeddledRunner(inner, meddle)
