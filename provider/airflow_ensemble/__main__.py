"""``python -m airflow_ensemble`` is the ``ensemble`` command."""

from __future__ import annotations

import sys

from airflow_ensemble.cli import main

if __name__ == "__main__":
    sys.exit(main())
