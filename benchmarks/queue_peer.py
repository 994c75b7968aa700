"""No-op jobs through procrastinate, a queue in PostgreSQL, for ``pull_fleet.py``.

    BENCH_DSN=postgresql://… python benchmarks/queue_peer.py schema | defer COUNT | work

A worker does one job at a time and ends when the queue is empty.
"""

from __future__ import annotations

import logging
import os
import sys

import procrastinate

logging.disable(logging.WARNING)
connector = procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_DSN"], min_size=1, max_size=3)
app = procrastinate.App(connector=connector)
BATCH = 5000


@app.task
def noop(number: int) -> int:
    return number


def main(command: str, count: int = 0) -> None:
    with app.open():
        if command == "schema":
            app.schema_manager.apply_schema()
        elif command == "defer":
            for first in range(0, count, BATCH):
                last = min(first + BATCH, count)
                noop.batch_defer(*({"number": n} for n in range(first, last)))
        else:
            app.run_worker(
                wait=False, concurrency=1, listen_notify=False, install_signal_handlers=False
            )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
