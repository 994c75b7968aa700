"""An array of elements that do nothing, by submitit and by a loop around squeue, on a login node.

    python benchmarks/slurm_peers.py submitit 1000 50     elements, and each how many-th fails

Run by ``slurm_array.py`` as the cluster's account. Prints one line of JSON: how many elements are
said to be complete, and how many to have failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

#: Seconds between two polls.
POLL = 2.0


def with_submitit(count: int, every: int) -> tuple[int, int]:
    import submitit

    def noop(number: int) -> int:
        if number % every == 0:
            raise SystemExit(1)
        return number

    executor = submitit.AutoExecutor(folder="submitit", cluster="slurm")
    executor.update_parameters(
        timeout_min=10, cpus_per_task=1, slurm_array_parallelism=count, slurm_mem="100M"
    )
    jobs = executor.map_array(noop, range(count))
    complete = sum(job.exception() is None for job in jobs)
    return complete, count - complete


def with_squeue(count: int, every: int) -> tuple[int, int]:
    """What has left the queue counts as complete: that is all that a queue can say."""
    script = f"exit $((SLURM_ARRAY_TASK_ID % {every} == 0))"
    options = [f"--array=0-{count - 1}", "--mem=100M", "--output=/dev/null", "--time=10"]
    submitted = subprocess.run(
        ["sbatch", "--parsable", *options, f"--wrap={script}"],
        check=True,
        capture_output=True,
        text=True,
    )
    job = submitted.stdout.strip()
    while True:
        listed = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True)
        if listed.returncode == 0 and not listed.stdout.strip():
            return count, 0
        time.sleep(POLL)


PEERS = {"submitit": with_submitit, "squeue": with_squeue}


if __name__ == "__main__":
    complete, failed = PEERS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({"complete": complete, "failed": failed}), flush=True)
