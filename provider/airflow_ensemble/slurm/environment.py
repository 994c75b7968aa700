"""Variables that would change a job: whose they are, and the shell text that takes them away.

A job is to be the same from a login node, from a notebook in an allocation and from a driver job.
So ``sbatch`` sees neither what describes another job nor what overrides the batch script; the rest
of the environment is the user's, and goes with the job as ``sbatch`` always takes it along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_MEMORY = ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU")
#: Requests for GPUs add up, other than those for memory, of which ``sbatch`` takes one kind.
GPUS = (
    *("SBATCH_GPUS", "SBATCH_GPUS_PER_NODE", "SBATCH_GPUS_PER_SOCKET", "SBATCH_GPUS_PER_TASK"),
    *("SBATCH_GRES", "SBATCH_TRES_PER_TASK"),
)
_HINTS = ("SBATCH_HINT", "SLURM_HINT", "SBATCH_THREADS_PER_CORE")
_REQUEUE = ("SBATCH_REQUEUE", "SBATCH_NO_REQUEUE")
_SPECIALIZED = ("SBATCH_CORE_SPEC", "SBATCH_THREAD_SPEC")
#: Each option of ``sbatch`` and the variables that set it, or one that excludes it: sbatch(1),
#: INPUT ENVIRONMENT VARIABLES, of Slurm 22.05 and later. Those of the job's log and name are below.
OPTION_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "account": ("SBATCH_ACCOUNT",),
    "acctg-freq": ("SBATCH_ACCTG_FREQ",),
    "batch": ("SBATCH_BATCH",),
    "bb": ("SBATCH_BURST_BUFFER",),
    "bbf": ("SBATCH_BURST_BUFFER",),
    "cluster-constraint": ("SBATCH_CLUSTER_CONSTRAINT",),
    "clusters": ("SBATCH_CLUSTERS", "SLURM_CLUSTERS"),
    "constraint": ("SBATCH_CONSTRAINT",),
    "container": ("SBATCH_CONTAINER", "SBATCH_CONTAINER_ID"),
    "container-id": ("SBATCH_CONTAINER", "SBATCH_CONTAINER_ID"),
    "core-spec": _SPECIALIZED,
    "cpu-freq": ("SBATCH_CPU_FREQ_REQ",),
    "cpus-per-gpu": ("SBATCH_CPUS_PER_GPU",),
    "delay-boot": ("SBATCH_DELAY_BOOT",),
    "distribution": ("SBATCH_DISTRIBUTION",),
    "exclusive": ("SBATCH_EXCLUSIVE",),
    "get-user-env": ("SBATCH_GET_USER_ENV",),
    "gpu-bind": ("SBATCH_GPU_BIND",),
    "gpu-freq": ("SBATCH_GPU_FREQ",),
    "gpus": GPUS,
    "gpus-per-node": GPUS,
    "gpus-per-socket": GPUS,
    "gpus-per-task": GPUS,
    "gres": GPUS,
    "gres-flags": ("SBATCH_GRES_FLAGS",),
    "hint": _HINTS,
    "ignore-pbs": ("SBATCH_IGNORE_PBS",),
    "mem": _MEMORY,
    "mem-bind": ("SBATCH_MEM_BIND",),
    "mem-per-cpu": _MEMORY,
    "mem-per-gpu": _MEMORY,
    "network": ("SBATCH_NETWORK",),
    "no-kill": ("SBATCH_NO_KILL",),
    "no-requeue": _REQUEUE,
    "ntasks-per-core": ("SBATCH_HINT", "SLURM_HINT"),
    "overcommit": ("SBATCH_OVERCOMMIT",),
    "oversubscribe": ("SBATCH_EXCLUSIVE",),
    "partition": ("SBATCH_PARTITION",),
    "power": ("SBATCH_POWER",),
    "profile": ("SBATCH_PROFILE",),
    "qos": ("SBATCH_QOS",),
    "requeue": _REQUEUE,
    "reservation": ("SBATCH_RESERVATION",),
    "segment": ("SBATCH_SEGMENT_SIZE",),
    "spread-job": ("SBATCH_SPREAD_JOB",),
    "switches": ("SBATCH_REQ_SWITCH", "SBATCH_WAIT4SWITCH"),
    "thread-spec": _SPECIALIZED,
    "threads-per-core": _HINTS,
    "time": ("SBATCH_TIMELIMIT",),
    "tres-per-task": (*GPUS, "SBATCH_CPUS_PER_GPU"),
    "use-min-nodes": ("SBATCH_USE_MIN_NODES",),
    "wait-all-nodes": ("SBATCH_WAIT_ALL_NODES",),
    "wckey": ("SBATCH_WCKEY",),
}
#: What we rely on whether ``job.sh`` names it or not: the array, its name, where its log goes and
#: what it holds, when it is told of its end, that ``sbatch`` answers at once and with the id, and
#: that the job has the environment from which it was submitted.
OWNED = (
    *("SBATCH_ARRAY_INX", "SBATCH_JOB_NAME", "SBATCH_INPUT", "SBATCH_OUTPUT", "SBATCH_ERROR"),
    *("SBATCH_OPEN_MODE", "SBATCH_SIGNAL", "SBATCH_WAIT", "SBATCH_DEBUG", "SBATCH_EXPORT"),
    "SBATCH_GET_USER_ENV",
)
#: Of Slurm's own variables, those that say where Slurm is, how its commands print, and how the
#: site's MPI is started. Every other one describes a job, or is an option of ``srun``.
_SETTINGS = (
    *("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_MPI_TYPE"),
    *("SLURM_DEBUG_FLAGS", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "SLURM_TOPO_LEN"),
    "SLURM_HINT",
)
#: Patterns of variables by which a launcher tells a process its rank, its hosts and its place: of
#: Slurm's PMI, PMIx and PRRTE, Open MPI, Hydra with MPICH and Intel MPI, MVAPICH and Cray's PALS.
#: How a library is tuned (``OMPI_MCA_btl``, ``I_MPI_FABRICS``) is the user's, and is not here.
_LAUNCHED = (
    "PMI2?_(RANK|SIZE|FD|PORT|ID|JOBID|SPAWNED|APPNUM|HOSTNAME|UNIVERSE_SIZE|PROCESS_MAPPING)",
    "PMI_(KVS|DOMAIN|TOTALVIEW|LOCAL_RANK|LOCAL_SIZE|NODE|CONTROL_(PORT|FD)|SHARED_SECRET)",
    "PMIX_(RANK|NAMESPACE|ID|SERVER|SYSTEM_TMPDIR|SECURITY_MODE|PTL_MODULE|BFROP_BUFFER_TYPE"
    "|GDS_MODULE|DSTORE|HOSTNAME|VERSION|KEEPALIVE_PIPE|PARENT_ID|LAUNCHER)[A-Za-z0-9_]*",
    "OMPI_(COMM_WORLD_[A-Z_]*|UNIVERSE_SIZE|FIRST_RANKS|APP_CTX_NUM_PROCS|NUM_APP_CTX"
    "|FILE_LOCATION|COMMAND|ARGV)",
    "(OMPI|PRTE|PMIX)_MCA_(orte|ess|prte|initial_wdir)[A-Za-z0-9_]*",
    "PRTE_LAUNCHED",
    "I_MPI_(HYDRA_HOST_FILE|HYDRA_HOSTS_GROUP|HOSTFILE|PERHOST|PIN_PROCESSOR_LIST|PIN_DOMAIN"
    "|INFO_NP|JOB_[A-Z_]*)",
    "(HYDRA_(HOST_FILE|PROXY_[A-Z_]*)|HYDI_[A-Z_]*|MPI_LOCALN?RANK(ID|S))",
    "MPICH_(INTERFACE_HOSTNAME|RANK_REORDER_(METHOD|FILE))",
    "MV2_COMM_WORLD_[A-Z_]*",
    "PALS_[A-Z_]*",
)
#: What Slurm sets to say which GPUs a job got.
_DEVICES = (
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    *("GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"),
)
_OTHER_JOB = ("(SLURM|SLURMD|SRUN|_SLURM_SPANK_OPTION)_[A-Za-z0-9_]*", *_LAUNCHED, *_DEVICES)
#: What a step tells its processes, and what only ``srun`` reads: no batch job has any of these, but
#: for one with ``--export``, whose steps are to have what the worker has.
STEP_VARIABLES = (
    *("SLURM_CPU_BIND[A-Z_]*", "SLURM_STEP[A-Z_]*", "SLURM_SRUN_[A-Z_]*", "SLURM_PTY_[A-Z_]*"),
    *("SLURM_LAUNCH_NODE_IPADDR", "SLURM_EXACT", "SLURM_OVERLAP", "SLURM_EXCLUSIVE"),
    *("SLURM_HOSTFILE", "SLURM_TIMELIMIT", "SLURM_WORKING_DIR", "SLURM_REMOTE_CWD"),
    *("SLURM_EXPORT_ENV", "SLURM_LABELIO", "SLURM_STD(IN|OUT|ERR)MODE", "SLURM_THREADS"),
    "SRUN_[A-Z_]*",
)


def full_name(option: str) -> str:
    """Return an option's whole name: ``sbatch`` takes beginnings of it, too."""
    if option in OPTION_VARIABLES:
        return option
    found = [name for name in OPTION_VARIABLES if name.startswith(option)]
    return found[0] if len(found) == 1 else option


