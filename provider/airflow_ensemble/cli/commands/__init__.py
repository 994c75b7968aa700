"""The commands, in the order in which help lists them."""

from __future__ import annotations

from airflow_ensemble.cli.command import Command
from airflow_ensemble.cli.commands import (
    check,
    collect,
    forget,
    gc,
    init,
    logs,
    manifests,
    register,
    repair,
    run,
    show,
    status,
    workers,
)

COMMANDS: tuple[Command, ...] = (
    init.COMMAND,
    check.COMMAND,
    run.COMMAND,
    register.COMMAND,
    status.COMMAND,
    show.COMMAND,
    logs.COMMAND,
    repair.RETRY,
    repair.CANCEL,
    collect.COMMAND,
    forget.COMMAND,
    repair.RECONCILE,
    repair.REBUILD,
    gc.COMMAND,
    manifests.COMMAND,
    workers.PUSH,
    workers.PULL,
    workers.SERVE,
    workers.BUNDLE,
)
