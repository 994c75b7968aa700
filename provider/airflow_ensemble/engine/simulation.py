"""Simulations, their resources and outcomes, and the closed lists of statuses and reasons.

Standard library only: this module travels to the cluster inside ``ensemble-worker.pyz``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from airflow_ensemble.engine.errors import UsageError

MAX_ID_LENGTH = 200
# Kept, because json.dumps with such arguments makes a new encoder at each call.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@,:~-]*")


class Status(str, Enum):
    """Status of a simulation. Users see the first three as ``pending``."""

    BLOCKED = "blocked"
    PENDING = "pending"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


TERMINAL = frozenset({Status.COMPLETE, Status.FAILED})
OWNED = frozenset({Status.DISPATCHED, Status.RUNNING})


class ProductStatus(str, Enum):
    """Status of one named product. Empty is terminal success: no file is written or expected."""

    COMPLETE = "complete"
    COMPLETE_EMPTY = "complete-empty"
    FAILED = "failed"


class Reason(str, Enum):
    """Why an attempt did not complete."""

    ERROR = "error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"
    CRASHED = "crashed"
    MISSING_PRODUCT = "missing-product"
    INVALID = "invalid"
    DEPENDENCY_FAILED = "dependency-failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    INTERRUPTED = "interrupted"
    PREEMPTED = "preempted"
    NODE_FAILURE = "node-failure"
    TIME_LIMIT = "time-limit"


#: Not the simulation's fault: it returns to pending and no try is counted.
INTERRUPTIONS = frozenset(
    {Reason.INTERRUPTED, Reason.PREEMPTED, Reason.NODE_FAILURE, Reason.TIME_LIMIT}
)
#: Trying again cannot help: one such attempt fails the simulation for good.
FINAL = frozenset({Reason.INVALID, Reason.DEPENDENCY_FAILED, Reason.CANCELLED})


@dataclass(frozen=True)
class Limits:
    """How often one simulation may be tried, and how often it may be interrupted."""

    max_attempts: int = 3
    max_interruptions: int = 20


def has_failed_for_good(reason: Reason, tries: int, interruptions: int, limits: Limits) -> bool:
    """Decide whether an unsuccessful attempt ends its simulation.

    :param reason: why the attempt ended.
    :param tries: counted tries, this attempt included.
    :param interruptions: interruptions so far, this attempt included.
    :param limits: the ensemble's limits.
    :return: True when the simulation becomes ``failed``, False when it may run again.
    """
    if reason in FINAL:
        return True
    if reason in INTERRUPTIONS:
        return interruptions >= limits.max_interruptions
    return tries >= limits.max_attempts


@dataclass(frozen=True)
class Resources:
    """What one simulation needs. Absent means one core.

    :param nodes: whole nodes.
    :param tasks: processes (MPI ranks).
    :param cores_per_task: cores for each process.
    :param gpus_per_task: GPUs for each process.
    :param memory: MiB for the whole simulation; None is unlimited.
    :param disk: MiB of scratch; None is unlimited.
    :param walltime: seconds that the job around it should allow; None lets the backend decide.
    """

    nodes: int = 1
    tasks: int = 1
    cores_per_task: int = 1
    gpus_per_task: int = 0
    memory: int | None = None
    disk: int | None = None
    walltime: int | None = None

    def as_dict(self) -> dict[str, int]:
        """Return only what differs from the default, so that equal needs give equal classes."""
        default = Resources()
        return {
            name: value
            for name, value in self.__dict__.items()
            if value is not None and value != getattr(default, name)
        }

    @property
    def resource_class(self) -> str:
        """Return a short stable name for these needs; ``''`` is the default of one core."""
        return ",".join(f"{name}={value}" for name, value in sorted(self.as_dict().items()))

    @property
    def cores(self) -> int:
        """Return the cores that one simulation occupies on a worker."""
        return self.tasks * self.cores_per_task


@dataclass(frozen=True)
class Simulation:
    """One unit of work.

    :param id: unique in its ensemble; see :func:`check_id`.
    :param params: its own parameters (JSON values), without the ensemble's common ones.
    :param resources: what it needs.
    :param time_limit: seconds for one attempt; None takes the ensemble's.
    :param depends_on: ids of simulations that must be complete first.
    :param priority: larger runs earlier.
    """

    id: str
    params: Mapping[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    time_limit: float | None = None
    depends_on: tuple[str, ...] = ()
    priority: int = 0

    @property
    def digest(self) -> str:
        """Return the digest of the simulation's own parameters, 16 hexadecimal digits."""
        return digest(self.params)


