"""An array of elements that do next to nothing, through ``ensemble run --wait`` on a login node.

    .venv/bin/python benchmarks/slurm_array.py [--small] [--alone]

On a private Slurm of this machine, with accounting, beside submitit and a plain loop around squeue.
Every fiftieth element fails on purpose. The floor is the very script that ``ensemble run`` has
submitted, submitted again by a bare ``sbatch``: the same workers do the same, and nobody waits for
them but a watcher whose questions are not counted. What grows slower or faster meanwhile falls out:
ours, bare, bare, ours is the order, and the means are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.cli.login_node import LoginNode
from tests.services.slurm import SlurmCluster, accounting_template

#: Seconds between two polls, ours and the loop's; submitit has its own times.
POLL = 2
#: Each how many-th element fails.
EVERY = 50
MODEL = """
    def simulate(run):
        if run.params["fails"]:
            raise ValueError("on purpose")
        return {"values": None}
"""
SUBMIT = "REQUEST_SUBMIT_BATCH_JOB"


@dataclass
class Measured:
    """What one way of running the array has cost.

    :param seconds: wall time.
    :param submits: times that slurmctld was asked to submit.
    :param asks: other requests of the account.
    :param wrong: elements that are said to have ended otherwise than they did.
    :param connections: SSH connections.
    :param kinds: all requests by kind, those of nodes included.
    :param cpu: CPU seconds of whoever submitted and waited, commands of Slurm included.
    :param outside: wall time before the submission and after the last element's end; None where
        that was not looked up.
    """

    seconds: float
    submits: int
    asks: int
    wrong: int
    connections: int
    kinds: dict[str, int]
    cpu: float
    outside: float | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="50 elements, not 1,000")
    parser.add_argument("--alone", action="store_true", help="no peers: only us and the floor")
    arguments = parser.parse_args()
    count = 50 if arguments.small else 1000
    with SlurmCluster(database=accounting_template()) as cluster:
        node = LoginNode(cluster)
        print_header(count)
        ours, floors = compare_with_floor(node, count)
        for name in () if arguments.alone else ("submitit", "squeue"):
            measure_peer(node, name, count)
    over = mean([one.seconds for one in ours]) - mean(floors)
    asks = max(one.asks for one in ours)
    last = ours[-1]
    outside = ", ".join(f"{one.outside:.1f}" for one in ours)
    print(f"ensemble run --wait above the bare sbatch: {over:+.1f} s (goal: at most 5); of its")
    print(f"time {outside} s lie before the submission and after the last element's end;")
    print(f"CPU of the command and what it runs: {mean([one.cpu for one in ours]):.1f} s")
    print(f"poll requests per element: {asks / count:.3f} (goal: at most 0.05)")
    print(f"of these: {', '.join(f'{n} {kind}' for kind, n in questions(last.kinds).items())}")
    submits, wrong = max(one.submits for one in ours), max(one.wrong for one in ours)
    print(f"submissions: {submits} (goal: 1); wrong terminal states: {wrong} (goal: 0)")
    return 0


def compare_with_floor(node: LoginNode, count: int) -> tuple[list[Measured], list[float]]:
    """Run the array by us, bare, bare, and by us again."""
    first, second = write(node, "first", count), write(node, "second", count)
    ours = [measure_ours(node, first, count)]
    floors = [measure_floor(node, first) for _ in range(2)]
    ours.append(measure_ours(node, second, count))
    return ours, floors


def measure_ours(node: LoginNode, file: Path, count: int) -> Measured:
    measured = measure(
        node.cluster, count, lambda: run_ensemble(node, file), lambda: counts_of(node, file)
    )
    measured.outside = measured.seconds - array_seconds(node.cluster)
    print_row("ensemble run --wait", measured, count)
    return measured


def measure_peer(node: LoginNode, name: str, count: int) -> None:
    label = {"squeue": "sbatch, then a loop around squeue"}.get(name, name)
    answers: list[tuple[int, int]] = []
    measured = measure(
        node.cluster, count, lambda: answers.append(run_peer(node, name, count)), answers.pop
    )
    print_row(label, measured, count)


def measure_floor(node: LoginNode, file: Path) -> float:
    seconds = bare_floor(node.cluster, file)
    print(f"{'the same script by a bare sbatch':36}{seconds:9.1f}", flush=True)
    return seconds


def write(node: LoginNode, name: str, count: int) -> Path:
    rows = [{"id": f"s{number}", "fails": number % EVERY == 0} for number in range(count)]
    return node.write(
        name,
        rows,
        model=MODEL,
        max_attempts=1,
        max_failed=count,
        execution={"n_workers": count, "time": "00:10:00", "mem": "100M"},
    )


def measure(
    cluster: SlurmCluster,
    count: int,
    run: Callable[[], None],
    tell: Callable[[], tuple[int, int]],
) -> Measured:
    """Run an array of a kind and count what it asks for.

    :param run: runs it to its end.
    :param tell: returns how many are then said to be complete and to have failed; not measured.
    """
    cluster.cancel_all()
    asks, before = cluster.user_rpcs(), cluster.rpcs()
    connections, used, started = cluster.ssh_connections, cpu_of_ended(), time.monotonic()
    run()
    seconds, cpu = time.monotonic() - started, cpu_of_ended() - used
    asked = cluster.user_rpcs() - asks
    kinds = {kind: n - before.get(kind, 0) for kind, n in cluster.rpcs().items()}
    connected = cluster.ssh_connections - connections
    complete, failed = tell()
    submits = kinds.get(SUBMIT, 0)
    should_fail = len(range(0, count, EVERY))
    wrong = abs(failed - should_fail) + (count - complete - failed)
    return Measured(
        seconds,
        submits,
        asked - submits,
        wrong,
        connected,
        {kind: n for kind, n in kinds.items() if n},
        cpu,
    )


def cpu_of_ended() -> float:
    """Return the CPU seconds of all commands that have been run from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_ensemble(node: LoginNode, file: Path) -> None:
    ended = node("run", file, "--wait", "--poll", POLL, timeout=3000)
    if ended.code != 0:
        raise SystemExit(f"ensemble run ended with {ended.code}: {ended.err}")


