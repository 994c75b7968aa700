"""What to do when an array element has ended badly, by how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_ensemble.slurm.options import Options, scaled
from airflow_ensemble.slurm.states import End

RETRY = "retry"
GIVE_UP = "give-up"

#: Ends that another try would only repeat, or that a person has wanted.
_HOPELESS = frozenset({End.CANCELLED, End.BLOCKED, End.UNUSABLE})
#: No factor grows beyond this: a limit that a site would refuse in any case.
_LARGEST = 1000.0


@dataclass(frozen=True)
class Policy:
    """What follows from one kind of end.

    :param action: ``retry`` or ``give-up``.
    :param memory: factor of the memory that a retry asks for.
    :param time: factor of the time limit that a retry asks for.
    """

    action: str = RETRY
    memory: float = 1.0
    time: float = 1.0


def read_policies(execution: Mapping[str, Any]) -> dict[End, Policy]:
    """Return the policy of every kind of end: the ensemble file's, else the default."""
    policies = {end: Policy(GIVE_UP if end in _HOPELESS else RETRY) for end in End}
    for name, value in execution.get("policies", {}).items():
        policies[End(name)] = Policy(value) if isinstance(value, str) else Policy(RETRY, **value)
    return policies


def compound(policies: Mapping[End, Policy], history: Sequence[str | None]) -> tuple[float, float]:
    """Return the factors of memory and time after a history of ends, multiplied up.

    :param history: how the chunk's earlier submissions ended, as the index notes it.
    """
    memory = time = 1.0
    for word in history:
        policy = policies.get(_end(word), Policy())
        memory = min(memory * policy.memory, _LARGEST)
        time = min(time * policy.time, _LARGEST)
    return memory, time


def idle_factors(policies: Mapping[End, Policy], options: Options) -> list[str]:
    """Say which factors change nothing, because jobs are submitted without what they multiply.

    :param options: what ``sbatch`` is asked for at first.
    :return: a line for people for memory, and one for time; none when every factor has an effect.
    """
    by_memory = [end.value for end, policy in policies.items() if policy.memory > 1]
    by_time = [end.value for end, policy in policies.items() if policy.time > 1]
    said = "execution.policies: the factor of {} for {} changes nothing, for jobs ask for no {}"
    lines = []
    if by_memory and scaled(options, 2.0, 1.0) == options:
        lines.append(said.format("memory", ", ".join(by_memory), "memory: set 'mem'"))
    if by_time and scaled(options, 1.0, 2.0) == options:
        lines.append(said.format("time", ", ".join(by_time), "time limit: set 'time'"))
    return lines


def _end(word: str | None) -> End:
    try:
        return End(word)
    except ValueError:  # none yet, or from a later version
        return End.COMPLETED
