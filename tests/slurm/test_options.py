"""What sbatch is asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.simulation import Resources
from airflow_ensemble.slurm.options import (
    Launch,
    declined,
    format_time,
    job_options,
    launch,
    lead_seconds,
    parse_memory,
    parse_resource_class,
    parse_time,
    scaled,
)
from airflow_ensemble.slurm.policies import (
    GIVE_UP,
    RETRY,
    Policy,
    compound,
    idle_factors,
    read_policies,
)
from airflow_ensemble.slurm.states import End


def options(
    execution: dict[str, Any], resources: Resources | None = None, **defaults: Any
) -> dict[str, str | bool]:
    return job_options(execution, defaults, resources or Resources())


def test_the_file_wins_over_the_connection_and_our_keys_stay_here() -> None:
    execution = {
        "backend": "slurm", "n_workers": 5, "array_parallelism": 2, "python": "p", "code": ("x",),
        "setup": ("y",), "remote_root": "/r", "policies": {}, "stop_before_end": 5,
        "queue_deadline": 1.0, "run_deadline": 1.0, "job-name": "n", "fetch": (), "collect_to": "z",
        "partition": "mine", "exclusive": True, "requeue": False, "nice": 5, "qos": None,
    }  # fmt: skip
    assert options(execution, partition="theirs", account="a") == {
        "partition": "mine", "account": "a", "exclusive": True, "nice": "5", "cpus-per-task": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("execution", "resources", "expected"),
    [
        ({}, Resources(cores_per_task=4), {"cpus-per-task": "4"}),
        ({"cpus-per-task": 8}, Resources(cores_per_task=4), {"cpus-per-task": "8"}),
        ({}, Resources(tasks=2, cores_per_task=3), {"cpus-per-task": "6"}),
        ({}, Resources(memory=4000), {"mem": "4000M"}),
        ({"cpus-per-task": 8}, Resources(cores_per_task=2, memory=1000), {"mem": "4000M"}),
        ({"mem": "16G"}, Resources(memory=4000), {"mem": "16G"}),
        ({"mem": "1G"}, Resources(memory=4000), {"mem": "4000M"}),
        ({"mem": 0}, Resources(memory=4000), {"mem": "0"}),
        ({"mem-per-cpu": "1G"}, Resources(memory=4000), {"mem-per-cpu": "4000M"}),
        ({"mem-per-cpu": "8G"}, Resources(memory=4000), {"mem-per-cpu": "8G"}),
        ({}, Resources(gpus_per_task=2), {"gpus-per-task": "2", "ntasks": "1"}),
        ({"gres": "gpu:a100:1"}, Resources(gpus_per_task=2), {"gres": "gpu:a100:1"}),
        (
            {"gpus-per-task": "a100:1"},
            Resources(gpus_per_task=2),
            {"gpus-per-task": "a100:2", "ntasks": "1"},
        ),
        ({}, Resources(walltime=3600), {"time": "01:00:00"}),
        ({"time": 10}, Resources(walltime=3600), {"time": "01:00:00"}),
        ({"time": "2:00:00"}, Resources(walltime=3600), {"time": "2:00:00"}),
        ({"time": "UNLIMITED"}, Resources(walltime=3600), {"time": "UNLIMITED"}),
        ({"nodes": "1"}, Resources(nodes=2), {"nodes": "2"}),
    ],
)
def test_simulations_get_at_least_what_they_need(
    execution: dict[str, Any], resources: Resources, expected: dict[str, str]
) -> None:
    found = options(execution, resources)
    assert {"cpus-per-task": found["cpus-per-task"], **expected} == found


def test_what_the_file_says_takes_away_a_default_that_excludes_it() -> None:
    found = options({"mem-per-cpu": "1G", "partit": "mine"}, mem="4G", partition="theirs", qos="q")
    assert found == {
        "mem-per-cpu": "1G", "partition": "mine", "qos": "q", "cpus-per-task": "1",
    }  # fmt: skip


def test_scratch_of_the_file_leaves_the_connection_s_gpus() -> None:
    found = options({"gres": "lscratch:10"}, **{"gpus-per-node": "1", "gres": "gpu:2"})
    assert found == {"gres": "lscratch:10", "gpus-per-node": "1", "cpus-per-task": "1"}


def test_what_the_file_refuses_is_named() -> None:
    given_ones = {"exclusive": False, "requeue": True, "backend": "slurm"}
    assert declined(given_ones, {"overcommit": False, "requeue": False}) == [
        "overcommit", "exclusive",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("execution", "resources", "expected"),
    [
        ({}, Resources(), Launch(1, 1, 1)),
        ({"cpus-per-task": 4}, Resources(), Launch(1, 1, 4)),
        ({"cpus-per-task": 9}, Resources(tasks=2, cores_per_task=2), Launch(2, 2, 2)),
        ({}, Resources(tasks=3, cores_per_task=2), Launch(3, 2, 1)),
        ({"ntasks": 8}, Resources(), Launch(None, 1, 1)),
        ({"ntasks-per-node": 8}, Resources(tasks=16), Launch(16, 1, 1)),
        ({"nodes": 2}, Resources(), Launch(0, 1, 1)),
        ({}, Resources(tasks=4, gpus_per_task=1), Launch(4, 1, 1, "1")),
        (
            {"gpus-per-task": "a100:2"},
            Resources(tasks=2, gpus_per_task=1),
            Launch(2, 1, 1, "a100:1"),
        ),
        ({"gres": "gpu:1"}, Resources(tasks=2, gpus_per_task=1), Launch(2, 1, 1)),
    ],
)
def test_what_a_simulation_s_own_launcher_is_told(
    execution: dict[str, Any], resources: Resources, expected: Launch
) -> None:
    found = launch(options(execution, resources), resources)
    assert dataclasses.replace(found, unset=()) == expected


@pytest.mark.parametrize(
    ("execution", "unset"),
    [
        ({}, []),
        ({"mem": "1G"}, ["SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU"]),
        ({"mem-per-cpu": "1G"}, ["SLURM_MEM_PER_NODE", "SLURM_MEM_PER_GPU"]),
    ],
)
def test_memory_of_another_kind_is_not_left_to_a_launcher(
    execution: dict[str, Any], unset: list[str]
) -> None:
    assert list(launch(options(execution), Resources()).unset) == [*unset, "SLURM_TRES_PER_TASK"]
    found = launch(options({"tres-per-task": "cpu:1", **execution}), Resources())
    assert list(found.unset) == unset


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20", 1200), ("20:30", 1230), ("1:00:00", 3600), ("1-0", 86400), ("1-2:3", 93780),
     ("2-1:2:3", 176523), ("UNLIMITED", None), ("infinite", None), ("soon", None), ("", None),
     ("1:2:3:4", None), ("0", None)],
)  # fmt: skip
def test_times_as_sbatch_reads_them(text: str, seconds: int | None) -> None:
    assert parse_time(text) == seconds


@given(st.integers(1, 10**8))
def test_a_time_that_was_written_is_read_back(seconds: int) -> None:
    assert parse_time(format_time(seconds)) == seconds


def test_memory_as_sbatch_reads_it() -> None:
    texts = ["512", "512M", "4G", "1T", "2048K", "4GB", "lots", ""]
    assert [parse_memory(text) for text in texts] == [512, 512, 4096, 1048576, 2, 4096, None, None]


@given(
    st.builds(
        Resources,
        tasks=st.integers(1, 9),
        memory=st.none() | st.integers(1, 9999),
        gpus_per_task=st.integers(0, 3),
        walltime=st.none() | st.integers(1, 9999),
    )
)
def test_a_resource_class_is_read_back(resources: Resources) -> None:
    assert parse_resource_class(resources.resource_class) == resources


@pytest.mark.parametrize(
    ("time", "wanted", "lead"),
    [("1:00:00", None, 60), ("1", None, 12), ("1:00:00", 300, 300), ("1:00:00", 3000, 720),
     ("1:00:00", 0, 0), ("UNLIMITED", 60, 0), (None, 60, 0)],
)  # fmt: skip
def test_how_long_before_its_limit_a_worker_is_told(
    time: str | None, wanted: int | None, lead: int
) -> None:
    assert lead_seconds({"time": time} if time else {}, wanted) == lead


def test_policies_of_the_file_over_the_defaults() -> None:
    given = {"out-of-memory": {"memory": 2.0}, "cancelled": "retry", "failed": "give-up"}
    policies = read_policies({"policies": given})
    assert policies[End.OUT_OF_MEMORY] == Policy(RETRY, memory=2.0)
    assert policies[End.CANCELLED] == Policy(RETRY)
    assert policies[End.FAILED] == Policy(GIVE_UP)
    hopeless = {end for end, policy in read_policies({}).items() if policy.action == GIVE_UP}
    assert hopeless == {End.CANCELLED, End.BLOCKED, End.UNUSABLE}


def test_factors_compound_with_the_ends_of_their_kind() -> None:
    given = {"out-of-memory": {"memory": 2.0}, "time-limit": {"time": 1.5, "memory": 1.1}}
    history = ["out-of-memory", "time-limit", None, "out-of-memory", "node-failure", "of tomorrow"]
    memory, time = compound(read_policies({"policies": given}), history)
    assert (round(memory, 6), time) == (4.4, 1.5)
    wide: dict[str, str | bool] = {
        "mem": "1000M",
        "mem-per-cpu": "1G",
        "time": "10",
        "exclusive": True,
    }
    assert scaled(wide, memory, time) == {
        "mem": "4400M", "mem-per-cpu": "4506M", "time": "00:15:00", "exclusive": True,
    }  # fmt: skip
    assert scaled({"time": "UNLIMITED", "mem": "0"}, 2.0, 2.0) == {"time": "UNLIMITED", "mem": "0"}


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({}, ["memory", "time"]),
        ({"mem": "4G"}, ["time"]),
        ({"mem-per-cpu": "4G", "time": "10"}, []),
        ({"mem-per-gpu": "4G", "time": "UNLIMITED"}, ["time"]),
        ({"mem": "0", "time": "1-00:00:00"}, ["memory"]),
    ],
)
def test_factors_that_have_nothing_to_multiply_are_named(
    options: dict[str, str | bool], idle: list[str]
) -> None:
    given = {"out-of-memory": {"memory": 2.0}, "time-limit": {"time": 1.5, "memory": 1.0}}
    lines = idle_factors(read_policies({"policies": given}), options)
    assert [line.split()[4] for line in lines] == idle
    ends = {"memory": "out-of-memory", "time": "time-limit"}
    assert [line.split()[6] for line in lines] == [ends[what] for what in idle]


def test_policies_without_factors_are_not_idle() -> None:
    assert idle_factors(read_policies({}), {}) == []
    assert idle_factors(read_policies({"policies": {"failed": "give-up"}}), {}) == []


def test_a_digit_that_is_no_number_is_no_fault_of_ours() -> None:
    assert options({"nodes": "²"}, Resources(nodes=2))["nodes"] == "2"