@dataclass(frozen=True)
class Product:
    """One recorded product of an attempt.

    :param name: the product's name in the ensemble.
    :param status: complete, complete-empty or failed.
    :param path: relative to the output root; None unless complete.
    :param size: bytes; None unless complete.
    :param checksum: ``sha256:`` and 64 hexadecimal digits; None unless complete.
    """

    name: str
    status: ProductStatus
    path: str | None = None
    size: int | None = None
    checksum: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON values, without what is absent."""
        record = {
            "name": self.name,
            "status": self.status.value,
            "path": self.path,
            "size": self.size,
            "checksum": self.checksum,
        }
        return {key: value for key, value in record.items() if value is not None}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Product:
        """Read what :meth:`as_dict` wrote."""
        return cls(**{**record, "status": ProductStatus(record["status"])})


@dataclass(frozen=True)
class Outcome:
    """The record of a finished attempt.

    :param id: the simulation.
    :param attempt: the attempt's number, given by the index at dispatch or claim.
    :param token: the execution token.
    :param reason: None when the attempt completed.
    :param detail: for people, the last words of a program below each other; never longer than 2000
        characters.
    :param products: one record per declared product, as far as the attempt got.
    :param started: Unix time, seconds.
    :param duration: seconds.
    :param host: where it ran.
    :param log: path of its log relative to the output root; None when none was kept.
    """

    id: str
    attempt: int
    token: str
    reason: Reason | None = None
    detail: str = ""
    products: tuple[Product, ...] = ()
    started: float = 0.0
    duration: float = 0.0
    host: str = ""
    log: str | None = None

    @property
    def is_complete(self) -> bool:
        """Return whether the attempt completed."""
        return self.reason is None

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return {
            "id": self.id,
            "attempt": self.attempt,
            "token": self.token,
            "reason": self.reason.value if self.reason else None,
            "detail": self.detail[:2000],
            "products": [product.as_dict() for product in self.products],
            "started": round(self.started, 3),
            "duration": round(self.duration, 3),
            "host": self.host,
            "log": self.log,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Outcome:
        """Read what :meth:`as_dict` wrote; keys that this version does not know are ignored."""
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        known["reason"] = Reason(record["reason"]) if record.get("reason") else None
        known["products"] = tuple(Product.from_dict(p) for p in record.get("products", ()))
        return cls(**known)


def check_id(id: str) -> str:
    """Return ``id`` unchanged if it is safe as a file name, an object key and a command argument.

    :raises UsageError: naming what is wrong with it.
    """
    if not isinstance(id, str) or not id:
        raise UsageError(f"simulation id {id!r} is empty: every simulation needs an id")
    if len(id) > MAX_ID_LENGTH:
        raise UsageError(
            f"simulation id {id[:40]!r}… has {len(id)} characters: at most {MAX_ID_LENGTH}"
        )
    if not _ID.fullmatch(id) or ".." in id:
        raise UsageError(
            f"simulation id {id!r} is not allowed: it must start with a letter or digit and hold "
            "only ASCII letters, digits and . _ + = @ , : ~ - (no '..', no '/', no spaces)"
        )
    return id


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    :raises ValueError: on NaN, infinities and what JSON cannot hold.
    """
    return _CANONICAL.encode(value)


def digest(value: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def derive_seed(seed: int, id: str) -> int:
    """Return the simulation's own seed, 1 … 2**31 - 1.

    It depends on the ensemble's seed and the id alone, so that neither the order nor the number of
    simulations changes it. The range fits the signed 32-bit integers of Fortran namelists.
    """
    text = f"{seed}\n{id}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % (2**31 - 1) + 1
