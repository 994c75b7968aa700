"""The ``execution`` section: options of the backends, and what is passed on to ``sbatch``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.ensemble.schema import (
    Place,
    nearest,
    read_choice,
    read_json,
    read_mapping,
    read_text,
    read_texts,
    read_whole,
    refuse,
)
from airflow_ensemble.engine.errors import UsageError

BACKENDS = ("local", "slurm", "kubernetes")


def read_execution(value: Any, folder: Path, place: Place) -> dict[str, Any]:
    """Return the options, judged where they are our own.

    In keys, ``-`` and ``_`` are equal: ours come back as they are documented, further ones with
    ``-``, as ``sbatch`` spells its options. Paths of ``code`` become absolute.

    :param value: of the key ``execution``.
    :param folder: of the ensemble file.
    :raises UsageError: on a wrong value, a key given twice, or a misspelt key of ours.
    """
    options: dict[str, Any] = {}
    for key, item in read_mapping(value, place).items():
        name = _canonical(key)
        if name in options:
            raise UsageError(f"{place.below(key)} is given twice: '-' and '_' are equal in keys")
        if item is not None:
            options[name] = _read_option(name, item, place.below(key))
    if "code" in options:
        options["code"] = _resolve_code(options["code"], folder, place.below("code"))
    return options


def _canonical(key: str) -> str:
    same = (known for known in _READERS if _plain(known) == _plain(key))
    return next(same, key.replace("_", "-"))


def _plain(key: str) -> str:
    return key.replace("-", "_")


def _read_option(name: str, value: Any, place: Place) -> Any:
    if name in _READERS:
        return _READERS[name](value, place)
    meant = nearest(_plain(name), tuple(map(_plain, _READERS)), likeness=0.85)
    if meant:
        raise UsageError(f"{place} is not a known key. Did you mean {_canonical(meant)!r}?")
    if isinstance(value, Mapping):
        refuse(place, "an option for sbatch: a text, a number, true or false", value)
    return read_json(value, place)


def _read_positive(value: Any, place: Place) -> int:
    return read_whole(value, place, 1)


_READERS: dict[str, Callable[[Any, Place], Any]] = {
    "backend": lambda value, place: read_choice(value, place, BACKENDS),
    "n_workers": _read_positive,
    "array_parallelism": _read_positive,
    "cpus-per-task": _read_positive,
    "python": lambda value, place: read_text(value, place, expected="a Python interpreter"),
    "code": read_texts,
    "setup": read_texts,
    "fetch": read_texts,
    "collect_to": lambda value, place: read_text(value, place, expected="a path"),
}


def _resolve_code(paths: tuple[str, ...], folder: Path, place: Place) -> tuple[str, ...]:
    """Return absolute paths of code that exists."""
    resolved = []
    for text in paths:
        path = os.path.abspath(folder / Path(text).expanduser())  # noqa: PTH100 (keeps links)
        if not Path(path).exists():
            raise UsageError(f"{place}: there is no {path}")
        resolved.append(path)
    return tuple(resolved)
