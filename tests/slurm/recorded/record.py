"""Record what a real Slurm answers in every case that a small cluster can be made to show.

Run as ``python -m tests.slurm.recorded.record [CASE …]``; takes three minutes. Writes one ``.txt``
a case and the table in ``README.md``. What only a large or a newer site shows is not here.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable

from airflow_ensemble.slurm.parsing import ACCOUNTING_FORMAT, QUEUE_FORMAT
from tests.services.slurm import SlurmCluster, accounting_template
from tests.slurm.recorded import FOLDER, Answer, render

RANGES = "squeue --me -h -t all -o '%i|%T|%r'"
#: As the client asks, with ``-r`` besides.
ENVIRONMENT = "SLURM_TIME_FORMAT=%s SLURM_BITSTR_LEN=0"
QUEUE = f"{ENVIRONMENT} squeue --me -h -t all -O '{QUEUE_FORMAT}'"
EACH = f"{ENVIRONMENT} squeue --me -h -r -t all -O '{QUEUE_FORMAT}'"
SACCT = f"{ENVIRONMENT} sacct -X -D -n -P -S now-1days -o {ACCOUNTING_FORMAT}"
SACCT_SHORT = "sacct -X -n -P -o JobID,JobIDRaw,State"
SUBMIT = "sbatch --parsable -o /dev/null"

Case = Callable[["Recorder"], None]
CASES: dict[str, Case] = {}


class Recorder:
    """A cluster, and the answers recorded so far.

    :param cluster: reset.
    """

    def __init__(self, cluster: SlurmCluster) -> None:
        self.cluster = cluster
        self.answers: list[Answer] = []

    def __call__(self, *commands: str) -> str:
        """Run commands of the account, record them, and return what the last one printed."""
        for command in commands:
            done = self.cluster.run(command)
            self.answers.append(Answer(command, done.returncode, done.stdout, done.stderr))
        return self.answers[-1].out.strip()

    def all(self) -> None:
        """Record every way to look."""
        self(RANGES, QUEUE, EACH, SACCT)

    def until(self, command: str, pattern: str, timeout: float = 90) -> None:
        """Wait, recording nothing, until a command's answer matches."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, text := self.cluster.run(command).stdout, re.M):
            assert time.monotonic() < deadline, f"{command}: {text!r} never matched {pattern!r}"
            time.sleep(0.1)

    def accounted(self, pattern: str) -> None:
        """Wait until accounting shows it."""
        self.until(SACCT_SHORT, pattern)


def case(function: Case) -> Case:
    CASES[function.__name__.replace("_", "-")] = function
    return function


def fill(record: Recorder) -> None:
    """Leave no room for others; recorded like all else."""
    job = record(f"{SUBMIT} -J fill --nodes=2 --exclusive --wrap 'sleep 60'")
    record.until(RANGES, rf"{job}.RUNNING")


@case
def array_life(record: Recorder) -> None:
    """An array of six with two at once: submitted, begun, in the lag of accounting, ended."""
    job = record(
        f"{SUBMIT} -J life --comment=ensemble/a/b --array=0-5%2 "
        "--wrap 'sleep 2; exit $((SLURM_ARRAY_TASK_ID == 1))'"
    )
    record.all()
    record.until(RANGES, rf"{job}_1.FAILED")
    record.all()
    record.accounted(rf"{job}_1")
    record(SACCT_SHORT, EACH)
    record.until(RANGES, rf"{job}_5.COMPLETED")
    record(SACCT_SHORT, RANGES)
    record.accounted(rf"{job}_5.*COMPLETED")
    record.all()


@case
def array_lag(record: Recorder) -> None:
    """A range row that is stale beside the exact rows of its elements."""
    job = record(f"{SUBMIT} --array=0-5%1 --wrap 'sleep 1; exit $((SLURM_ARRAY_TASK_ID == 2))'")
    seen: set[str] = set()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        text = record.cluster.run(SACCT_SHORT).stdout
        if text not in seen:
            seen.add(text)
            record(SACCT_SHORT, RANGES)
        if f"{job}_5|" in text and "PENDING" not in text and "RUNNING" not in text:
            break
        time.sleep(0.1)


@case
def cancelled_elements(record: Recorder) -> None:
    """A running and a pending element of ``0-4%1`` cancelled: the latter leaves no trace."""
    job = record(f"{SUBMIT} --array=0-4%1 --wrap 'sleep 30'")
    record.until(RANGES, rf"{job}_0.RUNNING")
    record(f"scancel {job}_0 {job}_3")
    record.until(RANGES, rf"{job}_0.CANCELLED")
    record.accounted(rf"{job}_0.*CANCELLED")
    record.all()
    record(f"scontrol -o show job {job}_3", f"squeue -h -j {job}_3")


