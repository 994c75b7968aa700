"""The Kubernetes backend: pods claim simulations from the output index until none are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ensemble.operators.collect import CollectOperator
from airflow_ensemble.operators.plan_workers import PlanWorkersOperator
from airflow_ensemble.operators.pull_worker import PullWorkerOperator
from airflow_ensemble.sensors.drained import EnsembleDrainedSensor


@dataclass(frozen=True)
class Kubernetes:
    """Runs pull workers in pods of a Kubernetes cluster.

    What is not given here comes from ``execution`` and ``execution.kubernetes`` of the ensemble
    file, and what is not there either from the connection or the cluster.

    :param conn_id: Airflow connection of type ``kubernetes``. May be a template.
    :param n_workers: number of pods; default is ``execution.n_workers``, else 1. May be a template.
    :param cpus: simulations that a pod runs at one time; default is ``execution.cpus-per-task``,
        else 1. May be a template.
    :param image: the worker's image. May be a template.
    :param namespace: of the pods. May be a template.
    :param index_secret: ``NAME`` or ``NAME/KEY`` of the Secret that holds the index's address. May
        be a template.
    :param deferrable: wait in the triggerer instead of holding worker slots.
    :param worker_options: further arguments of the mapped ``PullWorkerOperator``, which takes all
        that ``KubernetesPodOperator`` takes, for instance ``node_selector``, ``tolerations``,
        ``volumes``, ``pod_template_file``, ``pool``, ``retries`` or ``max_active_tis_per_dagrun``.
    :param wait_options: further arguments of the ``EnsembleDrainedSensor``.
    """

    conn_id: str = "kubernetes_default"
    n_workers: int | str | None = None
    cpus: int | str | None = None
    image: str | None = None
    namespace: str | None = None
    index_secret: str | None = None
    deferrable: bool = True
    worker_options: Mapping[str, Any] = field(default_factory=dict)
    wait_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def collect_operator(self) -> type[CollectOperator]:
        """Return what collects the products."""
        return CollectOperator

    @property
    def options(self) -> Mapping[str, Any]:
        """Return what every operator of the group is given: nothing."""
        return {}

    def add_tasks(self, registration: Any, common: Mapping[str, Any]) -> Any:
        """Add tasks that plan the workers, run them, and wait for the index beside them."""
        plan = PlanWorkersOperator(
            task_id="plan_workers", registration=registration, n_workers=self.n_workers, **common
        )
        workers = PullWorkerOperator.partial(
            task_id="pull_worker",
            registration=registration,
            kubernetes_conn_id=self.conn_id,
            image=self.image,
            namespace=self.namespace,
            index_secret=self.index_secret,
            cpus=self.cpus,
            deferrable=self.deferrable,
            **{**common, **self.worker_options},
        ).expand(worker=plan.output)
        wait = EnsembleDrainedSensor(
            task_id="wait_until_drained",
            registration=registration,
            worker_tasks=[workers.task_id],
            deferrable=self.deferrable,
            **{**common, **self.wait_options},
        )
        plan >> wait
        return [workers, wait]
