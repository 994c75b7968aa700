"""Errors, typed by what the caller may do next.

Each message says what happened, where, and what to do about it.
"""

from __future__ import annotations


class EnsembleError(Exception):
    """Base of every error that this package raises on purpose.

    ``exit_code`` is what the command line ends with when the error reaches it.
    """

    exit_code = 1


class UsageError(EnsembleError):
    """The user's input is wrong: retrying cannot help until a person changes it."""

    exit_code = 2


class ModelError(UsageError):
    """The model itself cannot be used at all (not importable, not callable, program missing)."""


class OutputIndexError(EnsembleError):
    """Base of the output index's errors."""


class IndexUnavailable(OutputIndexError):
    """The index cannot be reached now, after bounded retries: the same call may work later."""

    exit_code = 3


class IndexUnreachable(IndexUnavailable):
    """The index could not be reached from the start, so that nothing was changed.

    A wrong address and an outage look the same: the command line calls it wrong input, while a
    scheduler may well try again.
    """

    exit_code = 2


class IndexMismatch(OutputIndexError, UsageError):
    """This is not the index that the batch was dispatched from, or it is missing or unreadable."""

    exit_code = 2


class IndexMissing(IndexMismatch):
    """There is no index here: only ``init``, ``register`` and ``rebuild`` make one."""


class IndexReadOnly(OutputIndexError, UsageError):
    """The index may only be read from here, and something was to be written to it."""

    exit_code = 2


class Fenced(EnsembleError):
    """This worker's lease has expired or its work was cancelled: it no longer owns what it runs."""

    exit_code = 3


class Interrupted(EnsembleError):
    """The run was asked to stop and did: what is unfinished is recorded and can be run again."""

    exit_code = 3


class CollectError(EnsembleError):
    """The products of an ensemble do not fit into one dataset as they were asked to."""
