"""Short ways to say what a test of the index needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import ChunkInfo, EnsembleKey, OutputIndex
from airflow_ensemble.engine.recipe import ProductSpec, Recipe, Settings
from airflow_ensemble.engine.segment import Finished, Started
from airflow_ensemble.engine.simulation import (
    Limits,
    Outcome,
    Product,
    ProductStatus,
    Reason,
    Simulation,
)

T = TypeVar("T")

FILE = Product("p", ProductStatus.COMPLETE, "ab/p/x.nc", 12, "sha256:" + "0" * 64)
EMPTY = Product("p", ProductStatus.COMPLETE_EMPTY)


def recipe(name: str = "e", seed: int = 0, **values: Any) -> Recipe:
    settings = Settings(model="m:f", products=(ProductSpec("p"),), seed=seed)
    return Recipe(name, settings, **{"output": f"/output/{name}", **values})


def limited(max_attempts: int, max_interruptions: int = 20) -> Recipe:
    return recipe(limits=Limits(max_attempts, max_interruptions))


def sims(*ids: str | int, **common: Any) -> list[Simulation]:
    return [Simulation(str(id), {"x": str(id)}, **common) for id in ids]


def started(one: Assignment, token: str = "t", time: float = 100.0) -> Started:
    return Started(one.simulation.id, one.attempt, token, time, "host")


def finished(
    one: Assignment,
    reason: Reason | None = None,
    token: str = "t",
    products: tuple[Product, ...] = (FILE,),
) -> Finished:
    outcome = Outcome(
        id=one.simulation.id,
        attempt=one.attempt,
        token=token,
        reason=reason,
        detail=f"it was {reason.value}" if reason else "",
        products=() if reason else products,
        started=100.0,
        duration=2.5,
        host="host",
        log="logs/x.log" if reason else None,
    )
    return Finished(outcome, one.generation, one.simulation.params)


def dispatched(
    index: OutputIndex, key: EnsembleKey, *ids: str | int, n_chunks: int = 1, batch_key: str = "b"
) -> list[ChunkInfo]:
    batch = index.register(key, sims(*ids), batch_key=batch_key).batch
    return index.dispatch(key, batch, backend="local", n_chunks=n_chunks)


def ids_of(assignments: Sequence[Assignment]) -> list[str]:
    return [one.simulation.id for one in assignments]


def at_once(location: str, n: int, work: Callable[[OutputIndex, int], T]) -> list[T]:
    """Run ``work`` in n threads, each with a connection of its own; return what each returned."""
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    barrier = threading.Barrier(n)

    def run(number: int) -> None:
        index = open_index(location)
        try:
            barrier.wait(30)
            results[number] = work(index, number)
        except BaseException as error:
            errors.append(error)
        finally:
            index.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if errors:
        raise errors[0]
    return [results[number] for number in range(n)]
