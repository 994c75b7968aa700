from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex, Scope, batch_id
from airflow_ensemble.engine.simulation import Reason, Resources, Simulation, Status
from tests.engine.index.cases import (
    EMPTY,
    FILE,
    at_once,
    dispatched,
    finished,
    ids_of,
    limited,
    recipe,
    sims,
    started,
)


def status(index: OutputIndex, key: EnsembleKey, id: str) -> Status:
    info = index.simulation(key, id)
    assert info is not None
    return info.status


def complete(index: OutputIndex, key: EnsembleKey, *ids: str | int) -> None:
    for chunk in dispatched(index, key, *ids, batch_key="first"):
        index.record(key, [finished(one) for one in index.assignments(chunk.id)])
        index.settle(chunk.id)


def test_new_simulations_are_pending_in_table_order(index: OutputIndex, key: EnsembleKey) -> None:
    given = [
        Simulation("z", {"b": [1, {"c": None}], "a": "é"}, Resources(tasks=2), 30.0, priority=2),
        Simulation("a", {}),
    ]
    registration = index.register(key, given, batch_key="b")
    assert (registration.total, registration.new, registration.pending) == (2, 2, 2)
    assert registration.batch == batch_id(key.name, key.settings_hash, "b")
    known = list(index.simulations(key))
    assert [info.simulation for info in known] == given
    assert all(info.status is Status.PENDING and info.attempt == 0 for info in known)


def test_registering_twice_changes_nothing(index: OutputIndex, key: EnsembleKey) -> None:
    first = index.register(key, sims(1, 2, 3), batch_key="b")
    before = list(index.simulations(key))
    second = index.register(key, sims(1, 2, 3), batch_key="b")
    assert list(index.simulations(key)) == before
    assert (second.batch, second.generation, second.new) == (first.batch, first.generation, 0)
    assert second.pending == 3


def test_an_empty_table_is_no_error(index: OutputIndex, key: EnsembleKey) -> None:
    registration = index.register(key, [], batch_key="b")
    assert registration.total == 0
    assert index.dispatch(key, registration.batch, backend="local", n_chunks=4) == []
    assert index.counts(key, Scope(batch=registration.batch)).total == 0


def test_finished_ones_are_never_demoted(index: OutputIndex) -> None:
    key = index.define(limited(1))
    chunk = dispatched(index, key, 1, 2, 3)[0]
    one, two, _ = index.assignments(chunk.id)
    index.record(key, [finished(one), finished(two, Reason.ERROR)])
    index.settle(chunk.id)
    again = index.register(key, sims(1, 2, 3, 4), batch_key="next")
    assert (again.complete, again.failed, again.pending, again.new) == (1, 1, 2, 1)
    assert status(index, key, "1") is Status.COMPLETE
    assert status(index, key, "2") is Status.FAILED


def test_rows_of_another_batch_are_left_to_it(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, 1, 2)[0]
    other = index.register(key, sims(1, 2, 3), batch_key="other", skip_existing=False)
    assert (other.elsewhere, other.pending, other.new, other.reopened) == (2, 1, 1, 0)
    assert sum(c.size for c in index.dispatch(key, other.batch, backend="local", n_chunks=5)) == 1
    assert index.chunk(chunk.id).unfinished == 2
    mine = index.register(key, sims(1, 2), batch_key="b")
    assert mine.elsewhere == 0


def test_a_claimed_row_counts_as_elsewhere(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims(1, 2), batch_key="b")
    index.enlist(key, "w", "host")
    index.claim("w", 1)
    assert index.register(key, sims(1, 2), batch_key="b").elsewhere == 1


@pytest.mark.parametrize("replace", [False, True])
def test_a_duplicate_id_is_refused_and_changes_nothing(
    index: OutputIndex, key: EnsembleKey, replace: bool
) -> None:
    index.register(key, sims("a"), batch_key="b")
    before = list(index.simulations(key))
    table = [*sims("a", "b", "c"), Simulation("b", {"x": "other"})]
    with pytest.raises(UsageError, match=r"'b' stands more than once.*different parameters"):
        index.register(key, table, batch_key="c", replace=replace)
    with pytest.raises(UsageError, match=r"'b' stands more than once.*the same parameters"):
        index.register(key, sims("b", "b"), batch_key="c")
    assert list(index.simulations(key)) == before
    assert index.register(key, sims("a"), batch_key="c").generation == 1


def test_changed_parameters_are_refused_and_change_nothing(
    index: OutputIndex, key: EnsembleKey
) -> None:
    index.register(key, sims("a", "b"), batch_key="b")
    before = list(index.simulations(key))
    changed = Simulation("b", {"x": "changed"})
    with pytest.raises(UsageError) as refusal:
        index.register(key, [*sims("new"), changed], batch_key="c")
    assert str(refusal.value) == (
        "simulation 'b' is known with other parameters: column 'x' was \"b\" and is now "
        '"changed"; give it another id, or use --replace to compute it anew; nothing was changed'
    )
    assert list(index.simulations(key)) == before


