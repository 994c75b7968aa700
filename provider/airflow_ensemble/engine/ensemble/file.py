"""The ensemble file: read at run time, merged with overrides, validated, frozen.

Three steps, kept apart: :mod:`~airflow_ensemble.engine.ensemble.yaml_text` turns text into values,
:func:`merge` lays overrides over them, :func:`build` judges every value and resolves every path.
Whatever comes from an override is judged by the same rules as the file. Nothing here opens the
index or the output root; the table of simulations is read only by
:meth:`Ensemble.read_simulations`, as a stream.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.command import RUN_FIELDS
from airflow_ensemble.engine.ensemble.blocks import SEED, Remarks, Rules
from airflow_ensemble.engine.ensemble.execution import read_execution
from airflow_ensemble.engine.ensemble.index_spec import locate_index, read_index_spec
from airflow_ensemble.engine.ensemble.paths import HERE, Side, expand
from airflow_ensemble.engine.ensemble.schema import (
    Place,
    check_known,
    read_choice,
    read_flag,
    read_mapping,
    read_max_failed,
    read_resources,
    read_seconds,
    read_text,
    read_whole,
    refuse,
)
from airflow_ensemble.engine.ensemble.settings import SHADOWING, placeholders, read_settings
from airflow_ensemble.engine.ensemble.table import read_records, read_table
from airflow_ensemble.engine.ensemble.written import as_text, find_long
from airflow_ensemble.engine.ensemble.yaml_text import parse_yaml
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.parameters import take_apart
from airflow_ensemble.engine.recipe import Recipe, Settings
from airflow_ensemble.engine.simulation import Limits, Resources, Simulation
from airflow_ensemble.engine.storage import local_path, uri_scheme

KEYS = (
    "name",
    "model",
    "command",
    "model_version",
    "seed",
    "parameters",
    "simulations",
    "columns",
    "types",
    "products",
    "output",
    "control",
    "index",
    "skip_existing",
    "max_attempts",
    "max_interruptions",
    "max_failed",
    "time_limit",
    "logs",
    "resources",
    "execution",
)
#: Keys whose mappings an override changes key by key instead of replacing them.
MERGED = ("parameters", "execution", "resources")
LOGS = ("failed", "all")
TYPES = ("text",)

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


@dataclass(frozen=True)
class Ensemble:
    """A validated ensemble file; relative paths have become absolute.

    :param path: the file itself.
    :param name: the ensemble's name.
    :param settings: what decides the results.
    :param simulations: the table's path, or the simulations themselves as written.
    :param output: absolute path or URI of the output root, as the worker sees it.
    :param control: local folder of index and batch records.
    :param index: ``sqlite``, an absolute path, ``env:NAME``, ``conn:ID`` or a DSN without password.
    :param skip_existing: keep what is complete; False computes everything anew.
    :param limits: how often one simulation may be tried and interrupted.
    :param max_failed: how many may fail in a successful run: a number, or a text such as ``5%``.
    :param time_limit: seconds for one attempt; None is unlimited.
    :param logs: which logs are kept: ``failed`` or ``all``.
    :param resources: what a simulation needs whose row says nothing else.
    :param execution: options of the backend; our own keys with ``_``, further ones as ``sbatch``
        spells them.
    :param columns: columns of the table by what they are to be called.
    :param types: what cells of a CSV table are that are not to be read as JSON would: ``text``.
    :param warnings: what is not likely to be meant.
    :param control_is_default: whether ``control`` follows from ``output``, because nobody named it.
    """

    path: Path
    name: str
    settings: Settings
    simulations: Path | tuple[Mapping[str, Any], ...]
    output: str
    control: Path
    index: str = "sqlite"
    skip_existing: bool = True
    limits: Limits = field(default_factory=Limits)
    max_failed: int | str = 0
    time_limit: float | None = None
    logs: str = "failed"
    resources: Resources = field(default_factory=Resources)
    execution: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    control_is_default: bool = False

    def recipe(self) -> Recipe:
        """Return what a worker must know."""
        return Recipe(
            ensemble=self.name,
            settings=self.settings,
            output=self.output,
            limits=self.limits,
            time_limit=self.time_limit,
            logs=self.logs,
            code=tuple(self.execution.get("code", ())),
        )

    def read_simulations(
        self, first: int | None = None, remarks: Remarks | None = None
    ) -> Iterator[Simulation]:
        """Yield the simulations in table order, streamed and validated.

        :param first: end after this many.
        :param remarks: takes what is worth saying of the table.
        :raises UsageError: naming file, row and column, when the stream reaches what is wrong.
        """
        remarks = remarks or Remarks()
        remarks.warnings.extend(self.warnings)
        filled = placeholders(self.settings.command)
        common = frozenset(take_apart(self.settings.parameters).values)
        needed = filled - set(RUN_FIELDS) - common
        rules = Rules(self.columns, tuple(self.types), common, filled & set(SHADOWING))
        options: dict[str, Any] = {
            "needed": needed, "resources": self.resources, "rules": rules, "remarks": remarks
        }  # fmt: skip
        if isinstance(self.simulations, Path):
            return islice(read_table(self.simulations, **options), first)
        place = Place(str(self.path), "simulations")
        return islice(read_records(self.simulations, place, **options), first)

    def index_location(self, resolve_connection: Callable[[str], str] | None = None) -> str:
        """Return where the output index is: an absolute path, or a ``postgresql://`` DSN.

        :param resolve_connection: turns an Airflow connection id into a database URI.
        :raises UsageError: when the variable or the connection cannot be resolved.
        """
        place = Place(str(self.path), "index")
        return locate_index(self.index, self.path.parent, self.control, place, resolve_connection)


def load(
    path: str | Path, overrides: Mapping[str, Any] | None = None, there: Side | None = None
) -> Ensemble:
    """Read an ensemble file.

    :param path: of the file.
    :param overrides: laid over the file's values: nested, or with dotted keys such as
        ``execution.n_workers``; relative paths in them are relative to the file's folder, too.
    :param there: the cluster on which simulations run, where that is not this machine: its own
        variables and home folders are what its paths name.
    :raises UsageError: naming file and key, and what to do.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 (keeps symbolic links)
    values = parse_yaml(_read(path), str(path))
    return build(path, merge(values, overrides or {}, str(path)), there)


