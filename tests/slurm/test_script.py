"""The batch script: what sbatch and bash make of it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.options import Launch
from airflow_ensemble.slurm.script import (
    Job,
    array_expression,
    directive,
    render_array,
    render_collection,
)

JOB = Job(
    name="nightly-0a1b2c3d4e-0-ab12cd",
    folder="/scratch/me/e/0a1b2c3d4e/nightly-0a1b2c3d4e-0-ab12cd",
    comment="ensemble/e/0a1b2c3d4e",
    n_elements=200,
    parallelism=50,
    options={"partition": "short", "exclusive": True, "constraint": "a|b c"},
    lead=60,
    setup=("module load python",),
    python="/opt/python/bin/python",
    bundle="/scratch/me/bundles/abc/ensemble-worker.pyz",
)


def test_every_option_has_its_line() -> None:
    lines = render_array(JOB).splitlines()
    assert lines[0] == "#!/bin/bash -l"
    assert [line for line in lines if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=nightly-0a1b2c3d4e-0-ab12cd",
        "#SBATCH --comment=ensemble/e/0a1b2c3d4e",
        "#SBATCH --array=0-199%50",
        f"#SBATCH --output={JOB.folder}/logs/%a.log",
        "#SBATCH --open-mode=append",
        f"#SBATCH --chdir={JOB.folder}",
        "#SBATCH --signal=B:USR1@60",
        "#SBATCH --partition=short",
        "#SBATCH --exclusive",
        '#SBATCH --constraint="a|b c"',
    ]
    assert lines[-1].startswith('exec "$ensemble_python" "$ensemble_bundle" push-worker ')


def test_options_that_a_job_shall_not_have_are_comments_for_sbatch() -> None:
    lines = render_array(dataclasses.replace(JOB, declined=["requeue", "overcommit"])).splitlines()
    assert lines[lines.index('#SBATCH --constraint="a|b c"') + 1 :][:3] == [
        "##SBATCH --requeue",
        "##SBATCH --overcommit",
        "",
    ]


def test_expressions_of_arrays() -> None:
    given = [(1, None), (1, 1), (2, None), (10, 3), (10, 10)]
    assert [array_expression(*one) for one in given] == ["0", "0", "0-1", "0-9%3", "0-9"]


@pytest.mark.parametrize("value", ["a\n#SBATCH --uid=0", "a\rb", "\x00", "a\u2028b"])
def test_a_value_cannot_leave_its_line(value: str) -> None:
    with pytest.raises(UsageError, match="option partition of sbatch"):
        directive("partition", value)


def worker(folder: Path) -> Job:
    """Return a job whose interpreter prints what it is called with."""
    (folder / "logs").mkdir(parents=True)
    (folder / "elements").write_text("c-0000.1.jsonl\nc-0001.1.jsonl\n")
    bundle = folder / "print.py"
    bundle.write_text("import sys; print(sys.argv[1:])")
    return dataclasses.replace(
        JOB, folder=str(folder), python=sys.executable, bundle=str(bundle), setup=()
    )


def run(job: Job, text: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash"],
        input=text or render_array(job),
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "SLURM_ARRAY_TASK_ID": "1",
            "SLURM_ARRAY_JOB_ID": "77",
            "SLURM_CPUS_PER_TASK": "3",
            **variables,
        },
    )


LAUNCHED = ("SLURM_NTASKS", "SRUN_CPUS_PER_TASK", "SLURM_CPUS_PER_TASK", "SLURM_EXACT",
            "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_TASKS_PER_NODE",
            "SLURM_GPUS_PER_TASK", "PMI_RANK")  # fmt: skip


@pytest.mark.parametrize(
    ("launch", "nodes", "expected"),
    [
        (Launch(1, 1, 4), "1", ["1", "1", "1", "1", "512", "-", "1", "-", "-"]),
        (Launch(3, 2, 1), "1", ["3", "2", "2", "-", "2048", "-", "3", "-", "-"]),
        (Launch(3, 2, 1), "2", ["3", "2", "2", "-", "2048", "-", "1", "-", "-"]),
        (Launch(0, 1, 1), "2", ["2", "1", "1", "-", "2048", "-", "1", "-", "-"]),
        (Launch(None, 1, 1, "a:1"), "1", ["9", "1", "1", "-", "2048", "-", "1", "a:1", "-"]),
    ],
)
def test_a_worker_s_launchers_are_told_of_one_simulation(
    tmp_path: Path, launch: Launch, nodes: str, expected: list[str]
) -> None:
    job = worker(tmp_path / "job")
    body = f"import os, sys; print(sys.argv[-1], *[os.environ.get(n, '-') for n in {LAUNCHED}])"
    Path(job.bundle).write_text(body)
    launch = dataclasses.replace(launch, unset=("SLURM_MEM_PER_CPU",))
    given = {
        "SLURM_JOB_NUM_NODES": nodes, "SLURM_NTASKS": "9", "SLURM_MEM_PER_NODE": "2048",
        "SLURM_MEM_PER_CPU": "100", "SLURM_TASKS_PER_NODE": "1", "PMI_RANK": "4",
    }  # fmt: skip
    done = run(dataclasses.replace(job, launch=launch), **given)
    assert done.stdout.split() == ["3", *expected], done.stderr


@pytest.mark.parametrize("name", ["plain", "with space", "with ' and \" and $HOME;%a`id`"])
def test_an_element_runs_its_line_of_elements(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    done = run(worker(folder))
    chunk = f"{folder}/c-0001.1.jsonl"
    assert done.stdout.strip() == str(["push-worker", chunk, "--cpus", "3"])
    assert (folder / "started-77_1").exists()


@pytest.mark.parametrize(
    "render", [render_array, lambda job: render_collection(job, "/o", "/t", None)]
)
def test_what_an_account_exports_comes_to_the_worker_as_it_was(
    tmp_path: Path, render: Callable[[Job], str]
) -> None:
    names = ["python", "bundle", "chunk", "cpus", "code", "id", "name"]
    job = worker(tmp_path / "job")
    Path(job.bundle).write_text(f"import os; print(*map(os.environ.get, {names}))")
    assert run(job, render(job), **dict.fromkeys(names, "mine")).stdout.split() == ["mine"] * 7


def test_set_up_lines_run_in_order_before_the_worker(tmp_path: Path) -> None:
    job = dataclasses.replace(
        worker(tmp_path / "job"), setup=("A=1 # a comment", 'export B="$A 2"', 'echo "B is $B"')
    )
    assert run(job).stdout.startswith("B is 1 2\n['push-worker'")


@pytest.mark.parametrize("line", ["false", "cd /nowhere", "module load python # x", "(exit 7)"])
def test_a_set_up_line_that_fails_makes_the_job_unusable(tmp_path: Path, line: str) -> None:
    done = run(dataclasses.replace(worker(tmp_path / "job"), setup=(line, "echo no")))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: set-up line failed: {line}" in done.stderr


def test_no_usable_python(tmp_path: Path) -> None:
    done = run(dataclasses.replace(worker(tmp_path / "job"), python="/nowhere/python3"))
    assert done.returncode == 2
    assert "error: /nowhere/python3 on " in done.stderr
    assert "is no Python of at least 3.9: name one as execution.python" in done.stderr


def test_a_collection(tmp_path: Path) -> None:
    job = worker(tmp_path / "job")
    done = run(job, render_collection(job, "/out put", "/to/x.nc", None))
    results = f"{job.folder}/results.jsonl"
    expected = ["collect", "--results", results, "--output", "/out put", "--to", "/to/x.nc"]
    assert done.stdout.strip() == str(expected)
    joined = run(job, render_collection(job, "/o", "/t", None, "outer")).stdout
    assert "'--to', '/t', '--align', 'outer']" in joined
    chosen = render_collection(job, "/o", "/t", None, products=["a b", "c"])
    assert "'--to', '/t', '--product', 'a b', '--product', 'c']" in run(job, chosen).stdout
    assert "'--format', 'zarr'" in run(job, render_collection(job, "/o", "/t", "zarr")).stdout
