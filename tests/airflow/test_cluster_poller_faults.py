"""The shared poller of a triggerer on a real cluster whose SSH server goes away."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from airflow_ensemble.hooks.slurm import SlurmSettings
from airflow_ensemble.slurm.states import End
from airflow_ensemble.slurm.watch import News, Watched
from airflow_ensemble.triggers.cluster_poller import ClusterPoller
from airflow_ensemble.triggers.poll_thread import Trouble
from tests.airflow.fake_watch import address_of
from tests.services.slurm import SlurmCluster
from tests.slurm.driving import Rig, open_gate, until, write_cluster_ensemble

SENSORS = 50


class Ear:
    """Hears the news of one element, as a sensor's trigger does."""

    def __init__(self) -> None:
        self.ends: list[End] = []
        self.unfinished: int | None = None
        self.outages = 0
        self.errors: list[Trouble] = []

    def __call__(self, news: News | Trouble) -> None:
        """Note what is told."""
        if isinstance(news, Trouble):
            self.outages += 1
            if news.error or news.refused:
                self.errors.append(news)
            return
        self.outages += "did not answer" in news.text
        self.unfinished = news.unfinished
        if news.over is not None:
            self.ends.append(news.over.end)


@pytest.mark.timeout(300)
def test_an_ssh_server_killed_and_restarted_while_fifty_sensors_wait(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    """Elements end during the outage: nobody is told a wrong end."""
    slurm.reset()
    rows = [{"id": f"s{n:02}", "gated": n % 2 == 0} for n in range(SENSORS)]
    with Rig(slurm, write_cluster_ensemble(slurm, tmp_path, rows)) as rig:
        (job,) = rig.submit(n_chunks=SENSORS)
        elements = rig.control.index.elements(job=job.name)
        assert len(elements) == SENSORS
        before = slurm.ssh_connections
        root = str(slurm.shared / "root")
        settings = SlurmSettings("hpc", slurm.login(), root, {}, (), poll_interval=1)
        poller, ears = ClusterPoller(settings, linger=0.2), [Ear() for _ in elements]
        with ExitStack() as stack:
            for element, ear in zip(elements, ears, strict=True):
                one = Watched.of(element, rig.control)
                stack.enter_context(poller.watching(one, address_of(rig.control), ear))
            until(lambda: any(ear.ends for ear in ears), "the first elements to end", 120)
            slurm.kill("sshd")
            open_gate(slurm)
            time.sleep(6)
            slurm.start("sshd")
            until(lambda: all(ear.ends for ear in ears), "everybody to be told", 150)
        assert slurm.ssh_connections - before <= 4
        assert Counter(end for ear in ears for end in set(ear.ends)) == {End.COMPLETED: SENSORS}
        assert any(ear.outages for ear in ears)
        assert {ear.unfinished for ear in ears} == {0}
        assert [ear.errors for ear in ears if ear.errors] == []
        rig.check()