def test_a_refusal_says_how_values_were_written_and_how_many_more_changed(
    index: OutputIndex, key: EnsembleKey
) -> None:
    old = [Simulation(id, {"release": 1.1, "x": 1}) for id in ("a", "b", "c")]
    index.register(key, [*old, *sims("same")], batch_key="b")
    new = {"release": 1.1, "x": 1, "$written": {"release": "1.10"}}
    with pytest.raises(UsageError) as refusal:
        index.register(
            key, [*sims("same"), *(Simulation(one.id, new) for one in old)], batch_key="c"
        )
    assert (
        "simulation 'a' is known with other parameters: column 'release' was written 1.1 and is "
        "now written 1.10 (2 more changed, too); give it"
    ) in str(refusal.value)


def test_replace_opens_a_generation_for_the_changed_rows_only(
    index: OutputIndex, key: EnsembleKey
) -> None:
    complete(index, key, "a", "b")
    table = [*sims("a"), Simulation("b", {"x": "changed"})]
    done = index.register(key, table, batch_key="c", replace=True)
    assert (done.generation, done.reopened, done.complete, done.pending) == (2, 1, 1, 1)
    a, b = index.simulations(key)
    assert (a.generation, a.status) == (1, Status.COMPLETE)
    assert (b.generation, b.status, b.attempt) == (2, Status.PENDING, 1)
    assert b.simulation.params == {"x": "changed"}
    # Until the new one is complete, the older result stands, under the parameters that made it.
    assert [r.params for r in index.results(key)] == [{"x": "a"}, {"x": "b"}]
    retried = index.register(key, table, batch_key="c", replace=True)
    assert (retried.generation, retried.reopened) == (2, 0)
    chunk = index.dispatch(key, done.batch, backend="local", n_chunks=1)[0]
    index.record(key, [finished(one) for one in index.assignments(chunk.id)])
    assert [r.params for r in index.results(key)] == [{"x": "a"}, {"x": "changed"}]


def test_replace_refuses_what_runs(index: OutputIndex, key: EnsembleKey) -> None:
    dispatched(index, key, "a")
    with pytest.raises(UsageError, match=r"'a'.*dispatched at this moment"):
        index.register(key, [Simulation("a", {})], batch_key="c", replace=True)


def test_no_skip_opens_one_generation_per_batch_key(index: OutputIndex, key: EnsembleKey) -> None:
    complete(index, key, 1, 2)
    first = index.register(key, sims(1, 2), batch_key="night", skip_existing=False)
    assert (first.generation, first.reopened, first.pending) == (2, 2, 2)
    chunk = index.dispatch(key, first.batch, backend="local", n_chunks=1)[0]
    one, two = index.assignments(chunk.id)
    assert (one.generation, one.attempt) == (2, 2)
    index.record(key, [finished(one, products=(EMPTY,))])
    retry = index.register(key, sims(1, 2), batch_key="night", skip_existing=False)
    assert (retry.generation, retry.reopened, retry.complete) == (2, 0, 1)
    # The older product of the unfinished one is still the newest complete.
    newest = {r.id: (r.generation, r.products) for r in index.results(key)}
    assert newest == {"1": (2, (EMPTY,)), "2": (1, (FILE,))}
    index.record(key, [finished(two)])
    third = index.register(key, sims(1, 2), batch_key="next night", skip_existing=False)
    assert (third.generation, third.reopened) == (3, 2)


def test_needs_follow_the_newest_table(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims("a"), batch_key="b")
    index.register(key, sims("a", resources=Resources(memory=4096), time_limit=9), batch_key="b")
    info = index.simulation(key, "a")
    assert info is not None
    assert info.simulation.resources == Resources(memory=4096)
    assert info.simulation.time_limit == 9


def test_dependencies_are_refused(index: OutputIndex, key: EnsembleKey) -> None:
    with pytest.raises(UsageError, match="'b' depends on others"):
        index.register(key, [*sims("a"), Simulation("b", depends_on=("a",))], batch_key="b")
    assert index.counts(key).total == 0


def test_a_table_that_breaks_off_changes_nothing(index: OutputIndex, key: EnsembleKey) -> None:
    def table() -> object:
        yield from sims(*range(10))
        raise UsageError("table.csv, line 12: no number")

    with pytest.raises(UsageError, match="line 12"):
        index.register(key, table(), batch_key="b")  # type: ignore[arg-type]
    assert index.counts(key).total == 0
    assert index.register(key, sims(1), batch_key="b").new == 1


def test_several_ensembles_and_settings_stand_side_by_side(index: OutputIndex) -> None:
    keys = [index.define(recipe("a")), index.define(recipe("a", seed=1)), index.define(recipe("b"))]
    for key in keys:
        index.register(key, sims(1, 2), batch_key="same key")
    chunks = [
        index.dispatch(
            key, batch_id(key.name, key.settings_hash, "same key"), backend="x", n_chunks=1
        )
        for key in keys
    ]
    index.record(keys[0], [finished(one) for one in index.assignments(chunks[0][0].id)])
    assert [index.counts(key).complete for key in keys] == [2, 0, 0]
    assert index.ensembles("a") == [keys[1], keys[0]]
    assert set(index.ensembles()) == set(keys)
    assert index.chunk_owner(chunks[2][0].id)[0] == keys[2]