@case
def cancelled_before_start(record: Recorder) -> None:
    """Whole arrays cancelled while they wait: held, of which accounting never hears, and not."""
    fill(record)
    jobs = [record(f"{SUBMIT} {hold} --array=0-9 --wrap true") for hold in ("--hold", "")]
    record.accounted(rf"{jobs[1]}_.*PENDING")
    record.all()
    record(f"scancel {jobs[0]} {jobs[1]}")
    record.accounted(rf"{jobs[1]}_.*CANCELLED")
    record.all()


@case
def cancelled_while_pending(record: Recorder) -> None:
    """Three elements of a waiting array cancelled, and one that is asked for afterwards."""
    fill(record)
    job = record(f"{SUBMIT} --array=0-9 --wrap true")
    record.accounted(rf"{job}_.*PENDING")
    record(f"scancel {job}_[3-5]")
    time.sleep(6)
    record.all()
    record(f"scontrol -o show job {job}_4")


@case
def steps_and_cuts(record: Recorder) -> None:
    """A list that Slurm prints as steps, and one that it cuts."""
    fill(record)
    evens = ",".join(str(one) for one in range(0, 200, 2))
    squares = ",".join(str(one * one) for one in range(40))
    jobs = [record(f"{SUBMIT} --array={indices} --wrap true") for indices in (evens, squares)]
    record(RANGES, f"SLURM_BITSTR_LEN=0 {RANGES}", f"{RANGES} -r")
    record.accounted(rf"{jobs[1]}_.*PENDING")
    record(SACCT_SHORT, f"SLURM_BITSTR_LEN=0 {SACCT_SHORT}")


@case
def ends(record: Recorder) -> None:
    """Scripts that fail, are killed, or cannot write their output."""
    for wrap in ("exit 7", "kill -9 $$", "kill -TERM $$", "true"):
        record(f"{SUBMIT} --wrap '{wrap}'")
    last = record("sbatch --parsable -o /nowhere/out --wrap true")
    record.accounted(rf"^{last}.*FAILED")
    record.all()


@case
def time_limit(record: Recorder) -> None:
    """A minute that was not enough."""
    job = record(f"{SUBMIT} -t 1 --wrap 'sleep 300'")
    record.until(RANGES, rf"{job}.TIMEOUT", 150)
    record.accounted(rf"{job}.*TIMEOUT")
    record.all()


@case
def deadline(record: Recorder) -> None:
    """A job that cannot end before its deadline."""
    fill(record)
    job = record(f"{SUBMIT} -t 1 --deadline=now+62seconds --wrap true")
    record.until(RANGES, rf"{job}.DEADLINE", 150)
    record.accounted(rf"{job}.*DEADLINE")
    record.all()


@case
def requeued(record: Recorder) -> None:
    """A running job sent back to the queue, and what is known of its first run."""
    job = record(f"{SUBMIT} -J again --array=0 --wrap 'sleep 60'")
    record.until(RANGES, rf"{job}_0.RUNNING")
    record(f"scontrol requeue {job}_0")
    record.until(RANGES, rf"{job}_0.PENDING")
    record.all()
    record.until(SACCT, rf"{job}.*REQUEUED")
    record.all()
    record(SACCT_SHORT, f"scontrol -o show job {job}")


@case
def held_after_requeue(record: Recorder) -> None:
    """Requeued and held: by the account, and as a special exit."""
    for state in ("Hold", "SpecialExit"):
        job = record(f"{SUBMIT} --wrap 'sleep 60'")
        record.until(RANGES, rf"{job}.RUNNING")
        record(
            f"scontrol requeuehold State={state} {job}"
            if state != "Hold"
            else f"scontrol requeuehold {job}"
        )
        record.until(RANGES, rf"{job}.(PENDING|SPECIAL|REQUEUE_HOLD)")
    time.sleep(3)
    record.all()


@case
def preempted(record: Recorder) -> None:
    """Pushed aside by a more urgent job: known as PREEMPTED, and pending again."""
    job = record(f"{SUBMIT} -w n2 --wrap 'sleep 60'")
    record.until(RANGES, rf"{job}.RUNNING")
    record(f"{SUBMIT} -p urgent -w n2 --exclusive --wrap 'sleep 2'")
    record.until(RANGES, rf"{job}.PENDING")
    record.accounted(rf"{job}.*(PREEMPTED|PENDING)")
    record.all()


@case
def preempted_for_good(record: Recorder) -> None:
    """Pushed aside, and not to be requeued."""
    job = record(f"{SUBMIT} --no-requeue -w n2 --wrap 'sleep 60'")
    record.until(RANGES, rf"{job}.RUNNING")
    record(f"{SUBMIT} -p urgent -w n2 --exclusive --wrap 'sleep 2'")
    record.until(RANGES, rf"{job}.PREEMPTED")
    record.accounted(rf"{job}.*PREEMPTED")
    record.all()


