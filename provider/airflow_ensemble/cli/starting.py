"""What keeps an ensemble from being registered, found before anything is made for it."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ensemble.cli.opening import find_key, open_existing_index
from airflow_ensemble.engine.errors import UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble


def refuse_bad_start(ensemble: Ensemble, first: int | None = None) -> None:
    """Judge table and output root before an index or a folder is made for them.

    Where the index has these settings already, the registration itself changes nothing on error,
    and a second look at a long table is saved.

    :param ensemble: about to be registered.
    :param first: how many rows will be.
    :raises UsageError: naming file, row and column, or the output root.
    """
    judge_output(ensemble)
    index = open_existing_index(ensemble)
    if index is not None:
        with closing(index):
            if find_key(index, ensemble):
                return
    refuse_forgotten_outcomes(ensemble)
    for _ in ensemble.read_simulations(first):
        pass


def refuse_forgotten_outcomes(ensemble: Ensemble) -> None:
    """Refuse to begin anew where the output root has results that the index does not know.

    :param ensemble: with settings that the index does not know.
    :raises UsageError: naming the output root and what to do.
    """
    from airflow_ensemble.engine import ingest
    from airflow_ensemble.engine.storage import StorageError, open_root

    with suppress(StorageError):  # a root that cannot be read is a finding of its own
        ingest.refuse_forgotten_outcomes(open_root(ensemble.output), ensemble.recipe())


def judge_output(ensemble: Ensemble) -> str:
    """Return what there is to say of an output root that can be used.

    :raises UsageError: when it cannot be written to, or belongs to another ensemble.
    """
    from airflow_ensemble.engine.storage import local_path, open_root

    root = open_root(ensemble.output)
    if root.is_local:
        _refuse_unwritable(local_path(ensemble.output))
    else:
        root.check_writable()  # writes and deletes one small object
    claim = root.check_owner(ensemble.name, ensemble.settings)
    return claim.message or "writable"


def _refuse_unwritable(path: Path) -> None:
    """Judge a folder, which need not exist yet, without trying to write to it."""
    nearest = next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
    if not nearest.is_dir():
        problem = f"{nearest} is a file; remove it or set another 'output'"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        problem = f"{nearest} is not writable; change that or set another 'output'"
    else:
        return
    raise UsageError(f"output root {path}: {problem}")
