"""Opens an ensemble from within an Airflow task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from airflow.sdk import BaseHook, Connection

from airflow_ensemble.engine import ensemble as ensemble_file
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import Ensemble
from airflow_ensemble.engine.ensemble.index_spec import is_reference, locate_index
from airflow_ensemble.engine.ensemble.schema import Place
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.storage import OutputRoot
from airflow_ensemble.hooks.extra import is_text, read_extra
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.remote_root import RemoteRoot, open_output

#: Keys of the ensemble file whose values may be an empty text, or hold one.
TEXTS = frozenset({"parameters", "model_version"})
#: Mappings in one another, down to which an empty text is a field that was left empty: the deeper
#: ones hold labels and variables of pods.
FORM_DEPTH = 3
#: What Airflow calls connections to PostgreSQL.
POSTGRES_TYPES = ("postgres", "postgresql")


class EnsembleHook(BaseHook):
    """Reads an ensemble file and opens its output index and output root.

    :param ensemble: path of the ensemble file.
    :param overrides: values over those of the file, dotted or nested. None leaves the file's, but
        inside a parameter; so does an empty text where the file cannot have one.
    """

    def __init__(self, ensemble: str | Path, overrides: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.path = Path(ensemble)
        self.overrides = given(overrides or {})

    def load(self, cluster: Cluster | None = None) -> Ensemble:
        """Read and validate the ensemble file.

        :param cluster: the one whose paths it names; None for this machine's.
        :raises UsageError: naming file and key of what is wrong.
        """
        if cluster is None:
            return ensemble_file.load(self.path, self.overrides)
        ensemble = ensemble_file.load(self.path, self.overrides, cluster.side)
        cluster.root(ensemble.execution)  # refused here, if it is, and not half-way
        return ensemble

    def open(self, *, create: bool = False, cluster: Cluster | None = None) -> Control:
        """Open the ensemble; a context manager closes the index again.

        :param create: make the index where there is none: only a registration does.
        :param cluster: the one on which the output root lies; None when it is reached from here.
        :raises UsageError: when file, index or output root are not usable.
        :raises IndexUnavailable: when the index's database cannot be reached.
        """
        ensemble = self.load(cluster)
        root = None if cluster is None else output_on(cluster, ensemble)
        return open_control(
            ensemble, create=create, resolve_connection=self.resolve_connection, root=root
        )

    @classmethod
    def resolve_connection(cls, conn_id: str) -> str:
        """Return the database URI of an Airflow connection, password and all: never log it.

        :raises UsageError: when it is not a connection to PostgreSQL.
        """
        return database_uri(cls.get_connection(conn_id))


def output_on(cluster: Cluster, ensemble: Ensemble) -> OutputRoot:
    """Return an ensemble's output root as it is reached through a cluster.

    :raises UsageError: when index and batch records would have to lie on the cluster, too.
    """
    root = open_output(ensemble.output, cluster.client.runner)
    if ensemble.control_is_default and isinstance(root, RemoteRoot):
        raise UsageError(
            f"{ensemble.path}: output {ensemble.output} lies on {cluster.client.runner.place}: the "
            "key 'control' must name a folder here for the output index and the batch records"
        )
    return root


def index_spec(ensemble: Ensemble) -> str:
    """Return where an ensemble's index is, without any secret: for :func:`alocate_index`."""
    return ensemble.index if is_reference(ensemble.index) else ensemble.index_location()


async def alocate_index(spec: str) -> str:
    """Return the location that an index's spec comes to, from within a triggerer.

    :raises UsageError: when the variable or the connection cannot be resolved.
    """
    resolved = {}
    if spec.startswith("conn:"):
        id = spec.partition(":")[2]
        resolved[id] = database_uri(await EnsembleHook.aget_connection(id))
    place = Place("the trigger of this task", "index")
    return locate_index(spec, Path(), Path(), place, resolved.__getitem__)


def database_uri(connection: Connection) -> str:
    """Return a connection to PostgreSQL as libpq's URI; its extra becomes URI parameters.

    :raises UsageError: when the connection is of another type.
    """
    if connection.conn_type not in POSTGRES_TYPES:
        raise UsageError(
            f"connection {connection.conn_id!r} is of type {connection.conn_type!r}: an output "
            "index lives in PostgreSQL, so its connection must be of type 'postgres'"
        )
    password = f":{quote(connection.password, safe='')}" if connection.password else ""
    login = quote(connection.login or "", safe="") + password
    port = f":{connection.port}" if connection.port else ""
    place = f"{connection.host or ''}{port}/{quote(connection.schema or '', safe='')}"
    extra = {key: value for key, value in read_extra(connection).items() if is_text(value)}
    query = f"?{urlencode(extra, quote_via=quote)}" if extra else ""
    return f"postgresql://{login}{'@' if login else ''}{place}{query}"


def given(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides without those that leave the file's value: empty fields of a form, mostly.

    None is one, but inside a parameter, where it is a value like any other; and an empty text is
    where the file cannot have one.
    """
    kept: dict[str, Any] = without_nones(
        {key: _given(str(key), value) for key, value in overrides.items()}, deep=False
    )
    return kept


def _given(key: str, value: Any) -> Any:
    top, _, below = key.partition(".")
    if top == "parameters":
        return value if below else without_nones(value, deep=False)
    return without_nones(value if top in TEXTS else _none_for_blank(value, FORM_DEPTH))


def without_nones(values: Any, *, deep: bool = True) -> Any:
    """Return a mapping without what is None, and without mappings emptied by that.

    A DAG parameter that was not given renders to None; it must not override the ensemble file.

    :param values: what is no mapping is returned as it is.
    :param deep: look into the mappings in it, too.
    """
    if not isinstance(values, Mapping):
        return values
    result = {}
    for key, value in values.items():
        kept = without_nones(value) if deep else value
        if kept is not None and (kept != {} or value == {}):
            result[key] = kept
    return result


def _none_for_blank(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping) and depth > 1:
        return {key: _none_for_blank(item, depth - 1) for key, item in value.items()}
    return None if isinstance(value, str) and not value else value
