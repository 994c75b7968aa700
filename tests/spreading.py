"""How tests are spread over the processes of ``make test``, by what they use.

Each process starts the servers that its tests ask for, on ports and in folders of its own. A whole
Airflow is too dear to have twice: whatever uses it runs in one process, one test after the other.
All else stays together by module, so that what a module prepares is prepared once.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

#: The fixture of which there is one for all processes.
SOLE = "airflow"
#: Fixtures whose tests take long, and mostly wait: they begin before those that are done soon.
SLOW = frozenset({"slurm", "slurm_without_accounting", "own_sshd"})
#: Names the file in which the processes tell the first one what uses the sole fixture, which only
#: they know: what has collected the tests is not what deals them out.
VARIABLE = "ENSEMBLE_TEST_SOLE"


class BySoleOrModule(LoadScopeScheduling):
    """Deals out what uses the sole fixture as one piece, and all else by module."""

    _sole: frozenset[str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        if self._sole is None:
            self._sole = frozenset(Path(os.environ[VARIABLE]).read_text().splitlines())
        return SOLE if nodeid in self._sole else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> BySoleOrModule:
    """Deal tests out in our own way, whatever ``--dist`` says."""
    return BySoleOrModule(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Say where the processes that are about to start shall tell what they know."""
    if config.getoption("numprocesses", None):
        handle, os.environ[VARIABLE] = tempfile.mkstemp(prefix="ensemble-tests-")
        os.close(handle)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what :func:`pytest_configure` has made."""
    if config.getoption("numprocesses", None):
        Path(os.environ.pop(VARIABLE)).unlink(missing_ok=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a process of several: tell what uses the sole fixture, and begin with what takes long."""
    if VARIABLE not in os.environ:
        return
    sole = [item for item in items if SOLE in _fixtures(item)]
    _write(Path(os.environ[VARIABLE]), "".join(f"{item.nodeid}\n" for item in sole))
    slow = {item.path for item in items if SLOW & _fixtures(item)}
    items.sort(key=lambda item: (SOLE not in _fixtures(item), item.path not in slow))


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _write(path: Path, text: str) -> None:
    """Write a file at once, for others write the same there."""
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(text)
    aside.replace(path)
