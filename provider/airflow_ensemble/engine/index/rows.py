"""Turns rows of the output index into values, and values into rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index.interface import (
    AttemptInfo,
    BatchInfo,
    ChunkInfo,
    Counts,
    ElementInfo,
    Entry,
    JobInfo,
    Result,
    SimulationInfo,
)
from airflow_ensemble.engine.segment import Finished, Started
from airflow_ensemble.engine.simulation import (
    FINAL,
    INTERRUPTIONS,
    Product,
    ProductStatus,
    Reason,
    Resources,
    Simulation,
    Status,
    canonical_json,
)

Row = Sequence[Any]

#: The columns of the stage table, in the order of :func:`staged`.
STAGE = ("n", "id", "params", "digest", "resources", "resource_class", "time_limit", "priority")

_DEFAULT = Resources()


def staged(n: int, simulation: Simulation) -> tuple[Any, ...]:
    """Return the stage table's row of a simulation.

    :raises UsageError: when it cannot be stored.
    """
    if simulation.depends_on:
        raise UsageError(
            f"simulation {simulation.id!r} depends on others: this version cannot run dependencies "
            "yet; register the later ones when the earlier ones are complete"
        )
    needs, name = "{}", ""
    if simulation.resources != _DEFAULT:
        needs, name = (
            canonical_json(simulation.resources.as_dict()),
            simulation.resources.resource_class,
        )
    try:
        params = canonical_json(simulation.params)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the parameters of simulation {simulation.id!r} are no JSON values: {error}"
        ) from error
    return (
        n,
        simulation.id,
        params,
        # Simulation.digest of the same text, without making it again.
        hashlib.sha256(params.encode()).hexdigest()[:16],
        needs,
        name,
        simulation.time_limit,
        simulation.priority,
    )


def assignment(row: Row) -> Assignment:
    """Read (id, params, resources, time_limit, priority, attempt, generation, …)."""
    id, params, resources, time_limit, priority, attempt, generation = row[:7]
    return Assignment(simulation(id, params, resources, time_limit, priority), attempt, generation)


def simulation(
    id: str, params: str, resources: str, time_limit: float | None, priority: int
) -> Simulation:
    """Read a simulation from its columns."""
    needs = _DEFAULT if resources == "{}" else Resources(**json.loads(resources))
    return Simulation(
        id=id, params=json.loads(params), resources=needs, time_limit=time_limit, priority=priority
    )


def chunk_info(row: Row) -> ChunkInfo:
    """Read a row of ``chunk_one`` or ``chunk_list``."""
    return ChunkInfo(*row)


def batch_info(row: Row) -> BatchInfo:
    """Read (id, key, backend, generation, created, settled)."""
    id, key, backend, generation, created, settled = row
    return BatchInfo(id, key, backend, generation, created, bool(settled))


def job_info(row: Row) -> JobInfo:
    """Read a row of ``job_one`` or ``job_list``."""
    return JobInfo(*row)


def element_info(row: Row) -> ElementInfo:
    """Read a row of ``element_list``."""
    return ElementInfo(JobInfo(*row[:8]), *row[8:])


def counts(rows: Iterable[Row]) -> Counts:
    """Sum rows of (status, reason, n_empty, result_generation, number)."""
    totals = dict.fromkeys((status.value for status in Status), 0)
    reasons: dict[str, int] = {}
    empty = results = 0
    for status, reason, n_empty, result_generation, number in rows:
        totals[status] += number
        if status == Status.FAILED.value:
            reasons[reason] = reasons.get(reason, 0) + number
        if status == Status.COMPLETE.value and n_empty:
            empty += number
        if result_generation is not None:
            results += number
    return Counts(**totals, empty=empty, results=results, reasons=reasons)


def simulation_info(row: Row) -> SimulationInfo:
    """Read a row of ``page``."""
    (
        *definition,
        status,
        generation,
        attempt,
        tries,
        interruptions,
        batch,
        chunk,
        worker,
        reason,
        detail,
        host,
        log,
        started,
        duration,
        updated,
        result_generation,
        stored_products,
    ) = row[1:]
    return SimulationInfo(
        simulation=simulation(*definition),
        status=Status(status),
        generation=generation,
        attempt=attempt,
        tries=tries,
        interruptions=interruptions,
        batch=batch,
        chunk=chunk,
        worker=worker,
        reason=Reason(reason) if reason else None,
        detail=detail,
        host=host,
        log=log,
        started=started,
        duration=duration,
        updated=updated,
        result_generation=result_generation,
        products=products(stored_products),
    )


def entry(row: Row) -> Entry:
    """Read a row of ``entries``."""
    position, id, digest, status, reason, *rest = row
    return Entry(position, id, digest, Status(status), Reason(reason) if reason else None, *rest)


def result(row: Row) -> Result:
    """Read a row of ``results``."""
    return Result(row[1], json.loads(row[2]), row[3], products(row[4]))


def attempt_info(row: Row) -> AttemptInfo:
    """Read a row of ``attempts``."""
    id, attempt, generation, reason, *rest = row
    return AttemptInfo(id, attempt, generation, Reason(reason), *rest)


def products(text: str | None) -> tuple[Product, ...]:
    """Read the products column."""
    return tuple(Product.from_dict(record) for record in json.loads(text)) if text else ()


def records_json(records: Iterable[Started | Finished]) -> str:
    """Return records as the one parameter that ``given_records.sql`` takes apart."""
    return json.dumps([record_values(record) for record in records], separators=(",", ":"))


def ended_json(rows: Iterable[Row], reason: Reason, detail: str) -> str:
    """Return the charges of running rows whose execution ended without an outcome.

    :param rows: (ensemble, id, attempt, token, started, host, now).
    :param reason: what each is charged with.
    :param detail: one line for people.
    """
    values = [
        [
            id,
            attempt,
            token,
            started,
            host,
            max(0.0, now - started),
            None,
            None,
            0,
            reason.value,
            kind_of(reason),
            clean(detail[:2000]),
        ]
        for _, id, attempt, token, started, host, now in rows
    ]
    return json.dumps(values, separators=(",", ":"))


def kind_of(reason: Reason) -> str:
    """Return how ``charge.sql`` counts a reason: final, interruption or try."""
    if reason in FINAL:
        return "final"
    return "interruption" if reason in INTERRUPTIONS else "try"


def record_values(record: Started | Finished) -> list[Any]:
    """Return a record's values in the order of ``given_records.sql``."""
    if isinstance(record, Started):
        return [record.id, record.attempt, record.token, record.time, clean(record.host)]
    outcome = record.outcome
    values = [
        outcome.id,
        outcome.attempt,
        outcome.token,
        outcome.started,
        clean(outcome.host),
        outcome.duration,
        clean(outcome.log) if outcome.log else None,
        [product.as_dict() for product in outcome.products],
        sum(product.status is ProductStatus.COMPLETE_EMPTY for product in outcome.products),
    ]
    if outcome.reason:
        values += [outcome.reason.value, kind_of(outcome.reason), clean(outcome.detail[:2000])]
    return values


def clean(text: str) -> str:
    """Replace what no database text can hold: NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
