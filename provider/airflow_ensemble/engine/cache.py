"""Where this machine keeps what can be had again. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

from airflow_ensemble.engine.errors import UsageError


def cache_home() -> Path:
    """Return the folder for caches: ``$XDG_CACHE_HOME``, or ``.cache`` in the home folder.

    :raises UsageError: when there is neither, as under an account without a name.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        raise UsageError(
            "this account has no home folder to keep a cache in: HOME is not set, and the account "
            "has no entry in passwd. Set HOME or XDG_CACHE_HOME"
        ) from None
