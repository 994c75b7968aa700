from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator

import pytest

from airflow_ensemble.engine.errors import IndexReadOnly, IndexUnavailable, UsageError
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.database import Session
from airflow_ensemble.engine.index.interface import Scope
from airflow_ensemble.engine.index.output_index import DatabaseIndex
from airflow_ensemble.engine.index.postgres import PostgresDatabase
from airflow_ensemble.engine.index.statements import Statements
from tests.engine.index.cases import dispatched, finished, ids_of, recipe, sims, started
from tests.services.postgres import PASSWORD, PostgresServer


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may stop."""
    with PostgresServer(durable=True) as server:
        yield server


def message(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


@pytest.mark.parametrize("crash", [False, True])
def test_a_restarted_server_is_found_again(own_server: PostgresServer, crash: bool) -> None:
    index = open_index(own_server.new_database(), create=True)
    key = index.define(recipe())
    index.register(key, sims(*range(20)), batch_key="b")
    index.enlist(key, "w", "host")
    first = index.claim("w", 10)
    own_server.stop(crash=crash)
    threading.Timer(0.5, own_server.start).start()
    assert index.record(key, [started(one) for one in first], worker="w") == 0
    assert index.record(key, [finished(one) for one in first], worker="w") == 10
    own_server.stop(crash=crash)
    own_server.start()
    assert index.counts(key).complete == 10
    assert len(index.claim("w", 100)) == 10
    index.close()


def test_an_unreachable_server_is_given_up_in_time(own_server: PostgresServer) -> None:
    location = own_server.new_database()
    index = DatabaseIndex(PostgresDatabase(location, patience=1.0), create=True)
    key = index.define(recipe())
    own_server.stop()
    try:
        begin = time.monotonic()
        with pytest.raises(IndexUnavailable) as refusal:
            index.register(key, sims(1), batch_key="b")
        assert time.monotonic() - begin < 5
        text = message(refusal.value)
        assert f"127.0.0.1:{own_server.port}" in text
        assert location.rsplit("/", 1)[1] in text
        assert PASSWORD not in text
        assert refusal.value.exit_code == 3
        with pytest.raises(IndexUnavailable):
            DatabaseIndex(PostgresDatabase(location, patience=0.2))
    finally:
        own_server.start()
    assert index.counts(key).total == 0
    assert index.register(key, sims(1), batch_key="b").new == 1
    index.close()


def test_a_connection_lost_while_registering_leaves_nothing(postgres: PostgresServer) -> None:
    location = postgres.new_database()
    index = open_index(location, create=True)
    key = index.define(recipe())

    def table() -> Iterator[object]:
        yield from sims(*range(30_000))
        cut_connections(postgres, location)
        yield from sims(*range(30_000, 60_000))

    with pytest.raises(IndexUnavailable, match="repeated"):
        index.register(key, table(), batch_key="b")  # type: ignore[arg-type]
    assert index.counts(key).total == 0
    assert index.register(key, sims(*range(5)), batch_key="b").new == 5
    index.close()


def test_a_claim_whose_answer_was_lost_is_found_again(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = postgres.new_database()
    index = open_index(location, create=True)
    key = index.define(recipe())
    index.register(key, sims(*range(10)), batch_key="b")
    index.enlist(key, "w", "host")
    lose_next_answer(index, monkeypatch, postgres, location)
    claimed = index.claim("w", 4)
    assert ids_of(claimed) == ["0", "1", "2", "3"]
    assert index.renew("w") == {(one.simulation.id, one.attempt) for one in claimed}
    assert index.counts(key).pending == 6
    index.close()


def test_other_calls_whose_answer_was_lost_do_nothing_twice(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_ensemble.engine.index.interface import Scope
    from airflow_ensemble.engine.simulation import Reason

    location = postgres.new_database()
    index = open_index(location, create=True)
    key = index.define(recipe())
    chunk = dispatched(index, key, *range(4), n_chunks=1)[0]
    one, two, *_ = index.assignments(chunk.id)
    lose_next_answer(index, monkeypatch, postgres, location)
    index.record(key, [started(one), finished(one), finished(two, Reason.ERROR)])
    assert (index.counts(key).complete, len(index.attempts(key, "1"))) == (1, 1)
    info = index.simulation(key, "1")
    assert info is not None
    assert info.tries == 1
    lose_next_answer(index, monkeypatch, postgres, location)
    assert index.dispatch(key, chunk.batch, backend="x", n_chunks=3) == index.chunks(chunk.batch)
    lose_next_answer(index, monkeypatch, postgres, location)
    assert len(index.cancel(key, Scope())) == 3
    index.close()


def test_jobs_whose_answer_was_lost_are_entered_and_begun_once(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = postgres.new_database()
    index = open_index(location, create=True)
    key = index.define(recipe())
    chunk = dispatched(index, key, 1)[0]
    lose_next_answer(index, monkeypatch, postgres, location)
    job = index.prepare_job(chunk.batch, [(chunk.id, 1)], place="hpc", parent="/x")
    assert index.jobs(key) == [job]
    for attempt in (1, 2):
        lose_next_answer(index, monkeypatch, postgres, location)
        begun = index.begin_attempt(job.name, 300.0, after=attempt - 1)
        assert begun.attempt == attempt
        assert index.jobs(key) == [begun]
    lose_next_answer(index, monkeypatch, postgres, location)
    submitted = index.note_submitted(job.name, "4711")
    assert index.jobs(key) == [submitted]
    lose_next_answer(index, monkeypatch, postgres, location)
    assert index.resubmit(chunk.id, submission=1).submission == 2
    assert index.chunk(chunk.id).submission == 2
    index.close()


def test_wrong_credentials_fail_at_once_and_show_no_password(postgres: PostgresServer) -> None:
    begin = time.monotonic()
    for location in (
        postgres.dsn(password="wrong-but-secret"),
        postgres.dsn("no_such_database"),
    ):
        with pytest.raises(UsageError, match="check the connection's user") as refusal:
            open_index(location, create=True)
        text = message(refusal.value)
        assert "wrong-but-secret" not in text
        assert PASSWORD not in text
    assert time.monotonic() - begin < 5


def test_a_malformed_address_shows_no_password() -> None:
    for location in (
        "postgresql://u:pass-word@host/db?nonsense=1",
        "postgresql://u:pass-word@[::1/db",
    ):
        with pytest.raises(UsageError, match="no PostgreSQL address") as refusal:
            open_index(location)
        assert "pass-word" not in message(refusal.value)


def test_missing_rights_say_what_to_grant(postgres: PostgresServer) -> None:
    location = postgres.new_database()
    postgres.execute("DROP ROLE IF EXISTS poor")
    postgres.execute("CREATE ROLE poor LOGIN PASSWORD 'poor-secret'")
    poor = location.replace(f"ensemble:{PASSWORD}", "poor:poor-secret")
    with pytest.raises(UsageError, match="CREATE SCHEMA airflow_ensemble AUTHORIZATION"):
        open_index(poor, create=True)


def test_no_transaction_stays_open(postgres: PostgresServer) -> None:
    location = postgres.new_database()
    name = location.rsplit("/", 1)[1]
    index = open_index(location, create=True)
    key = index.define(recipe())
    seen: list[object] = []

    def look() -> None:
        seen.extend(
            postgres.execute(
                f"SELECT state FROM pg_stat_activity WHERE datname = '{name}' AND state <> 'idle'"
            )
        )

    def table() -> Iterator[object]:
        yield from sims(*range(25_000))
        look()

    index.register(key, table(), batch_key="b")  # type: ignore[arg-type]
    index.enlist(key, "w", "host")
    index.claim("w", 3)
    look()
    next(index.simulations(key))
    look()
    assert seen == []
    index.close()


def test_deadlocks_are_tried_again(postgres: PostgresServer) -> None:
    location = postgres.new_database()
    open_index(location, create=True).close()
    barrier = threading.Barrier(2)
    tries: list[int] = []

    def run(first: str, second: str) -> None:
        database = PostgresDatabase(location)

        def work(session: Session) -> None:
            tries.append(1)
            session.run("meta_write", name=first, value="x")
            if len(tries) <= 2:
                barrier.wait(10)
            session.run("meta_write", name=second, value="x")

        database.transact(work, repeat=False)
        database.close()

    threads = [threading.Thread(target=run, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(tries) == 3


def cut_connections(server: PostgresServer, location: str) -> None:
    name = location.rsplit("/", 1)[1]
    server.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )


def lose_next_answer(
    index: object, monkeypatch: pytest.MonkeyPatch, server: PostgresServer, location: str
) -> None:
    """Cut the connection after the next COMMIT, before the client learns of it."""
    database: PostgresDatabase = index._database  # type: ignore[attr-defined]
    connection = database._connected()
    real = connection.execute

    def execute(text: object, *arguments: object) -> object:
        answer = real(text, *arguments)  # type: ignore[call-overload]
        if text == "COMMIT":
            cut_connections(server, location)
            return real("SELECT 1")
        return answer

    monkeypatch.setattr(connection, "execute", execute)


@pytest.fixture
def readers_location(postgres: PostgresServer) -> str:
    """The location of an index as a role sees it that may only read."""
    location = postgres.new_database()
    index = open_index(location, create=True)
    index.register(index.define(recipe()), sims(1, 2), batch_key="b")
    index.close()
    return postgres.make_reader(location)


def test_a_role_that_may_only_read_reads(readers_location: str) -> None:
    index = open_index(readers_location, read_only=True)
    assert not index.may_write
    (key,) = index.ensembles()
    assert index.counts(key).pending == 2
    assert [info.simulation for info in index.simulations(key)] == sims(1, 2)
    assert list(index.results(key)) == index.attempts(key, "1") == index.open_batches(key) == []
    assert (index.offsets(key), index.recipe(key)) == ({}, recipe())
    assert index.workers(key) == index.jobs(key) == []
    for write in (
        lambda: index.define(recipe(seed=2)),
        lambda: index.register(key, sims(9), batch_key="x"),
        lambda: index.retry(key, Scope()),
        index.expire,
    ):
        with pytest.raises(IndexReadOnly, match="may only read") as refusal:
            write()
        assert "CREATE SCHEMA" not in str(refusal.value)
    index.close()


def test_a_read_only_session_reads(readers_location: str, postgres: PostgresServer) -> None:
    owner = postgres.dsn(readers_location.rsplit("/", 1)[1])
    index = open_index(f"{owner}?options=-cdefault_transaction_read_only%3Don", read_only=True)
    assert not index.may_write
    index.close()
    index = open_index(owner, read_only=True)
    assert index.may_write
    index.close()


def test_an_older_schema_waits_for_its_owner(
    readers_location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = {**Statements("postgres", pyformat=True).migrations(), 99: ["SELECT 1"]}
    monkeypatch.setattr(Statements, "migrations", lambda self: later)
    with pytest.raises(IndexReadOnly, match=r"has schema version \d+, .*99.* brings it forward"):
        open_index(readers_location, read_only=True)
