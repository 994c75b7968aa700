"""Fixtures that several packages of tests share, each in a module of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

pytest_plugins = ["tests.hrrr", "tests.leftovers", "tests.services.postgres", "tests.services.s3"]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command that ran in this process did to the package's logger."""
    logger = logging.getLogger("airflow_ensemble")
    level, propagate, handlers = logger.level, logger.propagate, logger.handlers[:]
    yield
    logger.setLevel(level)
    logger.propagate, logger.handlers[:] = propagate, handlers
