"""What the ensemble operators share: file and overrides, how errors end a task, what a clear is."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.errors import EnsembleError, UsageError
from airflow_ensemble.hooks.ensemble import EnsembleHook
from airflow_ensemble.hooks.slurm import SlurmHook, SlurmSettings
from airflow_ensemble.slurm.cluster import Cluster

#: Where a task remembers how often it could be tried when it last started.
MAX_TRIES = "ensemble_max_tries"
#: Keys of the ensemble file by which results and index are found.
IDENTIFYING = frozenset(
    {"name", "model", "command", "model_version", "parameters", "products", "seed"}
    | {"output", "control", "index"}
)


class EnsembleOperator(BaseOperator):
    """A step of an ensemble's DAG. The ensemble file is read at run time, never at parse time.

    The operators of one ensemble must be given the same ensemble, overrides and simulations: the
    overridden parameters are part of what identifies the results. Where templated overrides are
    numbers, the DAG needs ``render_template_as_native_obj=True``. ``EnsembleTaskGroup`` sees to
    both.

    :param ensemble: path of the ensemble file; a relative one is relative to the DAG file's folder.
        Templated.
    :param overrides: values over those of the file, dotted or nested, for instance
        ``{"parameters": {"n_hours": -6}, "execution.n_workers": 4}``; None leaves the file's value.
        Templated.
    :param simulations: another table than the file's; short for that key in ``overrides``.
        Templated.
    :param slurm_conn_id: connection of type ``slurm`` to the cluster on which the output root lies;
        None when it is reached from here. Templated.
    """

    template_fields: Sequence[str] = ("ensemble", "overrides", "simulations", "slurm_conn_id")
    ui_color = "#d9e8f5"

    def __init__(
        self,
        *,
        ensemble: str | os.PathLike[str],
        overrides: Mapping[str, Any] | str | None = None,
        simulations: Any = None,
        slurm_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ensemble = os.fspath(ensemble) if isinstance(ensemble, os.PathLike) else ensemble
        self.overrides = overrides
        self.simulations = simulations
        self.slurm_conn_id = slurm_conn_id

    @property
    def ensemble_path(self) -> Path:
        """Return the path of the ensemble file."""
        return Path(self.dag.folder if self.dag else "", self.ensemble)

    @property
    def ensemble_hook(self) -> EnsembleHook:
        """Return the hook that opens this task's ensemble."""
        if isinstance(self.overrides, str) and self.overrides:
            raise AirflowFailException(
                f"overrides rendered to the text {self.overrides[:80]!r} instead of a mapping: set "
                "render_template_as_native_obj=True on the DAG or on every ensemble operator"
            )
        overrides = dict(self.overrides or {})
        if self.simulations is not None:
            overrides["simulations"] = self.simulations
        return EnsembleHook(self.ensemble_path, overrides)

    @contextmanager
    def open_control(self, *, create: bool = False) -> Iterator[Control]:
        """Open the ensemble for a block of code, through the cluster that its output is on, if any.

        :param create: make the index where there is none: only a registration does.
        """
        if self.slurm_conn_id is None:
            with self.ensemble_hook.open(create=create) as control:
                yield control
        else:
            with self.open_on_cluster(create=create) as (control, _):
                yield control

    @contextmanager
    def open_on_cluster(self, *, create: bool = False) -> Iterator[tuple[Control, Cluster]]:
        """Open the ensemble, and the cluster that its output is on, for a block of code.

        The cluster is connected when it is first used, and not at all when it is not.
        """
        cluster = self.slurm_settings.cluster()
        with (
            cluster.client.runner,
            self.ensemble_hook.open(create=create, cluster=cluster) as control,
        ):
            yield control, cluster

    @cached_property
    def slurm_settings(self) -> SlurmSettings:
        """Return what the connection to the cluster says."""
        return SlurmHook(self.slurm_conn_id or SlurmHook.default_conn_name).settings

    @property
    def command_arguments(self) -> str:
        """Return the arguments with which ``ensemble`` finds what this task works on."""
        return command_arguments(self.ensemble_path, self.ensemble_hook.overrides)


def command_arguments(file: Path, overrides: Mapping[str, Any]) -> str:
    """Return ``-f FILE``, and ``--set`` for the overrides that say which results are meant."""
    words = ["-f", str(file)]
    for key, value in overrides.items():
        if key.partition(".")[0] in IDENTIFYING:
            plain = isinstance(value, str) and value.startswith("/")
            words += ["--set", f"{key}={value if plain else json.dumps(value)}"]
    return shlex.join(words)


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Turn the engine's errors into Airflow's: what only a person can mend burns no retries."""
    try:
        yield
    except UsageError as error:
        raise AirflowFailException(str(error)) from error
    except EnsembleError as error:
        raise AirflowException(str(error)) from error


def was_cleared(context: Context) -> bool:
    """Return whether a person has cleared this task since it last started.

    A clear raises the number of tries that a task may have; a retry leaves it as it is. The number
    seen last lies in the task's state store, which outlives both.
    """
    known = context["task_state_store"].get(MAX_TRIES)
    return known is not None and context["ti"].max_tries > int(str(known))


def note_start(context: Context) -> None:
    """Remember what :func:`was_cleared` compares with, once the clear has been acted on."""
    store = context["task_state_store"]
    store.set(MAX_TRIES, context["ti"].max_tries, retention=NEVER_EXPIRE)
