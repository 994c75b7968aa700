"""Who waits hears of what can be claimed: at once on PostgreSQL, by looking on SQLite."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from airflow_ensemble.engine.bell import Bell, wait_readable
from airflow_ensemble.engine.errors import IndexUnavailable
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex, Scope
from airflow_ensemble.engine.index.output_index import DatabaseIndex
from airflow_ensemble.engine.simulation import Reason
from tests.engine.index.cases import (
    dispatched,
    finished,
    limited,
    recipe,
    sims,
    started,
)
from tests.services.postgres import PostgresServer

#: Seconds that nobody has to wait who is told; many, because machines are busy.
LONG = 60.0


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


class Listener:
    """An index of its own that waits for news of an ensemble."""

    def __init__(self, location: str, key: EnsembleKey, bell: Bell) -> None:
        self.index = open_index(location)
        self._key = key
        self._bell = bell

    def hears(self, seconds: float) -> bool:
        return self.index.await_news(self._key, seconds, self._bell.fileno())


@pytest.fixture
def server(postgres: PostgresServer) -> PostgresServer:
    return postgres


@pytest.fixture
def listener(server: PostgresServer, bell: Bell) -> Iterator[Listener]:
    location = server.new_database()
    with_index = open_index(location, create=True)
    key = with_index.define(limited(3))
    with_index.close()
    listener = Listener(location, key, bell)
    assert listener.hears(LONG), "what was said before anybody listened must be looked for"
    assert not listener.hears(0.05)
    yield listener
    listener.index.close()


def location_of(listener: Listener) -> str:
    database = listener.index._database  # type: ignore[attr-defined]
    parameters = database._parameters
    return (
        f"postgresql://{parameters['user']}:{parameters['password']}@{parameters['host']}:"
        f"{parameters['port']}/{parameters['dbname']}"
    )


# --- both databases -------------------------------------------------------------------------------


def test_the_bell_ends_the_wait(index: OutputIndex, key: EnsembleKey, bell: Bell) -> None:
    index.await_news(key, 0.01, bell.fileno())
    threading.Timer(0.2, bell.ring).start()
    began = time.monotonic()
    assert not index.await_news(key, LONG, bell.fileno())
    assert 0.1 < time.monotonic() - began < LONG / 2
    # Until it is hushed nobody rests.
    assert not index.await_news(key, LONG, bell.fileno())
    bell.hush()
    began = time.monotonic()
    assert not index.await_news(key, 0.2, bell.fileno())
    assert time.monotonic() - began >= 0.19


def test_whether_anything_is_pending_or_unfinished(index: OutputIndex) -> None:
    key = index.define(limited(1))
    assert not index.has_pending(key)
    nothing = index.drained(key)
    assert nothing is not None
    assert nothing.total == 0
    index.register(key, sims("a", "b"), batch_key="b")
    index.enlist(key, "w", "host")
    assert index.has_pending(key)
    assert index.drained(key) is None
    one, two = index.claim("w", 2)
    assert not index.has_pending(key)
    assert index.drained(key) is None
    index.record(key, [finished(one), finished(two, Reason.ERROR)], worker="w")
    counts = index.drained(key)
    assert counts is not None
    assert (counts.complete, counts.failed) == (1, 1)
    index.retry(key, Scope())
    assert index.drained(key) is None


def test_what_a_chunk_holds_is_unfinished(index: OutputIndex, key: EnsembleKey) -> None:
    (chunk,) = dispatched(index, key, "a")
    assert not index.has_pending(key)
    assert index.drained(key) is None
    index.record(key, [finished(one) for one in index.assignments(chunk.id)])
    assert index.drained(key) is not None


# --- PostgreSQL tells -----------------------------------------------------------------------------


def _register(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims("new"), batch_key="n")


def _register_anew(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims("done"), batch_key="again", skip_existing=False)


def _retry(index: OutputIndex, key: EnsembleKey) -> None:
    assert index.retry(key, Scope(ids=["failed"])) == 1


def _fail(index: OutputIndex, key: EnsembleKey) -> None:
    (one,) = index.claim("w", 1)
    index.record(key, [started(one), finished(one, Reason.ERROR)], worker="w")


def _discharge(index: OutputIndex, key: EnsembleKey) -> None:
    index.claim("w", 1)
    assert index.discharge("w") == 1


def _dismiss(index: OutputIndex, key: EnsembleKey) -> None:
    index.claim("w", 1)
    assert index.dismiss("host", Reason.LOST, "the pod has ended") == 1


def _expire(index: OutputIndex, key: EnsembleKey) -> None:
    assert isinstance(index, DatabaseIndex)
    index.claim("w", 1)
    index._database.transact(lambda s: s.execute("UPDATE workers SET expires = 0", {}))
    assert index.expire() == 1


def _settle(index: OutputIndex, key: EnsembleKey) -> None:
    batch = index.register(key, sims("dealt"), batch_key="d").batch
    (chunk,) = index.dispatch(key, batch, backend="local", n_chunks=1)
    assert index.settle(chunk.id) == 1


CAUSES: list[Callable[[OutputIndex, EnsembleKey], None]] = [
    *(_register, _register_anew, _retry, _fail, _discharge, _dismiss, _expire, _settle),
]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__.strip("_"))
def test_who_listens_is_told_of_what_becomes_pending(
    listener: Listener, cause: Callable[[OutputIndex, EnsembleKey], None]
) -> None:
    other = open_index(location_of(listener))
    key = other.define(limited(3))
    other.register(key, sims("done", "failed", "waits"), batch_key="b")
    other.enlist(key, "w", "host")
    done, failed = other.claim("w", 2)
    other.record(key, [finished(done), finished(failed, Reason.INVALID)], worker="w")
    while listener.hears(0.2):
        pass
    heard: list[float] = []

    def wait() -> None:
        if listener.hears(LONG):
            heard.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    cause(other, key)
    told = time.monotonic()
    thread.join(LONG + 5)
    assert heard, "nobody told"
    assert heard[0] - told < 2
    other.close()


def test_what_concerns_another_ensemble_or_nobody_wakes_nobody(listener: Listener) -> None:
    other = open_index(location_of(listener))
    key, stranger = other.define(limited(3)), other.define(recipe("stranger"))
    other.register(stranger, sims("a"), batch_key="b")
    other.enlist(key, "w", "host")
    other.renew("w")
    assert other.claim("w", 1) == []
    assert other.expire() == 0
    assert other.retry(key, Scope()) == 0
    assert not listener.hears(0.3)
    other.close()


def test_what_is_said_while_it_does_other_things_is_heard(listener: Listener) -> None:
    other = open_index(location_of(listener))
    key = other.define(limited(3))
    other.register(key, sims("a"), batch_key="b")
    time.sleep(0.2)
    assert listener.index.counts(key).pending == 1  # the message comes with this answer
    began = time.monotonic()
    assert listener.hears(LONG)
    assert time.monotonic() - began < 2
    assert not listener.hears(0.05)
    other.close()


def test_a_transaction_that_fails_tells_nobody(listener: Listener) -> None:
    other = open_index(location_of(listener))
    assert isinstance(other, DatabaseIndex)
    key = other.define(limited(3))

    def work(session: object) -> None:
        session.announce(key.number)  # type: ignore[attr-defined]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        other._database.transact(work)
    assert not listener.hears(0.3)
    other.close()


def test_a_broken_connection_is_news_and_the_next_one_listens(bell: Bell) -> None:
    with PostgresServer() as server:
        location = server.new_database()
        other = open_index(location, create=True)
        key = other.define(limited(3))
        listener = Listener(location, key, bell)
        assert listener.hears(LONG)
        threading.Timer(0.2, server.stop).start()
        began = time.monotonic()
        assert listener.hears(LONG), "something may have been said meanwhile"
        assert time.monotonic() - began < LONG / 2
        while not server.is_stopped:
            time.sleep(0.02)
        assert listener.hears(LONG), "an index that is out of reach is no error"
        server.start()
        assert listener.index.counts(key).total == 0
        assert listener.hears(LONG), "it listens again, and looks first"
        assert not listener.hears(0.05)
        other.register(key, sims("a"), batch_key="b")
        assert listener.hears(LONG)
        listener.index.close()
        other.close()


def test_in_a_hurry_a_server_that_is_away_is_given_up_soon(bell: Bell) -> None:
    with PostgresServer() as server:
        index = open_index(server.new_database(), create=True)
        key = index.define(recipe())
        server.stop()
        threading.Timer(0.5, index.hurry, [1.0]).start()
        began = time.monotonic()
        with pytest.raises(IndexUnavailable):
            index.counts(key)
        assert 0.9 < time.monotonic() - began < 5
        index.close()


def test_a_bell_rings_until_it_is_hushed() -> None:
    bell = Bell()
    assert wait_readable([bell.fileno()], 0) == []
    for _ in range(70_000):  # more than a pipe holds
        bell.ring()
    assert wait_readable([bell.fileno()], 1) == [bell.fileno()]
    while wait_readable([bell.fileno()], 0):
        bell.hush()
    bell.close()
    bell.ring()
