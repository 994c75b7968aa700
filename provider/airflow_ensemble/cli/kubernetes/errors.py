"""Errors of ``kubectl``, typed by what the caller may do next."""

from __future__ import annotations

from airflow_ensemble.engine.errors import EnsembleError, UsageError


class KubernetesError(EnsembleError):
    """Base of what goes wrong between here and the API server."""


class Unreachable(KubernetesError):
    """The API server did not answer: the same call may work later."""

    exit_code = 3


class Refused(KubernetesError, UsageError):
    """The request was understood and refused, or cannot be made: only a person can mend that."""

    exit_code = 2


class AlreadyThere(KubernetesError):
    """An object of this name exists: what was to be created has been."""


class NotThere(KubernetesError):
    """There is no object of this name."""
