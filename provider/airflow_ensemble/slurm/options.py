"""What ``sbatch`` is asked for: the ensemble file's options and what simulations need, as texts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ensemble.engine.simulation import Resources
from airflow_ensemble.slurm.environment import GPUS, OPTION_VARIABLES, full_name

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
    given = _given(execution, defaults)
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


def declined(execution: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Return the options that a job shall not have, whatever the account's variables say."""
    return [name for name, value in _given(execution, defaults).items() if value is False]


def _given(execution: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return what file and cluster say, without a default that something in the file excludes."""
    said = {full_name(name): item for name, item in execution.items() if name not in OUR_KEYS}
    taken = {one for name in said for one in OPTION_VARIABLES.get(name, ())} - set(GPUS)
    kept = {
        name: item
        for name, item in defaults.items()
        if not taken & set(OPTION_VARIABLES.get(full_name(name), ()))
    }
    return {**kept, **said}


@dataclass(frozen=True)
class Launch:
    """What ``srun`` and ``mpirun`` are to give one simulation of a job.

    :param tasks: processes; 0 for one on each node, None leaves it to the job's own options.
    :param cpus: CPUs of each process.
    :param at_once: simulations that share the job.
    :param gpus: GPUs of each process, as ``--gpus-per-task`` takes them; None for what the job has.
    :param unset: variables of kinds that the job's options do not have.
    """

    tasks: int | None
    cpus: int
    at_once: int
    gpus: str | None = None
    unset: tuple[str, ...] = ()


_MEMORY_KINDS = {
    "mem": "SLURM_MEM_PER_NODE",
    "mem-per-cpu": "SLURM_MEM_PER_CPU",
    "mem-per-gpu": "SLURM_MEM_PER_GPU",
}


def launch(options: Options, resources: Resources) -> Launch:
    """Return what a simulation's own launcher is to be told in a job of these options."""
    is_divided = resources.tasks > 1
    # Without their number, srun starts as many as have room in the job (22.05).
    tasks: int | None = resources.tasks if is_divided or "nodes" not in options else 0
    if not is_divided and any(name.startswith("ntasks") for name in options):
        tasks = None
    unset: tuple[str, ...] = ()
    kinds = [name for name in _MEMORY_KINDS if name in options]
    if kinds:
        unset = tuple(one for name, one in _MEMORY_KINDS.items() if name not in kinds)
    if "tres-per-task" not in options:
        unset += ("SLURM_TRES_PER_TASK",)  # it repeats the CPUs of the job's own task
    kind, colon, _ = str(options.get("gpus-per-task", "")).rpartition(":")
    divides_gpus = is_divided and resources.gpus_per_task and "gpus-per-task" in options
    return Launch(
        tasks,
        resources.cores_per_task,
        max(1, _whole(options.get("cpus-per-task"), 1) // resources.cores),
        f"{kind}{colon}{resources.gpus_per_task}" if divides_gpus else None,
        unset,
    )


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
    return int(text) if isinstance(text, str) and text.isdecimal() else default
