"""What ``sbatch`` and a batch job see of the account's variables: run by a real shell."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.slurm.environment import (
    OPTION_VARIABLES,
    OWNED,
    cleaning_text,
    full_name,
    launching_text,
)

SITE_VARIABLES = sorted({one for names in OPTION_VARIABLES.values() for one in names})
OTHER_JOB = {
    **dict.fromkeys(
        (
            *("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_MEM_PER_CPU", "SLURM_HINT"),
            *(
                "SLURM_MEM_PER_NODE",
                "SLURM_CPU_BIND_LIST",
                "SLURM_TRES_PER_TASK",
                "SLURMD_NODENAME",
            ),
            *("SLURM_NEW_IN_A_LATER_VERSION", "SRUN_CPUS_PER_TASK", "SBATCH_MEM_BIND_TYPE"),
            *("PMI_RANK", "PMI_FD", "PMI2_SIZE", "PMIX_RANK", "PMIX_SERVER_URI41", "PRTE_LAUNCHED"),
            *("OMPI_COMM_WORLD_RANK", "OMPI_MCA_orte_hnp_uri", "OMPI_MCA_ess", "HYDI_CONTROL_FD"),
            *("I_MPI_HYDRA_HOST_FILE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "PALS_RANKID"),
            *("MV2_COMM_WORLD_RANK", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
            *("GPU_DEVICE_ORDINAL", "_SLURM_SPANK_OPTION_x11_x11"),
        ),
        "7",
    ),
    "TMPDIR": "/scratch/job.7/tmp",
}
USERS = {
    **dict.fromkeys(
        (
            *("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_MPI_TYPE", "OMP_NUM_THREADS"),
            *("OMPI_MCA_btl", "PMIX_MCA_psec", "I_MPI_FABRICS", "I_MPI_PMI_LIBRARY", "I_MPI_ROOT"),
            *(
                "MPICH_GPU_SUPPORT_ENABLED",
                "PMI_MMAP_SYNC_WAIT_TIME",
                "LD_LIBRARY_PATH",
                "MYSLURM_X",
            ),
            *("LOADEDMODULES", "SLURMISH", "XPMI_RANK", "id", "said", "names"),
        ),
        "mine",
    ),
    "SEVERAL_LINES": "a\nSLURM_NTASKS=3\nb=PMI_RANK",
}


def left(
    folder: Path, text: str, given: Mapping[str, str | bytes], options: Iterable[str] = ()
) -> dict[str, str]:
    """Return which variables are left of some after a text of ours."""
    lines = "".join(f"{one}\n" for one in options)
    (folder / "job.sh").write_text(f"#!/bin/bash -l\n{lines}\ntrue\n#SBATCH --qos=no\n")
    done = subprocess.run(
        ["/bin/sh", "-euc", f"set +u\n{text}\nexec env -0"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **given},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    pairs = (line.partition("=") for line in done.stdout.decode().split("\0"))
    return {name: value for name, _, value in pairs if name in given}


def test_what_describes_another_job_is_dropped_and_the_rest_is_the_user_s(tmp_path: Path) -> None:
    assert left(tmp_path, cleaning_text("job.sh"), {**OTHER_JOB, **USERS}) == USERS


@pytest.mark.parametrize("text", [cleaning_text("job.sh"), launching_text()])
def test_values_in_another_encoding_are_no_obstacle(tmp_path: Path, text: str) -> None:
    others = {"SRUN_COMMENT": b"caf\xe9 x", "PMI_HOSTNAME": b"\xff\n\xfe=", "PMI_RANK": "2"}
    found = left(tmp_path, text, {**others, "LANG": "C.UTF-8", "SBATCH_QOS": "\u00e9"})
    assert found == {"LANG": "C.UTF-8", "SBATCH_QOS": "\u00e9"}


def test_outside_of_an_allocation_a_hint_and_a_scratch_folder_are_the_user_s(
    tmp_path: Path,
) -> None:
    mine = {"SLURM_HINT": "compute_bound", "TMPDIR": "/scratch/7", "SBATCH_MEM_BIND": "local"}
    assert left(tmp_path, cleaning_text("job.sh"), {"SLURM_NTASKS": "3", **mine}) == mine


@pytest.mark.parametrize("folder", ["/scratch/17", "/scratch/71", "/home/me/tmp"])
def test_a_scratch_folder_that_does_not_name_the_job_stays(tmp_path: Path, folder: str) -> None:
    given_ones = {"SLURM_JOB_ID": "7", "TMPDIR": folder}
    assert left(tmp_path, cleaning_text("job.sh"), given_ones) == {"TMPDIR": folder}


@given(st.sets(st.sampled_from(sorted(OPTION_VARIABLES)), max_size=6), st.booleans())
def test_what_the_script_says_takes_its_variables_away_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, options: set[str], is_refused: bool
) -> None:
    mark = "##SBATCH" if is_refused else "#SBATCH"
    lines = [f"{mark} --{name}" + ("" if is_refused else "=1") for name in options]
    given_ones = dict.fromkeys([*SITE_VARIABLES, *OWNED, "SBATCH_ACCTG_FREQ"], "1")
    found = left(tmp_path_factory.mktemp("job"), cleaning_text("job.sh"), given_ones, sorted(lines))
    gone = {*OWNED, *(one for name in options for one in OPTION_VARIABLES[name])}
    assert set(found) == set(given_ones) - gone


def test_an_option_of_a_later_slurm_has_a_variable_of_its_name(tmp_path: Path) -> None:
    given_ones = {"SBATCH_STEPMGR": "1", "SBATCH_SEGMENT_SIZE": "1", "SBATCH_QOS": "1"}
    options = ["#SBATCH --segment=2", "#SBATCH --stepmgr"]
    found = left(tmp_path, cleaning_text("job.sh"), given_ones, options)
    assert found == {"SBATCH_QOS": "1"}


def test_every_variable_that_a_real_sbatch_reads_is_in_the_table() -> None:
    program = shutil.which("sbatch")
    assert program
    read = set(re.findall(rb"\0(SBATCH_[A-Z0-9_]+)\0", Path(program).read_bytes()))
    assert b"SBATCH_MEM_PER_NODE" in read
    assert {one.decode() for one in read} <= {*SITE_VARIABLES, *OWNED}


def test_beginnings_of_options_are_the_options() -> None:
    given_ones = ["partit", "tim", "mem", "mem-per-c", "gpus-per-t", "nodes", "thread", "nice"]
    expected = ["partition", "time", "mem", "mem-per-cpu", "gpus-per-task", "nodes", "thread"]
    assert [full_name(one) for one in given_ones] == [*expected, "nice"]


def test_a_batch_job_drops_what_only_steps_and_launchers_set(tmp_path: Path) -> None:
    others = {"SLURM_STEP_ID": "1", "SLURM_CPU_BIND": "x", "SLURM_OVERLAP": "1", "PMI_RANK": "2",
              "SLURM_EXPORT_ENV": "NONE"}  # fmt: skip
    own = {"SLURM_JOB_ID": "1", "SLURM_MEM_PER_CPU": "5", "SLURM_WORKING_CLUSTER": "x", "A": "b"}
    assert left(tmp_path, launching_text(), {**others, **own}) == own