def merge(
    values: Mapping[str, Any], overrides: Mapping[str, Any], file: str = "overrides"
) -> dict[str, Any]:
    """Return the file's values with overrides laid over them.

    ``parameters``, ``execution`` and ``resources`` are changed key by key, everything else is
    replaced. An override of None leaves what the file says, except below ``parameters``.

    :raises UsageError: on a dotted key below anything else.
    """
    merged = dict(values)
    for key, value in overrides.items():
        top, _, below = str(key).partition(".")
        if below and top not in MERGED:
            raise UsageError(
                f"{file}: override {key!r}: only keys below {', '.join(MERGED)} can be set one by "
                f"one; give {top!r} as a whole"
            )
        for part in reversed(below.split(".") if below else ()):
            value = {part: value}
        if value is None:
            continue
        merged[top] = _overlay(merged.get(top), value, top)
    return merged


def build(path: Path, values: Mapping[str, Any], there: Side | None = None) -> Ensemble:
    """Judge every value of an ensemble file and resolve its paths.

    :param path: absolute path of the file.
    :param there: see :func:`load`.
    :raises UsageError: naming file and key.
    """
    top = Place(str(path), "")
    check_known(values, KEYS, top)
    given = {key: value for key, value in values.items() if value is not None}
    for key in ("name", "simulations", "products", "output"):
        if key not in given:
            raise UsageError(f"{path}: the key {key!r} is missing")
    output = _read_output(given["output"], path.parent, top.below("output"), there)
    options: dict[str, Any] = {
        key: read(given[key], top.below(key)) for key, read in _OPTIONS.items() if key in given
    }
    return Ensemble(
        path=path,
        name=read_text(
            given["name"], top.below("name"), _NAME, "a name of letters, digits, '.', '_' and '-'"
        ),
        settings=read_settings(given, top),
        simulations=_read_source(given["simulations"], path.parent, top.below("simulations")),
        output=output,
        control=_read_control(given.get("control"), output, path.parent, top.below("control")),
        limits=_read_limits(given, top),
        warnings=tuple(_warnings(given.get("parameters"), top.below("parameters"))),
        control_is_default="control" not in given,
        execution=read_execution(
            given.get("execution", {}), path.parent, top.below("execution"), there, output
        ),
        **options,
    )


