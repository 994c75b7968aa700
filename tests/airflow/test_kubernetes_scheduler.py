"""The Kubernetes backend under a real scheduler and triggerer, with pods that are real processes.

What one run can show together, it does.
"""

from __future__ import annotations

import pytest
from local_airflow import wait_until

from tests.airflow.live import Live
from tests.airflow.pod_runs import (
    WAIT,
    WORKER,
    make_pod_place,
    start,
)
from tests.services.kubernetes import Cluster


class Whole:
    """A run of two workers that ends well, and what could be seen on the way."""

    def __init__(self, airflow: Live, cluster: Cluster) -> None:
        rows = [{"id": "bad"}, *({"id": f"s{n}"} for n in range(7))]
        self.place = make_pod_place(airflow, cluster, rows, max_attempts=1, max_failed=1)
        self.run = start(airflow, self.place)
        self.place.await_executions(2)
        self.pods = self.place.pods()
        wait_until(lambda: "worker" in self.run.log(WORKER, 0), 60, "the pod's log")
        self.log_while_running = self.run.log(WORKER, 0)
        self.place.open_gate()
        self.state = self.run.finish(180)


@pytest.fixture(scope="module")
def whole(airflow: Live, cluster: Cluster) -> Whole:
    return Whole(airflow, cluster)


def test_a_whole_run_in_pods(whole: Whole) -> None:
    assert whole.state == "success", whole.run.states()
    assert sorted(whole.place.executions()) == ["bad", *(f"s{n}" for n in range(7))]
    event = whole.run.event()
    assert (event["complete"], event["failed"]) == (7, 1)
    states = whole.run.states()
    assert {states[WORKER, 0], states[WORKER, 1], states[WAIT, -1]} == {"success"}
