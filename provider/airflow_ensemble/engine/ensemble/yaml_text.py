"""The text of an ensemble file, read as the person who wrote it meant it.

YAML 1.1, which PyYAML follows, turns ``10:00:00`` into 36000, ``on`` into true, ``010`` into 8 and
a date into an object, and lets a second key silently replace the first. Here only what JSON calls a
number is a number, ``true`` and ``false`` are the only truth values, everything else is the text as
it was written, and a repeated key is refused. Numbers and truth values remember how they were
written, where they would print otherwise. PyYAML is imported when it is needed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from airflow_ensemble.engine.ensemble.schema import describe
from airflow_ensemble.engine.ensemble.written import (
    DECIMAL_NUMBER,
    WHOLE_NUMBER,
    WrittenTruth,
    read_number,
    written_float,
)
from airflow_ensemble.engine.errors import UsageError

_TAG = "tag:yaml.org,2002:"
#: What PyYAML raises for a tag, such as ``!!int``, on a text that it does not fit.
_TAG_ERRORS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
_NOT_FINITE = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_KINDS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", WHOLE_NUMBER, list("-+0123456789")),
    ("float", f"{DECIMAL_NUMBER}|{_NOT_FINITE}", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
)


def parse_yaml(text: str, file: str) -> dict[str, Any]:
    """Read the text of an ensemble file.

    :param text: YAML.
    :param file: its name, for errors.
    :raises UsageError: naming file and line, when it is not YAML, not a mapping, or repeats a key.
    """
    value = _parse(text, file)
    if value is None:
        raise UsageError(f"{file} is empty: `ensemble init` writes a starter file")
    if not isinstance(value, dict):
        raise UsageError(f"{file} must hold a mapping (key: value), found {describe(value)}")
    return value


def parse_value(text: str, name: str) -> Any:
    """Read one value given elsewhere, such as on a command line, by the rules of the file.

    :raises UsageError: when it is not YAML.
    """
    return _parse(text, name)


def _parse(text: str, file: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise UsageError(f"{file}{line}: {problem}") from error
    except (yaml.YAMLError, *_TAG_ERRORS) as error:
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}") from error


@lru_cache(maxsize=1)
def _loader() -> Any:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own protocol)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _refuse_repeated(node)
            return super().construct_mapping(node, deep)

    def construct_mapping(loader: Any, node: Any) -> Any:
        loader_mapping: dict[Any, Any] = {}
        yield loader_mapping
        loader_mapping.update(loader.construct_mapping(node, deep=True))

    for kind, pattern, first in _KINDS:
        Loader.add_implicit_resolver(_TAG + kind, re.compile(f"(?:{pattern})\\Z"), first)
    Loader.add_constructor(f"{_TAG}map", construct_mapping)
    Loader.add_constructor(f"{_TAG}int", _construct_number)
    Loader.add_constructor(f"{_TAG}float", _construct_number)
    Loader.add_constructor(f"{_TAG}bool", _construct_truth)
    return Loader


def _construct_number(loader: Any, node: Any) -> Any:
    text = loader.construct_scalar(node)
    number = read_number(text)
    if type(number) is int and node.tag == f"{_TAG}float":  # which only a tag asks for
        return written_float(float(number), text)
    if number is not None:
        return number
    if re.fullmatch(_NOT_FINITE, text):
        return written_float(float(text.replace(".", "")), text)
    return getattr(loader, f"construct_yaml_{node.tag[len(_TAG) :]}")(node)  # by its tag alone


def _construct_truth(loader: Any, node: Any) -> Any:
    text = loader.construct_scalar(node)
    value = loader.construct_yaml_bool(node)
    return value if text == ("true" if value else "false") else WrittenTruth(value, text)


def _refuse_repeated(node: Any) -> None:
    import yaml

    seen: dict[Any, int] = {}
    for key, _ in getattr(node, "value", ()):
        if key.tag == f"{_TAG}merge" or not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value!r} stands in line {seen[key.value]} already",
                key.start_mark,
            )  # fmt: skip
        seen[key.value] = line
