"""What a worker must know of an ensemble to run its simulations, as plain JSON values.

``Settings`` is the part that defines the results: its hash names the result folder. ``Recipe`` adds
where and how to run. Both travel in chunk files and stand in the output index, so that a worker
never reads the ensemble file. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from airflow_ensemble.engine.simulation import Limits, digest


@dataclass(frozen=True)
class ProductSpec:
    """A product that every simulation yields.

    :param name: the product's name.
    :param glob: for command models, the pattern of its one file in the working directory.
    :param optional: a missing file is ``complete-empty``, not a failure.
    """

    name: str
    glob: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Settings:
    """Exactly what decides the results of a simulation with given own parameters.

    :param model: ``module:function`` of a Python model; None for a command.
    :param command: the argument list of a command model, with ``{name}`` filled from parameters.
    :param model_version: declared by the user, so that new model code means new results.
    :param parameters: common to all simulations.
    :param products: what each simulation yields.
    :param seed: the ensemble's seed; see :func:`airflow_ensemble.engine.simulation.derive_seed`.
    """

    model: str | None = None
    command: tuple[str, ...] = ()
    model_version: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    products: tuple[ProductSpec, ...] = ()
    seed: int = 0

    @property
    def hash(self) -> str:
        """Return the settings hash, 16 hexadecimal digits; the layout uses the first 8."""
        return digest(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Settings:
        """Read what :meth:`as_dict` wrote."""
        products = tuple(ProductSpec(**product) for product in record["products"])
        return cls(**{**record, "command": tuple(record["command"]), "products": products})


@dataclass(frozen=True)
class Recipe:
    """Settings, and where and how a worker runs them.

    :param ensemble: the ensemble's name.
    :param settings: what decides the results.
    :param output: the output root as the worker sees it: an absolute path or a URI.
    :param limits: how often a simulation may be tried.
    :param time_limit: seconds for one attempt; None is unlimited.
    :param logs: which logs are kept below the output root: ``failed`` or ``all``.
    :param code: directories put first on the model's import path.
    """

    ensemble: str
    settings: Settings
    output: str
    limits: Limits = field(default_factory=Limits)
    time_limit: float | None = None
    logs: str = "failed"
    code: tuple[str, ...] = ()

    @property
    def hash8(self) -> str:
        """Return the name of the result folder below the output root."""
        return self.settings.hash[:8]

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Recipe:
        """Read what :meth:`as_dict` wrote."""
        return cls(
            **{
                **record,
                "settings": Settings.from_dict(record["settings"]),
                "limits": Limits(**record["limits"]),
                "code": tuple(record["code"]),
            }
        )
