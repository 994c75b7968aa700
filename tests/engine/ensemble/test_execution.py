"""The ``execution`` section: what is ours, what sbatch gets, and what nobody may give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_ensemble.engine.ensemble.execution import ENDS, read_execution
from airflow_ensemble.engine.ensemble.schema import Place
from airflow_ensemble.engine.ensemble.yaml_text import parse_value
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.states import End

PLACE = Place("e.yaml", "execution")


def read(**given: Any) -> dict[str, Any]:
    return read_execution({key.replace("__", "-"): v for key, v in given.items()}, Path(), PLACE)


def test_keys_of_the_slurm_backend() -> None:
    given = {
        "remote-root": "/scratch/me", "stop-before-end": 90, "queue-deadline": "1-00:00:00",
        "run_deadline": 3600, "job_name": "nightly.v2", "setup": ["module load python", "a\tb"],
        "policies": {"out_of_memory": {"memory": 2}, "time-limit": {"time": 1.5, "memory": 1},
                     "node-failure": "retry", "failed": "give-up"},
    }  # fmt: skip
    assert read(**given) == {
        "remote_root": "/scratch/me", "stop_before_end": 90, "queue_deadline": 86400.0,
        "run_deadline": 3600.0, "job-name": "nightly.v2", "setup": ("module load python", "a\tb"),
        "policies": {"out-of-memory": {"memory": 2.0}, "time-limit": {"time": 1.5, "memory": 1.0},
                     "node-failure": "retry", "failed": "give-up"},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["1.10", "2024", "1e5", "007"])
def test_names_of_jobs_that_look_like_numbers_are_taken_as_they_were_written(name: str) -> None:
    assert read(job_name=parse_value(name, "name")) == {"job-name": name}


def test_further_keys_go_to_sbatch() -> None:
    assert read(mem_per_cpu="2G", exclusive=True, nice=-5, requeue=False, deadline="now+1hour") == {
        "mem-per-cpu": "2G", "exclusive": True, "nice": -5, "requeue": False,
        "deadline": "now+1hour",
    }  # fmt: skip


def test_every_end_can_have_a_policy() -> None:
    assert set(ENDS) == {end.value for end in End} - {"completed"}


@pytest.mark.parametrize("name", ["array", "arr", "Array", "comment", "output", "error", "chdir",
    "parsable", "wrap", "wait", "test_only", "open-mode", "signal", "clusters", "out"])  # fmt: skip
def test_options_that_the_backend_owns(name: str) -> None:
    with pytest.raises(UsageError, match=rf"e.yaml: execution.{name}: sbatch's --\S+ cannot be"):
        read(**{name: "1"})


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00", "a\x1b[0m", "a\u2028b", "x\n"])
@pytest.mark.parametrize("name", ["partition", "python", "remote_root", "constraint"])
def test_option_value_with_a_newline(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"execution.{name} must be .* without line ends"):
        read(**{name: f"/{value}"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"p": "debug"}, "execution.p: write the long name of sbatch's option -p"),
        ({"gres=gpu:1 x": "1"}, "neither a key of ours nor the name of an option of sbatch"),
        ({"a\n#SBATCH --uid": "0"}, "neither a key of ours nor the name of an option of sbatch"),
        ({"gres": ["a"]}, "execution.gres must be an option for sbatch: a text"),
        ({"setup": ["a", "b\nc"]}, "execution.setup.1 must be one line of shell without line"),
        ({"remote_root": "scratch"}, "execution.remote_root must be the absolute path"),
        ({"job-name": "a b;rm"}, "execution.job-name must be 1 to 40 letters"),
        ({"job-name": "$(id)"}, "execution.job-name must be 1 to 40 letters"),
        ({"job-name": "a\n"}, "execution.job-name must be 1 to 40 letters"),
        ({"stop_before_end": -1}, "execution.stop_before_end must be a whole number"),
        ({"queue_deadline": 0}, "execution.queue_deadline must be a positive number of seconds"),
        ({"policies": {"timelimit": "retry"}}, "timelimit is not a way for a job to end: did you"),
        ({"policies": {"completed": "retry"}}, "completed is not a way for a job to end"),
        ({"policies": {"failed": "again"}}, "policies.failed must be retry, give-up, or factors"),
        ({"policies": {"failed": {}}}, "policies.failed must be retry, give-up, or factors"),
        ({"policies": {"failed": {"memory": 0.5}}}, "failed.memory must be a factor of at least"),
        ({"policies": {"failed": {"mem": 2}}}, "failed must be one of memory, time, found the"),
    ],
)
def test_wrong_values(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        read_execution(given, Path(), PLACE)
    assert message in str(error.value)
