"""The control side of one ensemble: its file, its index and its output root, opened together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import TracebackType

from airflow_ensemble.engine.ensemble import Ensemble
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex
from airflow_ensemble.engine.recipe import Recipe
from airflow_ensemble.engine.storage import OutputRoot, open_root

log = logging.getLogger(__name__)


class Ledger:
    """What it takes to bring outcomes into the index: no ensemble file.

    :param index: the open index; its owner closes it.
    :param key: the ensemble as the index knows it.
    :param root: the output root.
    """

    def __init__(self, index: OutputIndex, key: EnsembleKey | None, root: OutputRoot) -> None:
        self.index = index
        self.root = root
        self._key = key
        #: Segments whose header was read, and whether it names this index.
        self.own_segments: dict[str, bool] = {}

    @property
    def key(self) -> EnsembleKey:
        """Return the ensemble as the index knows it."""
        assert self._key is not None
        return self._key

    @property
    def hash8(self) -> str:
        """Return the name of the result folder below the output root."""
        return self.key.settings_hash[:8]


class Control(Ledger):
    """An ensemble, its output index and its output root.

    A context manager: leaving it closes the index.

    :param ensemble: the loaded ensemble file.
    :param index: the open index.
    :param root: the open output root.
    """

    def __init__(self, ensemble: Ensemble, index: OutputIndex, root: OutputRoot) -> None:
        super().__init__(index, None, root)
        self.ensemble = ensemble

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.index.close()

    @cached_property
    def recipe(self) -> Recipe:
        """Return the recipe that the ensemble file gives now."""
        return self.ensemble.recipe()

    @property
    def key(self) -> EnsembleKey:
        """Return the ensemble as the index knows it, with the settings of the file.

        :raises UsageError: when nothing was registered with these settings.
        """
        if self._key is None:
            known = self.index.ensembles(self.ensemble.name)
            self._key = self._among(known)
            if self._key is None:
                raise UsageError(_unknown_settings(self.ensemble.name, self.hash8, known))
        return self._key

    @property
    def hash8(self) -> str:
        """Return the name of the result folder below the output root."""
        return self.recipe.hash8

    @property
    def is_known(self) -> bool:
        """Whether the index has the ensemble with the settings of the file."""
        return self._among(self.index.ensembles(self.ensemble.name)) is not None

    def batch_folder(self, batch: str) -> Path:
        """Return where the chunk files of a batch lie."""
        return self.ensemble.control / "chunks" / batch

    def _among(self, known: list[EnsembleKey]) -> EnsembleKey | None:
        settings_hash = self.recipe.settings.hash
        return next((key for key in known if key.settings_hash == settings_hash), None)


def open_control(
    ensemble: Ensemble,
    *,
    create: bool = False,
    read_only: bool = False,
    resolve_connection: Callable[[str], str] | None = None,
    root: OutputRoot | None = None,
) -> Control:
    """Open the index and the output root of an ensemble.

    :param ensemble: the loaded ensemble file.
    :param create: make the index where there is none; only ``init`` and ``register`` do.
    :param read_only: nothing will be written, so that the right to read is enough.
    :param resolve_connection: turns an Airflow connection id into a database URI.
    :param root: the output root, where it is not reached by its name alone; its owner closes it.
    :raises UsageError: when the index is missing or not usable as configured.
    :raises IndexUnavailable: when its database cannot be reached.
    """
    location = ensemble.index_location(resolve_connection)
    root = open_root(ensemble.output) if root is None else root
    return Control(ensemble, open_index(location, create=create, read_only=read_only), root)


def _unknown_settings(name: str, hash8: str, known: list[EnsembleKey]) -> str:
    if not known:
        return f"ensemble {name!r} is not in the index yet: run `ensemble register` first"
    older = ", ".join(key.settings_hash[:8] for key in known)
    return (
        f"ensemble {name!r} has no simulations with the settings of its file (hash {hash8}); the "
        f"index holds those of {older}. Model, parameters, products or seed have changed since: "
        "`ensemble register` or `ensemble run` starts the new settings, old results stay"
    )