def cleaning_text(script: str) -> str:
    """Return the shell text that leaves to ``sbatch`` what is neither another job's nor overrides.

    :param script: the batch script, in the working directory: its first lines hold the options, and
        commented out those that the job shall not have.
    """
    table = "".join(
        f"s/^##?SBATCH --{option}(=.*)?$/{' '.join(names)}/p\n"
        for option, names in OPTION_VARIABLES.items()
    )
    # Outside of an allocation a hint is the site's; the scratch folder of one ends with it.
    # In other locales no dot of a pattern matches what is not written in their encoding.
    return f"""\
if [ -n "$SLURM_JOB_ID$SLURM_JOBID" ]; then
case "$TMPDIR/" in *[!0-9]"${{SLURM_JOB_ID:-$SLURM_JOBID}}"[!0-9]*) unset TMPDIR;; esac
unset SLURM_HINT {named_by("SBATCH_MEM_BIND[A-Z_]*")}
fi
unset {named_by(*_OTHER_JOB, kept=_SETTINGS)} {" ".join(OWNED)}
unset NOTHING $(LC_ALL=C sed -nE '/^[^#]/q
{table}' {script}) $(LC_ALL=C sed -n '/^[^#]/q
s/^##*SBATCH --\\([a-z-]*\\).*/SBATCH_\\1/p' {script} | tr a-z- A-Z_)
"""


def launching_text() -> str:
    """Return the shell text with which a batch job drops what can only be another job's."""
    return f"unset NOTHING {named_by(*STEP_VARIABLES, *_LAUNCHED)}\n"


def named_by(*patterns: str, kept: Iterable[str] = ()) -> str:
    """Return a shell word that becomes the names of some variables.

    :param patterns: extended regular expressions of names.
    :param kept: names that are left out.
    """
    spared = f"/^({'|'.join(kept)})=/d;" if kept else ""
    return f"$(env | LC_ALL=C sed -nE '{spared}s/^({'|'.join(patterns)})=.*/\\1/p')"
