"""An interpreter that cannot run workers is refused before anything is staged or submitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_ensemble.engine import batch
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.slurm import batches
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.errors import SlurmRefused
from tests.ensembles import write_ensemble
from tests.slurm.fake_slurm import FakeSlurm


class Desk:
    """An ensemble in a folder, and a fake cluster beside it."""

    def __init__(self, folder: Path) -> None:
        (folder / "fake").mkdir()
        (folder / "root").mkdir()
        self.fake = FakeSlurm(folder / "fake")
        self.folder, self.root = folder, folder / "root"
        self.cluster = Cluster(SlurmClient(self.fake.runner()), "hpc", str(self.root))

    def interpreter(self, script: str) -> str:
        """Return a program that does this."""
        path = self.folder / "bin python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    def open(self, **execution: object) -> Control:
        rows = [{"id": "a"}, {"id": "b"}]
        return open_control(
            load(write_ensemble(self.folder, rows, execution=execution)), create=True
        )

    def submit(self, control: Control, cluster: Cluster | None = None) -> None:
        found = batch.register(control, "one").batch
        chunks = batch.dispatch(control, found, backend="slurm", n_chunks=2)
        batches.submit(control, cluster or self.cluster, chunks)

    @property
    def submissions(self) -> int:
        return len((self.fake.state / "calls.sbatch").read_text().splitlines())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.cluster.client.runner.close()


@pytest.mark.parametrize(
    ("script", "fault"), [("exit 127", "cannot be run there"), ("echo 3.6.8", "is Python 3.6.8")]
)
def test_an_unusable_interpreter_is_refused_before_staging(
    desk: Desk, script: str, fault: str
) -> None:
    python = desk.interpreter(script)
    with desk.open(python=python) as control:
        with pytest.raises(SlurmRefused) as caught:
            desk.submit(control)
        assert control.index.jobs(control.key) == []
    for words in (python, fault, "3.9", "'python' below 'execution'", "'setup'", "hpc"):
        assert words in str(caught.value)
    assert list(desk.root.iterdir()) == []
    assert desk.submissions == 0
    # Mended, the same batch goes on.
    with desk.open(python=desk.interpreter("echo a greeting; echo 3.12.1")) as control:
        desk.submit(control, replace(desk.cluster, client=SlurmClient(desk.fake.runner())))
    assert desk.submissions == 1


def test_set_up_lines_may_load_the_interpreter(desk: Desk) -> None:
    with desk.open(python="/no/such/python", setup=["module load python"]) as control:
        desk.submit(control)
    assert desk.submissions == 1


def test_set_up_lines_of_the_connection_may_load_it_too(desk: Desk) -> None:
    with desk.open(python="/no/such/python") as control:
        desk.submit(control, replace(desk.cluster, setup=("module load python",)))
    assert desk.submissions == 1


def test_what_a_profile_says_does_not_hide_the_version(desk: Desk) -> None:
    site = desk.cluster.client.site(desk.interpreter("echo welcome; echo 3.11.2"))
    assert site.python == "3.11.2"


@pytest.mark.parametrize("said", ["exit 0", "echo Welcome to the cluster"])
def test_a_login_shell_that_never_comes_to_its_command_is_refused_before_staging(
    desk: Desk, said: str
) -> None:
    with desk.open(python=desk.interpreter(said), setup=["true"]) as control:
        with pytest.raises(SlurmRefused, match=r"never comes to its command.*exec tcsh"):
            desk.submit(control)
        assert control.index.jobs(control.key) == []
    assert list(desk.root.iterdir()) == []
    assert desk.submissions == 0
