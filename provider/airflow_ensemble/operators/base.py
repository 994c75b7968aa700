"""What the ensemble operators share: file and overrides, how errors end a task, what a clear is."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.ensemble.file import merge
from airflow_ensemble.engine.ensemble.schema import describe
from airflow_ensemble.engine.ensemble.yaml_text import parse_value
from airflow_ensemble.engine.errors import EnsembleError, UsageError
from airflow_ensemble.hooks.ensemble import EnsembleHook, without_nones
from airflow_ensemble.hooks.slurm import SlurmHook, SlurmSettings
from airflow_ensemble.operators.templates import ExactTemplates
from airflow_ensemble.slurm.cluster import Cluster

if TYPE_CHECKING:
    from jinja2 import Environment

#: Where a task remembers how often it could be tried when it last started.
MAX_TRIES = "ensemble_max_tries"
#: Keys of the ensemble file by which simulations, results and index are found.
IDENTIFYING = frozenset(
    {"name", "model", "command", "model_version", "parameters", "products", "seed"}
    | {"output", "control", "index", "simulations", "types", "columns"}
)
#: What stands in JSON and not in YAML, or is the end of a line there.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class EnsembleOperator(ExactTemplates):
    """A step of an ensemble's DAG. The ensemble file is read at run time, never at parse time.

    The operators of one ensemble must be given the same ensemble, overrides and simulations: the
    overridden parameters are part of what identifies the results. ``EnsembleTaskGroup`` sees to
    that.

    A text without a template stays as it was written, ``"{{ params.n }}"`` and nothing else is the
    value itself, and any other text with a template in it is a text.

    :param ensemble: path of the ensemble file; a relative one is relative to the DAG file's folder.
        Templated.
    :param overrides: values over those of the file, dotted or nested, for instance
        ``{"parameters": {"n_hours": -6}, "execution.n_workers": 4}``. None leaves the file's value,
        and so does an empty text, but as a parameter or model version. Templated.
    :param simulations: another table than the file's; short for that key in ``overrides``.
        Templated.
    :param slurm_conn_id: connection of type ``slurm`` to the cluster on which the output root lies;
        None when it is reached from here. Templated; what renders to nothing is ``slurm_default``.
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
        self._is_on_cluster = slurm_conn_id is not None

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: Environment,
        seen_oids: set[int],
    ) -> None:
        """Render; what was written as one field of overrides and renders to None is none."""
        written = self.overrides
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        if parent is self and "overrides" in template_fields:
            self.overrides = without_unset(written, self.overrides)

    @property
    def ensemble_path(self) -> Path:
        """Return the path of the ensemble file."""
        path = as_text(self.ensemble, "ensemble")
        if path is None:
            raise AirflowFailException("ensemble is empty: it must be the path of an ensemble file")
        return Path(self.dag.folder if self.dag else "", path)

    @property
    def ensemble_hook(self) -> EnsembleHook:
        """Return the hook that opens this task's ensemble."""
        overrides = self.overrides or {}
        if not isinstance(overrides, Mapping):
            raise AirflowFailException(
                f"overrides must be a mapping, found {describe(overrides)}: a template of all of "
                "them is one expression and nothing else, such as '{{ params.overrides }}'"
            )
        return EnsembleHook(self.ensemble_path, {**overrides, **self._table()})

    def _table(self) -> dict[str, Any]:
        """Return the override of the table; none for an empty field of a form."""
        table = self.simulations
        if table is None or table == "":
            return {}
        is_rows = isinstance(table, Sequence) and not isinstance(table, str)
        return {"simulations": list(table) if is_rows else table}

    @contextmanager
    def open_control(self, *, create: bool = False) -> Iterator[Control]:
        """Open the ensemble for a block of code, through the cluster that its output is on, if any.

        :param create: make the index where there is none: only a registration does.
        """
        if not self._is_on_cluster:
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
        conn_id = as_text(self.slurm_conn_id, "slurm_conn_id") or SlurmHook.default_conn_name
        return SlurmHook(conn_id).settings

    @property
    def command_arguments(self) -> str:
        """Return the arguments with which ``ensemble`` finds what this task works on."""
        return command_arguments(self.ensemble_path, self.ensemble_hook.overrides)


def command_arguments(file: Path, overrides: Mapping[str, Any]) -> str:
    """Return ``-f FILE``, and ``--set`` for the overrides that say which results are meant.

    They are read back as exactly what they are here. Rows of a DAG are left out: they do not fit
    into a line.
    """
    words = ["-f", str(file)]
    for key, value in merge({}, overrides).items():
        is_rows = key == "simulations" and not isinstance(value, (str, os.PathLike))
        if key in IDENTIFYING and not is_rows:
            words += ["--set", f"{key}={as_setting(value)}"]
    return shlex.join(words)


def as_setting(value: Any) -> str:
    """Return a value as ``--set`` reads it: a text as it stands where that is read as a text."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str) and _is_read_as_text(value):
        return value
    text = json.dumps(value, ensure_ascii=False, default=_as_json)
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _is_read_as_text(text: str) -> bool:
    try:
        read = parse_value(text, "")
    except UsageError:
        return False
    return type(read) is str and read == text


def _as_json(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def without_unset(written: Any, rendered: Any) -> Any:
    """Return rendered overrides without what a DAG has written and was left empty in its form.

    None inside of what *one* template gives is a value like any other, and stays.

    :param written: the overrides as they stand in the DAG.
    """
    if not isinstance(written, Mapping) or not isinstance(rendered, Mapping):
        return rendered
    return without_nones(
        {key: without_unset(written.get(key), value) for key, value in rendered.items()}, deep=False
    )


def as_text(value: Any, name: str) -> str | None:
    """Return the text that an argument rendered to; None when it is empty.

    :raises AirflowFailException: naming the argument that is something else.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is not None and not isinstance(value, str):
        raise AirflowFailException(f"{name} must be a text, found {describe(value)}")
    return value or None


def as_number(value: Any, name: str) -> int | None:
    """Return the whole number that an argument rendered to; None when it is empty.

    :raises AirflowFailException: naming the argument that is something else.
    """
    if value is None or value == "":
        return None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, str) and value.isascii() and value.strip().isdecimal():
        value, is_whole = int(value), True
    if not is_whole or value < 1:
        raise AirflowFailException(f"{name} is {value!r}: it must be a number from 1 on")
    return int(value)


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
