"""From a login to the runner that suits it."""

from __future__ import annotations

from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.login import Login
from airflow_ensemble.slurm.runner import Runner


def make_runner(settings: Login) -> Runner:
    """Return the runner that suits a login; it connects when it is first used.

    No host means this machine; ``control_path`` means the system's ``ssh`` over a master connection
    that a person has opened; everything else is paramiko.

    :raises UsageError: when ``proxy_jump`` cannot be read.
    """
    if not settings.host:
        return LocalRunner()
    if settings.control_path:
        from airflow_ensemble.slurm.openssh_runner import OpenSshRunner

        return OpenSshRunner(settings)
    from airflow_ensemble.slurm.paramiko_runner import ParamikoRunner

    return ParamikoRunner(settings)