#: Keys that are read one by one into the attribute of the same name.
_OPTIONS: dict[str, Callable[[Any, Place], Any]] = {
    "index": read_index_spec,
    "skip_existing": read_flag,
    "max_failed": read_max_failed,
    "time_limit": read_seconds,
    "logs": lambda value, place: read_choice(value, place, LOGS),
    "columns": lambda value, place: _read_columns(value, place),
    "types": lambda value, place: {
        name: read_choice(type, place.below(name), TYPES)
        for name, type in read_mapping(value, place).items()
    },
    "resources": lambda value, place: read_resources(
        read_mapping(value, place), place, Resources()
    ),
}


def _read(path: Path) -> str:
    try:
        if path.is_char_device():  # it may have no end
            raise UsageError(f"{path} is a device: name an ensemble file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no ensemble file {path}: `ensemble init` writes a starter file"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _overlay(old: Any, new: Any, top: str) -> Any:
    """Lay one value over another, key by key where both are mappings of a merged key."""
    if top not in MERGED or not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    merged = dict(old)
    for key, value in new.items():
        if value is None and top != "parameters":
            continue
        same = _same_key(key, merged) if top == "execution" else key
        merged[same] = _overlay(merged.get(same), value, top)
    return merged


def _same_key(key: str, known: Mapping[str, Any]) -> str:
    """Return the key of the file that means the same, ``-`` and ``_`` being equal."""
    plain = str(key).replace("-", "_")
    return next((old for old in known if str(old).replace("-", "_") == plain), key)


def _read_source(value: Any, folder: Path, place: Place) -> Path | tuple[Mapping[str, Any], ...]:
    if isinstance(value, list):
        return tuple(read_mapping(item, place.below(str(i))) for i, item in enumerate(value))
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    text = read_text(value, place, expected="the path of a table, or a list of mappings")
    return _local(expand(text, place), folder, place)


def _read_output(value: Any, folder: Path, place: Place, there: Side | None) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    written = read_text(value, place, expected="a path or a URI")
    is_path = uri_scheme(written) in ("", "file")
    text = expand(written, place, there if there and is_path else HERE)
    if uri_scheme(text) not in ("", "file"):
        return text.rstrip("/")
    if there and written.startswith(("$", "~")) and text[0] not in "/$" and not uri_scheme(text):
        refuse(place, "the absolute path of a folder on the cluster", text)
    return str(_local(text, folder, place))


def _read_control(value: Any, output: str, folder: Path, place: Place) -> Path:
    if value is not None:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        text = expand(read_text(value, place, expected="a path"), place)
        return _local(text, folder, place)
    if uri_scheme(output):
        raise UsageError(
            f"{place} is missing: the output {output} is in an object store, so name a local "
            "folder for the index and the batch records"
        )
    return Path(output) / ".ensemble"


def _read_columns(value: Any, place: Place) -> dict[str, str]:
    columns: dict[str, str] = {}
    for new, old in read_mapping(value, place).items():
        name = read_text(as_text(old), place.below(new), expected="a column")
        for other, same in columns.items():
            if same == name:
                raise UsageError(f"{place.below(new)} and {other!r} are the same column {name!r}")
        columns[new] = name
    return columns


def _warnings(parameters: Any, place: Place) -> Iterator[str]:
    """Say which parameters are not likely to be what is meant."""
    for name, value in (parameters or {}).items():
        long = find_long(value)
        if long is not None:
            yield (
                f"{place.below(str(name))}: {str(long)[:40]} is a whole number beyond 2^63 - 1, so "
                "that it is a text: put it in quotes if that is meant"
            )
        if name == SEED:
            yield (
                f"{place.below(name)} is a parameter that all simulations share, and not run.seed: "
                "the key 'seed' beside 'parameters' gives the seed of the ensemble, and a column "
                "'seed' of the table that of each simulation"
            )


def _read_limits(given: Mapping[str, Any], top: Place) -> Limits:
    names = ("max_attempts", "max_interruptions")
    return Limits(
        **{key: read_whole(given[key], top.below(key), 1) for key in names if key in given}
    )


def _local(text: str, folder: Path, place: Place) -> Path:
    """Return an absolute local path; a relative one is relative to the ensemble file's folder."""
    if uri_scheme(text) not in ("", "file"):
        refuse(place, "a local path", text)
    try:
        return local_path(text) if uri_scheme(text) else local_path(str(folder / text))
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
