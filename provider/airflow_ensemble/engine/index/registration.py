"""Registration: a table of simulations becomes rows, in one transaction, without demoting any."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index import rows
from airflow_ensemble.engine.index.database import Database, Session
from airflow_ensemble.engine.index.interface import EnsembleKey, Registration, batch_id
from airflow_ensemble.engine.parameters import describe_change
from airflow_ensemble.engine.simulation import OWNED, Simulation, Status

#: New rows from which on the database's planner is told of them at once.
MANY = 1000


@dataclass(frozen=True)
class Request:
    """What a caller of ``register`` asks for."""

    ensemble: EnsembleKey
    batch_key: str
    skip_existing: bool
    replace: bool

    @property
    def batch(self) -> str:
        """Return the batch's id."""
        return batch_id(self.ensemble.name, self.ensemble.settings_hash, self.batch_key)


def register(
    database: Database, request: Request, simulations: Iterable[Simulation]
) -> Registration:
    """Stage the simulations, then register them in one transaction."""
    database.read(lambda session: session.run("stage_drop"))
    database.read(lambda session: session.run("stage_create"))
    staged = database.load("stage", rows.STAGE, _numbered(simulations))
    database.read(lambda session: session.script("stage_analyze"))
    # The stage table dies with its connection: not to be repeated on a new one.
    registration = database.transact(
        lambda session: _register(session, request, staged, database.locks_rows), repeat=False
    )
    database.read(lambda session: session.run("stage_drop"))
    if registration.new >= MANY:
        database.read(lambda session: session.script("register_analyze"))
    return registration


def _numbered(simulations: Iterable[Simulation]) -> Iterator[tuple[object, ...]]:
    return (rows.staged(n, simulation) for n, simulation in enumerate(simulations))


def _register(session: Session, request: Request, staged: int, locks_rows: bool) -> Registration:
    number, batch = request.ensemble.number, request.batch
    locked = session.row("ensemble_lock", ensemble=number)
    if locked is None:
        raise UsageError(f"ensemble {request.ensemble.name!r} is not defined in this output index")
    current, base = locked
    has_older_rows = base > 0
    if has_older_rows and locks_rows:
        session.rows("register_lock", ensemble=number)
    generation = _generation(session, request, current, has_older_rows)
    new = session.run(
        "register_insert", ensemble=number, base=base, generation=generation, batch=batch
    )
    if new < staged:
        _refuse_duplicate(session)
    reopened = _update(session, request, generation, staged) if has_older_rows else 0
    session.run(
        "ensemble_advance",
        ensemble=number,
        generation=max(current, generation),
        next_position=base + staged,
    )
    if new or reopened:
        session.announce(number)
    found = [(Status.PENDING.value, 0, new)]
    if new < staged:
        found = [tuple(row) for row in session.rows("register_count", ensemble=number, batch=batch)]
    return _summary(request, generation, found, staged, new, reopened)


def _generation(session: Session, request: Request, current: int, has_older_rows: bool) -> int:
    """Return the batch's generation; open a new one where the request needs it."""
    known = session.row("batch_find", batch=request.batch)
    generation, opened = known or (current, 0)
    changed = (
        session.row("register_changed", ensemble=request.ensemble.number)
        if has_older_rows
        else None
    )
    if changed:
        _refuse_change(session, request, *changed[:4])
    must_open = not request.skip_existing and not opened and has_older_rows
    if must_open or (changed and changed[4] >= generation):
        generation = current + 1
    opened = opened or int(not request.skip_existing)
    session.run(
        "batch_write",
        batch=request.batch,
        ensemble=request.ensemble.number,
        key=request.batch_key,
        generation=generation,
        opened=opened,
    )
    return int(generation)


def _refuse_change(
    session: Session, request: Request, id: str, old: str, new: str, status: str
) -> None:
    is_owned = Status(status) in OWNED
    if request.replace and not is_owned:
        return
    (number,) = session.row("register_count_changed", ensemble=request.ensemble.number) or (1,)
    others = f" ({number - 1:,} more changed, too)" if number > 1 else ""
    change = describe_change(json.loads(old), json.loads(new))
    what = f"simulation {id!r} is known with other parameters: {change}{others}"
    if not request.replace:
        raise UsageError(
            f"{what}; give it another id, or use --replace to compute it anew; nothing was changed"
        )
    raise UsageError(
        f"{what}, and it is {status} at this moment: wait for it or cancel it before --replace; "
        "nothing was changed"
    )


def _refuse_duplicate(session: Session) -> None:
    duplicate = session.row("register_duplicate")
    if duplicate:
        id, first, second = duplicate
        same = "the same parameters" if first == second else "different parameters"
        raise UsageError(
            f"simulation {id!r} stands more than once in the table, with {same} (digests {first} "
            f"and {second}): every id must be unique; nothing was changed"
        )


def _update(session: Session, request: Request, generation: int, staged: int) -> int:
    """Bring the rows that existed before up to the request; return how many run again."""
    number, reopened = request.ensemble.number, 0
    if request.replace:
        reopened += session.run("register_replace", ensemble=number, generation=generation)
    if not request.skip_existing:
        reopened += session.run("register_reopen", ensemble=number, generation=generation)
    session.run("register_needs", ensemble=number)
    shared = _shared_scope(session, number, staged)
    if shared is None:
        session.run("register_adopt", ensemble=number, batch=request.batch)
    else:
        session.run("batch_share", batch=request.batch, scope=shared)
    return reopened


def _shared_scope(session: Session, ensemble: int, staged: int) -> str | None:
    """Return the scope whose rows are exactly the staged ones, all of them finished, if any."""
    found = session.row("register_shared", ensemble=ensemble)
    if found is None or found[0] is None:
        return None
    (size,) = session.row("scope_size", ensemble=ensemble, scope=found[0]) or (0,)
    return str(found[0]) if size == staged else None


def _summary(
    request: Request,
    generation: int,
    found: Iterable[tuple[object, ...]],
    staged: int,
    new: int,
    reopened: int,
) -> Registration:
    totals = dict.fromkeys(Status, 0)
    elsewhere = 0
    for status, is_elsewhere, number in found:
        totals[Status(status)] += int(str(number))
        elsewhere += int(str(number)) if is_elsewhere else 0
    return Registration(
        batch=request.batch,
        generation=generation,
        total=staged,
        new=new,
        complete=totals[Status.COMPLETE],
        failed=totals[Status.FAILED],
        pending=totals[Status.PENDING],
        elsewhere=elsewhere,
        reopened=reopened,
    )