def counts_of(node: LoginNode, file: Path) -> tuple[int, int]:
    counts = json.loads(node("status", file, "--json").out)["counts"]
    return counts["complete"], counts["failed"]


def run_peer(node: LoginNode, name: str, count: int) -> tuple[int, int]:
    """Run a peer as the account, in the shared folder."""
    script = node.shared / "slurm_peers.py"
    shutil.copy(Path(__file__).with_name("slurm_peers.py"), script)
    node.own(script)
    python = node.cluster.python_with_models
    done = node.cluster.run(f"{python} {script.name} {name} {count} {EVERY}", timeout=3000)
    if done.returncode != 0:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["complete"], answer["failed"]


def bare_floor(cluster: SlurmCluster, file: Path) -> float:
    """Return the seconds of the submitted script without anybody who looks after it."""
    shutil.rmtree(file.parent / "output" / ".ensemble" / "outcomes")
    (script,) = (file.parent / "output" / ".ensemble" / "slurm").glob("*/*/*/job.sh")
    started = time.monotonic()
    job = cluster.answer(f"cd {script.parent} && sbatch --parsable job.sh")
    while cluster.admin("squeue", "-h", "-j", job, check=False).strip():
        time.sleep(0.5)
    return time.monotonic() - started


def array_seconds(cluster: SlurmCluster) -> float:
    """Return the seconds from the submission of the last array to its last element's end."""
    command = ["sacct", "-X", "-n", "-P", "-S", "now-1hours", "-o", "JobID,Submit,End"]
    environment = {**os.environ, **cluster.environment, "SLURM_TIME_FORMAT": "%s"}
    deadline = time.monotonic() + 30
    while True:
        text = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
        rows = [line.split("|") for line in text.splitlines()]
        last = max((int(id.partition("_")[0]) for id, _, _ in rows), default=0)
        times = [(begin, end) for id, begin, end in rows if id.startswith(f"{last}_")]
        if times and all(end.isdigit() for _, end in times):
            return float(max(int(end) for _, end in times) - int(times[0][0]))
        if time.monotonic() > deadline:
            raise SystemExit(f"the accounting does not say when the array ended:\n{text}")
        time.sleep(1)


def questions(kinds: dict[str, int]) -> dict[str, int]:
    """Return the requests that ask for something, without sdiag's own."""
    return {k: n for k, n in kinds.items() if "_INFO" in k and k != "REQUEST_STATS_INFO"}


def print_header(count: int) -> None:
    print(f"an array of {count:,} elements, 64 at once at most")
    print(f"{'':36}{'wall s':>9}{'submits':>9}{'asks':>7}{'per element':>13}{'wrong':>7}{'SSH':>5}")


def print_row(label: str, measured: Measured, count: int) -> None:
    print(
        f"{label:36}{measured.seconds:9.1f}{measured.submits:9}{measured.asks:7}"
        f"{measured.asks / count:13.3f}{measured.wrong:7}{measured.connections:5}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
