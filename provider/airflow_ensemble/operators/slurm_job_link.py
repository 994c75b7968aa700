"""The button that leads from a task instance to its Slurm job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperator, BaseOperatorLink, conf

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

#: Keys of the XComs that hold the element's id, such as ``123_4``, and the path of its log.
JOB_ID = "slurm_job_id"
LOG = "slurm_log"


class SlurmJobLink(BaseOperatorLink):
    """Leads to the site's own page of the job, if the connection's ``job_url`` names one.

    Else to the task instance's XComs, which hold job id, log path and script.
    """

    name = "Slurm job"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address; called on the worker, when the task has run or deferred."""
        return getattr(operator, "job_page", "") or xcom_page(ti_key)


def job_page(job_url: str, job_id: str) -> str:
    """Return the site's page of a job; empty when the site has none."""
    return job_url.replace("{job_id}", quote(job_id, safe="")) if job_url else ""


def xcom_page(ti: Any) -> str:
    """Return the page of a task instance's XComs."""
    base = conf.get("api", "base_url", fallback="/").rstrip("/")
    mapped = f"/mapped/{ti.map_index}" if ti.map_index is not None and ti.map_index >= 0 else ""
    run = quote(ti.run_id, safe="")
    return f"{base}/dags/{ti.dag_id}/runs/{run}/tasks/{ti.task_id}{mapped}/xcom"
