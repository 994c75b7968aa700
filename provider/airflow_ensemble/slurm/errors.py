"""Errors of a cluster, typed by what the caller may do next."""

from __future__ import annotations

from airflow_ensemble.engine.errors import EnsembleError, UsageError


class ClusterError(EnsembleError):
    """Base of what goes wrong between here and the cluster."""


class Unreachable(ClusterError):
    """No connection could be made, and nothing was done: the same call may work later."""


class AccessRefused(ClusterError, UsageError):
    """The cluster does not let us in (key, user, host key): only a person can mend that."""

    exit_code = 2


class OutcomeUnknown(ClusterError):
    """The connection or the time ran out in the middle of a command: it may or may not have run."""


class SlurmUnavailable(ClusterError):
    """Slurm's daemon did not answer and said so before doing anything: try again later."""


class SlurmRefused(ClusterError, UsageError):
    """Slurm understood the request and refused it: the same will be refused again.

    Its message holds what the site answered and what to change.
    """

    exit_code = 2
