"""What ``sbatch`` is asked for: the ensemble file's options and what simulations need, as texts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from airflow_ensemble.engine.simulation import Resources

#: Keys of ``execution`` that are our own, or are rendered by themselves: none goes to ``sbatch``.
OUR_KEYS = frozenset(
    {
        *("backend", "n_workers", "array_parallelism", "python", "code", "setup", "fetch"),
        *("collect_to", "remote_root", "stop_before_end", "policies", "queue_deadline"),
        *("run_deadline", "job-name"),
    }
)
#: Options that say how many GPUs a job has in another way than ``--gpus-per-task``.
_GPU_OPTIONS = frozenset({"gpus", "gpus-per-node", "gpus-per-socket", "gres", "tres-per-task"})
_UNLIMITED = frozenset({"infinite", "unlimited", "-1", "0"})
_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<of_day>\d+(?::\d+){0,2})|(?P<plain>\d+(?::\d+){0,2}))")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)B?", re.IGNORECASE)
_MEBIBYTES = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2, "P": 1024**3}
#: Seconds before the time limit at which a worker is told to stop, unless the file says otherwise,
#: and the part of the limit that they may take at most.
_LEAD, _LEAD_PART = 60, 5
_LONGEST_LEAD = 65_535  # of sbatch

#: Options of ``sbatch`` by name without ``--``; True is a bare flag.
Options = Mapping[str, "str | bool"]


def job_options(
    execution: Mapping[str, Any], defaults: Mapping[str, Any], resources: Resources
) -> dict[str, str | bool]:
    """Return the options of an array whose simulations need ``resources``.

    What the ensemble file says wins over the cluster's defaults. What a simulation needs is the
    least that is asked for.
    """
    given = {**defaults, **{k: v for k, v in execution.items() if k not in OUR_KEYS}}
    options: dict[str, str | bool] = {
        name: value if value is True else str(value)
        for name, value in given.items()
        if value is not None and value is not False and value != ""
    }
    cpus = max(_whole(options.get("cpus-per-task"), 1), resources.cores)
    options["cpus-per-task"] = str(cpus)
    if resources.nodes > 1 and _whole(options.get("nodes"), 1) < resources.nodes:
        options["nodes"] = str(resources.nodes)
    _raise_memory(options, resources, cpus)
    _raise_gpus(options, resources)
    if resources.walltime is not None and "time" in options:
        limit = parse_time(str(options["time"]))
        if limit is not None and limit < resources.walltime:
            options["time"] = format_time(resources.walltime)
    elif resources.walltime is not None:
        options["time"] = format_time(resources.walltime)
    return options


def scaled(options: Options, memory: float, time: float) -> dict[str, str | bool]:
    """Return options with memory and time limit multiplied; what is not limited stays so."""
    result = dict(options)
    for name in ("mem", "mem-per-cpu", "mem-per-gpu"):
        size = parse_memory(str(result.get(name, "")))
        if size and memory > 1:
            result[name] = f"{math.ceil(size * memory)}M"
    limit = parse_time(str(result.get("time", "")))
    if limit is not None and time > 1:
        result["time"] = format_time(limit * time)
    return result


def lead_seconds(options: Options, wanted: int | None) -> int:
    """Return how long before its time limit a worker is told to stop; 0 for never.

    :param wanted: seconds that the ensemble file asks for; None for the default.
    """
    limit = parse_time(str(options.get("time", "")))
    if limit is None:
        return 0
    return min(_LEAD if wanted is None else wanted, limit // _LEAD_PART, _LONGEST_LEAD)


def parse_time(text: str) -> int | None:
    """Return the seconds of a time limit as ``sbatch`` reads it; None for none or no such text."""
    found = _TIME.fullmatch(text.strip())
    if found is None or text.strip().lower() in _UNLIMITED:
        return None
    parts = [int(part) for part in (found["of_day"] or found["plain"]).split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return ((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(parts) == 3:
        return (parts[0] * 60 + parts[1]) * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)


def format_time(seconds: float) -> str:
    """Return a time limit for ``sbatch``, rounded up to whole seconds."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{days}-{clock}" if days else clock


def parse_memory(text: str) -> int | None:
    """Return the MiB of an amount of memory as ``sbatch`` reads it; None for no such text."""
    found = _MEMORY.fullmatch(text.strip())
    if found is None:
        return None
    return math.ceil(float(found[1]) * _MEBIBYTES[found[2].upper()])


def parse_resource_class(text: str) -> Resources:
    """Read what :attr:`Resources.resource_class` wrote."""
    pairs = (item.partition("=") for item in text.split(",") if item)
    return Resources(**{name: int(value) for name, _, value in pairs})


def _raise_memory(options: dict[str, str | bool], resources: Resources, cpus: int) -> None:
    if resources.memory is None or "mem-per-gpu" in options:
        return
    at_once = max(1, cpus // resources.cores)
    needed = resources.memory * at_once
    if "mem-per-cpu" in options:
        given = parse_memory(str(options["mem-per-cpu"]))
        if given is not None and given * cpus < needed:
            options["mem-per-cpu"] = f"{math.ceil(needed / cpus)}M"
        return
    if "mem" not in options:
        options["mem"] = f"{needed}M"
        return
    given = parse_memory(str(options["mem"]))
    if given is not None and 0 < given < needed:  # sbatch reads 0 as all of a node's memory
        options["mem"] = f"{needed}M"


def _raise_gpus(options: dict[str, str | bool], resources: Resources) -> None:
    needed = resources.gpus_per_task * resources.tasks
    if not needed or _GPU_OPTIONS & set(options):
        return
    given = str(options.get("gpus-per-task", ""))
    kind, _, number = given.rpartition(":")
    if _whole(number, 0) < needed:
        options["gpus-per-task"] = f"{kind}:{needed}" if kind else str(needed)
    # sbatch refuses GPUs by task where it does not know the number of tasks.
    options.setdefault("ntasks", "1")


def _whole(text: str | bool | None, default: int) -> int:
    return int(text) if isinstance(text, str) and text.isdigit() else default
