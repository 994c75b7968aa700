"""Every test of the conformance suite runs against SQLite and against a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex
from tests.engine.index.cases import recipe
from tests.services.postgres import PostgresServer


@pytest.fixture(params=["sqlite", "postgres"])
def new_location(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """Return what makes the location of an index that does not exist yet."""
    if request.param == "sqlite":
        return lambda: str(tmp_path_factory.mktemp("index") / "index.sqlite")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database


@pytest.fixture
def location(new_location: Callable[[], str]) -> str:
    return new_location()


@pytest.fixture
def index(location: str) -> Iterator[OutputIndex]:
    opened = open_index(location, create=True)
    yield opened
    opened.close()


@pytest.fixture
def key(index: OutputIndex) -> EnsembleKey:
    return index.define(recipe())


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"
