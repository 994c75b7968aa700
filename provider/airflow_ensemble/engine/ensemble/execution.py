"""The ``execution`` section: options of the backends, and what is passed on to ``sbatch``."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.ensemble.kubernetes import KEYS as KUBERNETES_KEYS
from airflow_ensemble.engine.ensemble.kubernetes import read_kubernetes
from airflow_ensemble.engine.ensemble.paths import HERE, Side, expand
from airflow_ensemble.engine.ensemble.schema import (
    Place,
    nearest,
    read_choice,
    read_json,
    read_mapping,
    read_seconds,
    read_text,
    read_texts,
    read_whole,
    refuse,
)
from airflow_ensemble.engine.ensemble.written import (
    WrittenFloat,
    WrittenInt,
    WrittenTruth,
    as_text,
)
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.storage import uri_scheme

BACKENDS = ("local", "slurm", "kubernetes")
#: How an element of an array job can end other than well: what ``policies`` may name.
ENDS = (
    *("failed", "time-limit", "out-of-memory", "node-failure", "preempted", "cancelled"),
    *("blocked", "vanished", "queue-deadline", "run-deadline", "unusable"),
)
RETRY, GIVE_UP = "retry", "give-up"

_LOGS = "logs are kept in the job's folder below remote_root"
_ANSWER = "the answer of sbatch must be read"
#: Options of ``sbatch`` that the backend sets, and what to do instead.
_OWNED = {
    "array": "it follows from n_workers and array_parallelism",
    "comment": "it holds the ensemble and the batch",
    "output": _LOGS,
    "error": _LOGS,
    "open-mode": _LOGS,
    "chdir": "every simulation has a working directory of its own",
    "parsable": _ANSWER,
    "wait": "use ensemble run --wait",
    "test-only": "use ensemble run --dry-run",
    "wrap": "set-up lines go to 'setup'",
    "signal": "use stop_before_end: seconds before the time limit",
    "clusters": "log in to the cluster that is meant",
    "help": _ANSWER,
    "usage": _ANSWER,
    "version": _ANSWER,
    "verbose": _ANSWER,
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_SBATCH_NAME = r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*"
_JOB_NAME = r"[A-Za-z0-9._-]{1,40}"


def read_execution(
    value: Any, folder: Path, place: Place, there: Side | None = None, output: str = ""
) -> dict[str, Any]:
    """Return the options, judged where they are our own.

    In keys, ``-`` and ``_`` are equal: ours come back as they are documented, further ones with
    ``-``, as ``sbatch`` spells its options. Paths of ``code`` become absolute.

    :param value: of the key ``execution``.
    :param folder: of the ensemble file.
    :param there: the cluster, where that is not this machine.
    :param output: path or URI of the output root.
    :raises UsageError: on a wrong value, a key given twice, or a misspelt key of ours.
    """
    options: dict[str, Any] = {}
    for key, item in read_mapping(value, place).items():
        name = _canonical(key)
        if name in options:
            raise UsageError(f"{place.below(key)} is given twice: '-' and '_' are equal in keys")
        if item is not None:
            options[name] = _read_option(name, item, place.below(key))
    _refuse_misplaced(options, place)
    if "code" in options:
        options["code"] = _resolve_code(options["code"], folder, place.below("code"))
    for name, side in _sides(options, there, output).items():
        if name in options:
            options[name] = _EXPANDED[name](
                expand(options[name], place.below(name), side), place.below(name)
            )
    return options


def _sides(options: Mapping[str, Any], there: Side | None, output: str) -> dict[str, Side]:
    """Return where each path is used; one that nobody uses stays as it was written."""
    backend = options.get("backend")
    if there is not None:
        is_written_here = "products" in options.get("fetch", ()) or uri_scheme(output)
        collecting = HERE if is_written_here else there
        return {"python": there, "remote_root": there, "collect_to": collecting}
    if backend == "slurm":
        return {"python": HERE, "remote_root": HERE}
    return {} if backend == "kubernetes" else {"python": HERE}


def _refuse_misplaced(options: Mapping[str, Any], place: Place) -> None:
    """Refuse what would go to sbatch, but is meant for the pods that the file asks for."""
    if options.get("backend") != "kubernetes":
        return
    for name in options:
        if name not in _READERS and _plain(name) in KUBERNETES_KEYS:
            raise UsageError(
                f"{place.below(name)} belongs below {place.key}.kubernetes, with what else pods "
                "are made of"
            )


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
    return _read_sbatch_option(name, value, place)


def _read_sbatch_option(name: str, value: Any, place: Place) -> Any:
    """Return the value of a key that is not ours, for ``--name=value``."""
    if not re.fullmatch(_SBATCH_NAME, name):
        raise UsageError(f"{place} is neither a key of ours nor the name of an option of sbatch")
    if len(name) == 1:
        raise UsageError(f"{place}: write the long name of sbatch's option -{name}")
    # sbatch takes abbreviations, so that --arr would be an array, too.
    owned = next((option for option in _OWNED if option.startswith(name.lower())), None)
    if owned:
        raise UsageError(f"{place}: sbatch's --{owned} cannot be given: {_OWNED[owned]}")
    if isinstance(value, (WrittenInt, WrittenFloat)):
        value = value.text
    if not isinstance(value, (str, int, float, WrittenTruth)):
        refuse(place, "an option for sbatch: a text, a number, true or false", value)
    return read_json(_read_line(value, place) if isinstance(value, str) else value, place)


def _read_positive(value: Any, place: Place) -> int:
    return read_whole(value, place, 1)


def _read_line(value: Any, place: Place, expected: str = "a text") -> str:
    text = read_text(value, place, expected=expected)
    if _CONTROL.search(text):
        refuse(place, f"{expected} without line ends and control characters", value)
    return text


def _read_setup(value: Any, place: Place) -> tuple[str, ...]:
    lines = read_texts(value, place)
    for number, line in enumerate(lines):
        _read_line(line.replace("\t", " "), place.below(str(number)), "one line of shell")
    return lines


def _read_path(value: Any, place: Place) -> str:
    return read_text(value, place, expected="a path")


def _read_python(value: Any, place: Place) -> str:
    return _read_line(value, place, "a Python interpreter")


def _read_remote_root(value: Any, place: Place, beginning: str = "/") -> str:
    expected = "the absolute path of a folder on the cluster"
    return read_text(_read_line(value, place, expected), place, f"{beginning}.*", expected)


def _read_policies(value: Any, place: Place) -> dict[str, Any]:
    policies = {}
    for key, policy in read_mapping(value, place).items():
        end = str(key).replace("_", "-")
        if end not in ENDS:
            meant = nearest(end, ENDS)
            hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(ENDS)}"
            raise UsageError(f"{place.below(key)} is not a way for a job to end: {hint}")
        policies[end] = _read_policy(policy, place.below(key))
    return policies


def _read_policy(value: Any, place: Place) -> Any:
    expected = "retry, give-up, or factors such as {memory: 2} or {time: 1.5} for a retry"
    if value in (RETRY, GIVE_UP):
        return value
    if not isinstance(value, Mapping) or not value:
        refuse(place, expected, value)
    return {
        read_choice(key, place, ("memory", "time")): _read_factor(factor, place.below(key))
        for key, factor in value.items()
    }


def _read_factor(value: Any, place: Place) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 1 <= value < math.inf:
        refuse(place, "a factor of at least 1", value)
    return float(value)


_READERS: dict[str, Callable[[Any, Place], Any]] = {
    "backend": lambda value, place: read_choice(value, place, BACKENDS),
    "n_workers": _read_positive,
    "array_parallelism": _read_positive,
    "cpus-per-task": _read_positive,
    "python": _read_python,
    "code": read_texts,
    "setup": _read_setup,
    "remote_root": lambda value, place: _read_remote_root(value, place, "[/~$]"),
    "stop_before_end": read_whole,
    "policies": _read_policies,
    "queue_deadline": read_seconds,
    "run_deadline": read_seconds,
    "job-name": lambda value, place: read_text(
        as_text(value), place, _JOB_NAME, "1 to 40 letters, digits, '.', '_' and '-'"
    ),
    "fetch": read_texts,
    "collect_to": _read_path,
    "kubernetes": read_kubernetes,
}

#: What judges a path once variables and home folders are put in.
_EXPANDED: dict[str, Callable[[Any, Place], str]] = {
    "python": _read_python,
    "remote_root": _read_remote_root,
    "collect_to": _read_path,
}


def _resolve_code(paths: tuple[str, ...], folder: Path, place: Place) -> tuple[str, ...]:
    """Return absolute paths of code that exists."""
    resolved = []
    for text in paths:
        path = os.path.abspath(folder / expand(text, place))  # noqa: PTH100 (keeps links)
        if not os.path.exists(path):  # noqa: PTH110 (a name that is too long exists nowhere)
            raise UsageError(f"{place}: there is no {path}")
        resolved.append(path)
    return tuple(resolved)
