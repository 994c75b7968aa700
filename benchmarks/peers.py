"""No-op and sleeping tasks through other tools' local pools, 2 processes, one outcome line each.

    python benchmarks/peers.py joblib-noop 20000 OUTCOMES     prints the seconds that it took

Run by ``worker.py`` and ``straggler.py`` in an interpreter that has the peers. Starting a peer's
pool is not counted, which is in its favour.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

PROCESSES = 2
#: Seconds of the straggler test, in order.
STRAGGLERS = [2.0 if n % 8 == 0 else 0.25 for n in range(48)]


def noop(number: int) -> int:
    return number


def nap(number: int) -> int:
    time.sleep(STRAGGLERS[number])
    return number


def with_joblib(task: Callable[[int], int], n: int) -> Iterator[Iterator[int]]:
    import joblib

    with joblib.Parallel(n_jobs=PROCESSES, return_as="generator_unordered") as parallel:
        list(parallel(joblib.delayed(noop)(k) for k in range(PROCESSES)))
        yield parallel(joblib.delayed(task)(k) for k in range(n))


def with_parsl(task: Callable[[int], int], n: int) -> Iterator[Iterator[int]]:
    from concurrent.futures import as_completed

    import parsl
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        label="bench",
        address="127.0.0.1",
        max_workers_per_node=PROCESSES,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    folder = tempfile.mkdtemp(prefix="bench-parsl-")
    parsl.load(parsl.Config(executors=[executor], run_dir=folder, strategy="none"))
    app = parsl.python_app(task)
    try:
        app(0).result()
        yield (future.result() for future in as_completed([app(k) for k in range(n)]))
    finally:
        parsl.dfk().cleanup()
        parsl.clear()


def with_gmat_sweep(task: Callable[[int], int], n: int) -> Iterator[Iterator[int]]:
    """Its local pool, with the call of GMAT replaced by the task: the pool alone is measured."""
    import gmat_sweep
    from gmat_sweep.backends import joblib as backend

    moment = datetime.now(timezone.utc)

    def run_one(spec):
        task(spec.run_id)
        return gmat_sweep.RunOutcome(
            run_id=spec.run_id,
            status="ok",
            output_paths={},
            extra_outputs={},
            solver_paths={},
            converged={},
            postprocess_status="none",
            duration_s=0.0,
            stderr=None,
            started_at=moment,
            ended_at=moment,
        )

    backend.run_one = run_one
    folder = Path(tempfile.gettempdir())

    def spec(k: int) -> gmat_sweep.RunSpec:
        return gmat_sweep.RunSpec(folder / "x.script", {}, folder, k, None, {})

    with gmat_sweep.LocalJoblibPool(max_workers=PROCESSES) as pool:
        list(pool.as_completed([pool.submit(spec(k)) for k in range(PROCESSES)]))
        futures = [pool.submit(spec(k)) for k in range(n)]
        yield (outcome.run_id for outcome in pool.as_completed(futures))


PEERS = {"joblib": with_joblib, "parsl": with_parsl, "gmat_sweep": with_gmat_sweep}


def main(name: str, n: int, outcomes: str) -> None:
    peer, _, what = name.partition("-")
    for results in PEERS[peer](noop if what == "noop" else nap, n):
        began = time.perf_counter()
        with Path(outcomes).open("a") as file:
            for number in results:
                file.write(json.dumps({"id": f"s{number}", "status": "complete"}) + "\n")
                file.flush()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