@case
def node_failure(record: Recorder) -> None:
    """A node that goes down below a job that may be requeued and one that may not."""
    first = record(f"{SUBMIT} -w n2 --wrap 'sleep 60'")
    second = record(f"{SUBMIT} --no-requeue -w n2 --wrap 'sleep 60'")
    record.until(RANGES, rf"{second}.RUNNING")
    record.cluster.kill("slurmd-n2")
    record.cluster.admin("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    record.until(RANGES, rf"{second}.NODE_FAIL")
    record.accounted(rf"{second}.*NODE_FAIL")
    record.all()
    record(f"scontrol -o show job {first}", "sinfo -h -N -o '%N|%T|%E'")


@case
def blocked(record: Recorder) -> None:
    """What waits for ever, and what waits for a reason that passes."""
    record(f"{SUBMIT} --hold --wrap true")
    failed = record(f"{SUBMIT} --wrap 'exit 1'")
    record.until(RANGES, rf"{failed}.FAILED")
    record(f"{SUBMIT} -d afterok:{failed} --wrap true")
    record(f"{SUBMIT} --begin=now+1hour --wrap true")
    record(f"{SUBMIT} -p tiny -t 2 --hold --wrap true")
    held = record(f"{SUBMIT} --wrap true --hold")
    record.cluster.admin("scontrol", "hold", held)
    record(f"{SUBMIT} -w n2 --exclusive --wrap 'sleep 30'")
    record(f"{SUBMIT} -w n2 --exclusive --wrap true")
    record.cluster.admin("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
    time.sleep(1)
    record(f"{SUBMIT} -w n1 --wrap true")
    time.sleep(4)
    record.all()
    record("squeue --me -h -t all -o '%i|%T|%R'")


@case
def suspended(record: Recorder) -> None:
    """Stopped by an administrator."""
    job = record(f"{SUBMIT} --wrap 'sleep 60'")
    record.until(RANGES, rf"{job}.RUNNING")
    record.cluster.admin("scontrol", "suspend", job)
    record.accounted(rf"{job}.*SUSPENDED")
    record.all()


@case
def completing(record: Recorder) -> None:
    """Over for its script, not yet for its node."""
    job = record(f"{SUBMIT} -w n2 --wrap 'trap \"\" TERM; sleep 60'")
    record.until(RANGES, rf"{job}.RUNNING")
    record.cluster.pause("slurmd-n2")
    record(f"scancel {job}")
    record.until(RANGES, rf"{job}.COMPLETING")
    record(RANGES, EACH)
    record.cluster.resume("slurmd-n2")


@case
def refused(record: Recorder) -> None:
    """What sbatch does not take."""
    for options in (
        "--account=nobody",
        "--partition=nowhere",
        "--qos=nothing",
        "--partition=tiny --time=5",
        "--partition=tiny --nodes=2",
        "--time=soon",
        "--array=0-10001",
        "--array=x",
        "--mem=9999999",
        "--cpus-per-task=1000",
        "--constraint=gpu",
        "--gres=gpu:1",
        "--nodelist=n99",
        "--dependency=afterok:99999",
        "--reservation=none",
        "--licenses=nothing",
        "--no-such-option",
        "--chdir=/nowhere",
        "--begin=yesterdayish",
    ):
        record(f"{SUBMIT} {options} --wrap true")
    record(
        "sbatch --parsable /nowhere/job.sh",
        "printf 'echo\\n' >bad.sh; sbatch bad.sh",
        "sbatch --parsable --wrap true",
        "sbatch --wrap true",
        "/bin/sh -c 'PATH= ; sbatch --parsable job.sh'",
    )


@case
def limits(record: Recorder) -> None:
    """More jobs than the account's association allows: one array, and one more job."""
    admin = record.cluster.admin
    where = ("where", f"user={record.cluster.user}")
    admin("sacctmgr", "-iQ", "modify", "user", "set", "MaxSubmitJobs=5", *where)
    try:
        time.sleep(1)
        record(
            f"{SUBMIT} --hold --array=0-9 --wrap true",
            f"{SUBMIT} --hold --array=0-4 --wrap true",
            f"{SUBMIT} --wrap true",
            "sacctmgr -nP show assoc where user=$(id -un) "
            "format=Cluster,Account,User,Partition,MaxJobs,MaxSubmit,DefaultQOS",
        )
    finally:
        admin("sacctmgr", "-iQ", "modify", "user", "set", "MaxSubmitJobs=-1", *where)


@case
def site(record: Recorder) -> None:
    """What a cluster says of itself."""
    record(
        "sinfo --version",
        "scontrol show config",
        "sinfo -h -o '%P|%a|%l|%D|%T|%N'",
        "sacctmgr -nP show assoc where user=$(id -un) "
        "format=Cluster,Account,User,Partition,MaxJobs,MaxSubmit,DefaultQOS",
        "sacctmgr -nP show qos format=Name,MaxSubmitPU,MaxJobsPU,MaxWall",
    )


@case
def unknown_ids(record: Recorder) -> None:
    """Jobs that never were."""
    record(
        "squeue -h -j 99999",
        "squeue -h -j 99998,99999",
        "sacct -X -n -P -j 99999",
        "scontrol -o show job 99999",
        "scancel 99999",
        "scancel 99999_3",
        "squeue -h -j abc",
        "sacct -X -n -P -j abc",
        "squeue --me -h -n nothing",
    )


@case
def purged(record: Recorder) -> None:
    """Ended and forgotten by slurmctld; known to accounting."""
    record.cluster.configure(MinJobAge="2")
    job = record(f"{SUBMIT} --wrap true")
    record.until(RANGES, rf"{job}.COMPLETED")
    record.until(f"{RANGES}; echo none", r"\Anone")
    record(f"squeue -h -j {job}", f"scontrol -o show job {job}")
    record.all()


@case
def controller_down(record: Recorder) -> None:
    """slurmctld stopped."""
    record.cluster.stop("slurmctld")
    record(RANGES, f"{SUBMIT} --wrap true", "scancel 1", "scontrol show config", SACCT)


@case
def controller_frozen(record: Recorder) -> None:
    """slurmctld frozen during sbatch: it says that it failed, and the job is there."""
    record.cluster.pause("slurmctld")
    record(f"{SUBMIT} -J phantom --wrap true", RANGES)
    record.cluster.resume("slurmctld")
    record.until(RANGES, "COMPLETED")
    record(EACH)


@case
def accounting_down(record: Recorder) -> None:
    """slurmdbd stopped while a job is submitted, runs and ends, and what is known of it later."""
    record.cluster.stop("slurmdbd")
    job = record(f"{SUBMIT} --wrap true")
    record.until(RANGES, rf"{job}.COMPLETED")
    record.all()
    record.cluster.start("slurmdbd")
    record.accounted(rf"^{job}\|")
    record.all()


@case
def out_of_memory(record: Recorder) -> None:
    """The kernel ended a process of the job, for memory."""
    python = record.cluster.python39
    job = record(f"{SUBMIT} --mem=50 --wrap 'exec {python} -c \"bytearray(200 << 20)\"'")
    record.until(RANGES, rf"{job}.OUT_OF_MEMORY")
    record.accounted(rf"{job}.*OUT_OF_ME")
    record.all()


@case
def killed_for_memory(record: Recorder) -> None:
    """Slurm itself ended the job (``OverMemoryKill``): its state has no word of memory."""
    python = record.cluster.python39
    hold = "import time; x = bytearray(200 << 20); time.sleep(30)"
    job = record(f"{SUBMIT} --mem=50 --wrap 'exec {python} -c \"{hold}\"'")
    record.until(RANGES, rf"{job}.FAILED")
    record.accounted(rf"{job}.*FAILED")
    record.all()


@case
def without_accounting(record: Recorder) -> None:
    """A site that keeps no accounts."""
    job = record(f"{SUBMIT} --array=0-3 --wrap 'exit $((SLURM_ARRAY_TASK_ID == 1))'")
    record.until(RANGES, rf"{job}_3.COMPLETED")
    record.all()
    record("sacct", f"scontrol -o show job {job}", "sacctmgr -nP show assoc")


SPECIAL: dict[str, dict[str, bool]] = {
    "out-of-memory": {"memory_limits": True},
    "without-accounting": {"accounting": False},
}


def main(chosen: list[str]) -> None:
    for name in chosen or CASES:
        began = time.monotonic()
        options = SPECIAL.get(name, {})
        database = accounting_template() if options.get("accounting", True) else None
        with SlurmCluster(database=database, **options) as cluster:
            recorder = Recorder(cluster)
            CASES[name](recorder)
            text = render(recorder.answers).replace(str(cluster.root), "/cluster")
        (FOLDER / f"{name}.txt").write_text(text)
        print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    write_table()


def write_table() -> None:
    """Bring the table of the README up to date."""
    readme = FOLDER / "README.md"
    head = readme.read_text().partition("| case |")[0]
    rows = [f"| `{name}` | {function.__doc__} |" for name, function in sorted(CASES.items())]
    readme.write_text("\n".join([head + "| case | what |", "|---|---|", *rows, ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
