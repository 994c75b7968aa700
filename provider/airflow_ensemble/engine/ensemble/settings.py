"""What decides the results: the keys of the ensemble file that make the settings hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.command import RUN_FIELDS, parse_template
from airflow_ensemble.engine.ensemble.schema import (
    RESERVED,
    Place,
    check_known,
    read_flag,
    read_json,
    read_mapping,
    read_text,
    read_whole,
    refuse,
    refuse_marked,
)
from airflow_ensemble.engine.ensemble.written import as_record, as_text
from airflow_ensemble.engine.errors import ModelError, UsageError
from airflow_ensemble.engine.recipe import ProductSpec, Settings

#: Fields of a run that a parameter of the same name would hide from a command, or be hidden by. A
#: row's ``id`` and ``seed`` are those of its run.
SHADOWING = tuple(name for name in RUN_FIELDS if name != "seed")

_PRODUCT = r"(?!logs$)[a-z][a-z0-9_-]{0,63}"
_MODEL = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"


def read_settings(given: Mapping[str, Any], top: Place) -> Settings:
    """Return the settings that an ensemble file gives.

    :param given: the file's values by key; absent ones are left out.
    :param top: of the file.
    :raises UsageError: naming file and key.
    """
    if ("model" in given) == ("command" in given):
        found = "both" if "model" in given else "neither"
        raise UsageError(
            f"{top.file}: give either 'model' (module:function) or 'command' (a list of "
            f"arguments), found {found}"
        )
    parameters = read_mapping(given.get("parameters", {}), top.below("parameters"))
    for name in parameters:
        refuse_marked(name, str(top.below("parameters")))
    command = _read_command(given.get("command"), top.below("command"))
    _check_shadowed(command, parameters, top.below("parameters"))
    _refuse_seed(command, parameters, top.below("parameters"))
    _refuse_reserved(command, parameters, top.below("command"))
    model = given.get("model")
    return Settings(
        model=None
        if model is None
        else read_text(model, top.below("model"), _MODEL, "of the form module:function"),
        command=command,
        model_version=_read_version(given.get("model_version", ""), top.below("model_version")),
        parameters=as_record(parameters, read_json(parameters, top.below("parameters"))),
        products=_read_products(given["products"], bool(command), top.below("products")),
        seed=read_whole(given.get("seed", 0), top.below("seed")),
    )


def placeholders(command: Sequence[str]) -> frozenset[str]:
    """Return the names that a command's arguments use as ``{name}``.

    :raises ModelError: when the braces of an argument are not balanced.
    """
    fields = (used for argument in command for _, used in parse_template(argument))
    return frozenset(used[0] for used in fields if used)


def _read_command(value: Any, place: Place) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        raise UsageError(
            f"{place} must be a list of arguments, found {value[:60]!r}: no shell reads it, so "
            f"write command: [{', '.join(value.split()[:6])}] with one item for each argument"
        )
    if not isinstance(value, list) or not value:
        refuse(place, "a list of arguments, the program first", value)
    arguments = tuple(_read_argument(item, place.below(str(i))) for i, item in enumerate(value))
    if not arguments[0].strip():
        refuse(place.below("0"), "the program to run", arguments[0])
    try:
        placeholders(arguments)
    except ModelError as error:
        raise UsageError(f"{place}: {error}") from error
    return arguments


def _read_argument(value: Any, place: Place) -> str:
    text = as_text(value)
    if not isinstance(text, str):
        refuse(place, "a text (quote it, so that it is passed on as it is written)", value)
    return str(text)


def _refuse_seed(command: Sequence[str], parameters: Mapping[str, Any], place: Place) -> None:
    if command and "seed" in parameters:
        raise UsageError(
            f"{place.below('seed')}: {{seed}} in a command is filled by the run itself: the key "
            "'seed' beside 'parameters' gives the seed of the ensemble, and a column 'seed' of the "
            "table that of each simulation"
        )


def _refuse_reserved(command: Sequence[str], parameters: Mapping[str, Any], place: Place) -> None:
    """Refuse what no simulation can ever have: columns of these names are no parameters."""
    for name in sorted(placeholders(command) & set(RESERVED) - set(parameters)):
        raise UsageError(
            f"{place} uses {{{name}}}, and a column {name!r} is no parameter: it says what a "
            f"simulation needs, or how it is run. Rename the column that is meant, such as "
            f"columns: {{my_{name}: {name}}}, and write {{my_{name}}}"
        )


def _check_shadowed(command: Sequence[str], parameters: Mapping[str, Any], place: Place) -> None:
    for name in sorted(placeholders(command) & set(SHADOWING) & set(parameters)):
        raise UsageError(
            f"{place.below(name)}: {{{name}}} in a command is filled by the run itself, give this "
            "parameter another name"
        )


def _read_version(value: Any, place: Place) -> str:
    text = as_text(value)
    if not isinstance(text, str):
        refuse(place, "a text", value)
    return str(text)


def _read_products(value: Any, is_command: bool, place: Place) -> tuple[ProductSpec, ...]:
    if isinstance(value, list):
        names = [_read_product_name(item, place.below(str(i))) for i, item in enumerate(value)]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"{place} names {name!r} twice")
        specs = tuple(ProductSpec(name) for name in names)
    else:
        if not isinstance(value, Mapping):
            refuse(place, "a list of names, or a mapping from names to {glob, optional}", value)
        specs = tuple(_read_product(name, item, place) for name, item in value.items())
    for spec in specs:
        if is_command and spec.glob is None:
            raise UsageError(
                f"{place.below(spec.name)}: a command's product needs a pattern that finds its "
                f"file, such as {spec.name}: {{glob: '*.nc'}}"
            )
    return specs


def _read_product(name: Any, value: Any, place: Place) -> ProductSpec:
    _read_product_name(name, place.below(str(name)))
    here = place.below(name)
    entries = {} if value is None else read_mapping(value, here)
    check_known(entries, ("glob", "optional"), here)
    glob = entries.get("glob")
    return ProductSpec(
        name,
        None if glob is None else _read_glob(glob, here.below("glob")),
        read_flag(entries.get("optional", False), here.below("optional")),
    )


def _read_product_name(value: Any, place: Place) -> str:
    return read_text(
        value,
        place,
        _PRODUCT,
        "a product's name: a small letter, then small letters, digits, '_' and '-' (not 'logs')",
    )


def _read_glob(value: Any, place: Place) -> str:
    glob = read_text(value, place, expected="a file name pattern")
    if glob.startswith(("/", "~")) or ".." in Path(glob).parts or "\0" in glob:
        refuse(place, "a pattern below the working directory", value)
    return glob