def test_define_keeps_the_newest_recipe(index: OutputIndex) -> None:
    key = index.define(recipe(time_limit=5))
    assert index.define(recipe(time_limit=7)) == key
    assert index.recipe(key) == recipe(time_limit=7)


def test_an_output_root_belongs_to_one_ensemble(index: OutputIndex) -> None:
    index.define(recipe("a", output="/o"))
    index.define(recipe("a", seed=1, output="/o"))
    with pytest.raises(UsageError, match="/o belongs to ensemble 'a'"):
        index.define(recipe("b", output="/o"))


def test_six_registers_at_once_lose_nothing(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    own = 300

    def work(one: OutputIndex, number: int) -> int:
        table = sims(*range(50), *(f"own-{number}-{i}" for i in range(own)))
        return one.register(key, table, batch_key=f"scene {number}").new

    assert sum(at_once(location, 6, work)) == 50 + 6 * own
    assert index.counts(key).pending == 50 + 6 * own


def test_six_registering_processes_lose_nothing(location: str, index: OutputIndex) -> None:
    script = """
        import sys
        from airflow_ensemble.engine.index import open_index
        from tests.engine.index.cases import recipe, sims
        index = open_index(sys.argv[1], create=True)
        key = index.define(recipe())
        ids = [*range(20), *(f"own-{sys.argv[2]}-{i}" for i in range(100))]
        print(index.register(key, sims(*ids), batch_key=sys.argv[2]).total)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), location]
    running = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True) for i in range(6)
    ]
    assert [process.communicate(timeout=60)[0] for process in running] == ["120\n"] * 6
    key = index.define(recipe())
    assert index.counts(key).pending == 20 + 6 * 100


def test_one_batch_key_at_once_opens_one_generation(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    complete(index, key, 1, 2)
    found = at_once(
        location,
        4,
        lambda one, _: one.register(key, sims(1, 2), batch_key="n", skip_existing=False),
    )
    assert {registration.generation for registration in found} == {2}
    assert sum(registration.reopened for registration in found) == 2


def test_registering_beside_a_drain_demotes_nothing(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    index.register(key, sims(*range(400)), batch_key="b")

    def work(one: OutputIndex, number: int) -> list[str]:
        if number == 0:
            for i in range(8):
                one.register(key, sims(*range(400)), batch_key=f"again {i}")
            return []
        done: list[str] = []
        one.enlist(key, f"w{number}", "host")
        while claimed := one.claim(f"w{number}", 20):
            one.record(key, [started(c) for c in claimed], worker=f"w{number}")
            counted = one.record(key, [finished(c) for c in claimed], worker=f"w{number}")
            assert counted == len(claimed)
            done += ids_of(claimed)
        return done

    done = [id for part in at_once(location, 4, work) for id in part]
    assert sorted(done, key=int) == [str(i) for i in range(400)]
    assert index.counts(key).complete == 400


def test_memory_stays_flat(new_location: object, location: str) -> None:
    script = """
        import json, resource, sys
        from airflow_ensemble.engine.index import open_index
        from airflow_ensemble.engine.simulation import Simulation
        from tests.engine.index.cases import recipe
        index = open_index(sys.argv[1], create=True)
        key = index.define(recipe())
        index.register(key, [Simulation("warm")], batch_key="w")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        table = (Simulation(f"s{i}", {"text": "x" * 500, "i": i}) for i in range(60000))
        index.register(key, table, batch_key="b")
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), location]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    # 60,000 rows of half a kilobyte would be far more than this if they were held together.
    assert json.loads(done.stdout) < 150 * 1024
    opened = open_index(location)
    assert opened.counts(opened.ensembles()[0]).pending == 60001
    opened.close()


def test_a_batch_that_finds_exactly_finished_rows_shares_their_scope(
    index: OutputIndex, key: EnsembleKey
) -> None:
    """A night with nothing to do writes no row, and is judged by the same rows all the same."""
    [chunk] = dispatched(index, key, "a", "b", batch_key="first")
    one, other = index.assignments(chunk.id)
    index.record(key, [finished(one), finished(other, Reason.INVALID)])
    before = list(index.simulations(key))
    second = index.register(key, sims("a", "b"), batch_key="second").batch
    third = index.register(key, sims("b", "a"), batch_key="third").batch
    for batch in (chunk.batch, second, third):
        counts = index.counts(key, Scope(batch=batch))
        assert (counts.complete, counts.failed, counts.total) == (1, 1, 2)
    assert list(index.simulations(key)) == before

    part = index.register(key, sims("a"), batch_key="part").batch
    assert index.counts(key, Scope(batch=part)).total == 1
    assert [result.id for result in index.results(key, Scope(batch=part))] == ["a"]
    assert index.counts(key, Scope(batch=third)).total == 1

    index.retry(key, Scope(ids=("b",)))
    again = index.register(key, sims("a", "b"), batch_key="second")
    assert (again.batch, again.pending) == (second, 1)
    assert index.counts(key, Scope(batch=second)).total == 2
    assert index.dispatch(key, second, backend="local", n_chunks=4)[0].size == 1
