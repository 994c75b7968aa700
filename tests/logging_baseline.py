"""Logging as it is when the tests begin, given to each of them, whatever ran before it.

A command that runs in this process points the package's logger at its own standard error, and an
Airflow that is imported puts its handlers on the root logger. Fixtures of a wider scope do both
before a test begins, so that putting back what a test found would keep what they did.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

PACKAGE = "airflow_ensemble"


@dataclass(frozen=True)
class _Baseline:
    level: int
    propagate: bool
    handlers: tuple[logging.Handler, ...]

    @classmethod
    def of(cls, logger: logging.Logger) -> _Baseline:
        return cls(logger.level, logger.propagate, tuple(logger.handlers))

    def restore(self, logger: logging.Logger) -> None:
        logger.setLevel(self.level)
        logger.propagate = self.propagate
        for handler in logger.handlers[:]:
            if handler not in self.handlers and not _is_pytests(handler):
                logger.removeHandler(handler)


_BASELINE = {logger: _Baseline.of(logger) for logger in (logging.getLogger(PACKAGE), logging.root)}


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Let each test begin with logging as the session began, and leave it so."""
    _restore()
    yield
    _restore()


def _restore() -> None:
    for logger, baseline in _BASELINE.items():
        baseline.restore(logger)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.startswith(PACKAGE):
            logger.disabled = False


def _is_pytests(handler: logging.Handler) -> bool:
    return type(handler).__module__.startswith("_pytest.")
