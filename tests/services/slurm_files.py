"""What the daemons of a private cluster read: pure text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CLUSTER = "ensemble"
#: Accounts that slurmdbd knows; the first is the user's default.
ACCOUNTS = ("weather", "ocean")
DATABASE = "slurm_acct_db"
DATABASE_PASSWORD = "slurm"
#: A small database that nobody minds losing.
MARIADB = (
    "--skip-name-resolve",
    "--bind-address=127.0.0.1",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--skip-log-bin",
    "--performance-schema=OFF",
)


@dataclass(frozen=True)
class Ports:
    """Where a cluster's daemons listen, on the loopback interface."""

    ssh: int
    slurmctld: int
    slurmdbd: int
    database: int
    nodes: Mapping[str, int]


#: Settings without which an array of 200 empty elements takes minutes on two cores, or fails: CPUs
#: are faked, nothing binds or confines, and the scheduler does not wait for more work.
FIXED = {
    "SlurmUser": "{owner}",
    "SlurmdUser": "{owner}",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "AuthInfo": "socket={root}/munge/socket,cred_expire=10",
    "StateSaveLocation": "{root}/state",
    "SlurmdSpoolDir": "{root}/spool/%n",
    "SlurmctldPidFile": "{root}/slurmctld.pid",
    "SlurmdPidFile": "{root}/slurmd.%n.pid",
    "MailProg": "/bin/true",
    "MpiDefault": "none",
    "SwitchType": "switch/none",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU_Memory",
    "DefMemPerCPU": "8000",
    "SlurmdParameters": "config_overrides",
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
    "PriorityType": "priority/basic",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "PropagateResourceLimits": "NONE",
    "ReturnToService": "2",
    "EnforcePartLimits": "ALL",
    "MaxArraySize": "10001",
    "MaxJobCount": "50000",
    "MinJobAge": "300",
    "KillWait": "2",
    "SlurmctldTimeout": "60",
    "SlurmdTimeout": "120",
    "InactiveLimit": "0",
    # Only so is a job that takes more memory than it asked for killed, without control groups.
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "task=2",
    "JobAcctGatherParams": "OverMemoryKill",
}
NO_ACCOUNTING = {"AccountingStorageType": "accounting_storage/none"}
ACCOUNTING = {
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AccountingStorageHost": "127.0.0.1",
    "AccountingStoragePass": "{root}/munge/socket",
    "AccountingStorageEnforce": "associations,limits",
    "AccountingStoreFlags": "job_comment",
}
#: The kernel's own limit of memory: only with it does Slurm 22.05 say OUT_OF_MEMORY.
MEMORY_LIMITS = {
    "TaskPlugin": "task/cgroup",
    "JobAcctGatherType": "jobacct_gather/none",
    "JobAcctGatherParams": "UsePss",
}
CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
AllowedSwapSpace=0
MinRAMSpace=10
"""
PARTITIONS = (
    "PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 State=UP",
    "PartitionName=tiny Nodes={first} MaxTime=2 MaxNodes=1 PriorityTier=1 State=UP",
    "PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP",
)


def slurm_conf(
    root: Path,
    ports: Ports,
    *,
    host: str,
    owner: str,
    cpus: int,
    accounting: bool,
    options: Mapping[str, str],
) -> str:
    """Return ``slurm.conf``.

    :param host: this machine's name, which slurmctld compares with its own.
    :param cpus: that each node pretends to have.
    :param options: settings over those of the module.
    """
    settings = {
        "ClusterName": CLUSTER,
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": str(ports.slurmctld),
        **FIXED,
        **(ACCOUNTING if accounting else NO_ACCOUNTING),
        **({"AccountingStoragePort": str(ports.slurmdbd)} if accounting else {}),
        **options,
    }
    lines = [f"{key}={value.format(root=root, owner=owner)}" for key, value in settings.items()]
    for name, port in ports.nodes.items():
        lines.append(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={cpus} RealMemory=1000000 State=UNKNOWN"
        )
    lines += [line.format(first=min(ports.nodes)) for line in PARTITIONS]
    return "\n".join([*lines, ""])


def slurmdbd_conf(root: Path, ports: Ports, *, host: str, owner: str) -> str:
    """Return ``slurmdbd.conf``."""
    settings = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={root}/munge/socket",
        "DbdHost": host,
        "DbdAddr": "127.0.0.1",
        "DbdPort": str(ports.slurmdbd),
        "SlurmUser": owner,
        "PidFile": f"{root}/slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": str(ports.database),
        "StorageUser": "slurm",
        "StoragePass": DATABASE_PASSWORD,
        "StorageLoc": DATABASE,
    }
    return "\n".join(f"{key}={value}" for key, value in settings.items()) + "\n"


def sshd_config(root: Path, ports: Ports, environment: Mapping[str, str]) -> str:
    """Return ``sshd_config``: keys only, and what a session finds in its environment."""
    variables = " ".join(f'{key}="{value}"' for key, value in environment.items())
    settings = {
        "Port": str(ports.ssh),
        "ListenAddress": "127.0.0.1",
        "HostKey": f"{root}/keys/host",
        "AuthorizedKeysFile": f"{root}/keys/client.pub",
        "PidFile": "none",
        # The folder of the keys lies below one in which everybody may write.
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "no",
        "PrintMotd": "no",
        "X11Forwarding": "no",
        "MaxStartups": "10:30:100",
        "MaxSessions": "10",
        "Subsystem": "sftp internal-sftp",
        "SetEnv": variables,
    }
    return "\n".join(f"{key} {value}" for key, value in settings.items()) + "\n"


def database_setup() -> str:
    """Return what MariaDB runs when it starts."""
    return (
        f"CREATE DATABASE IF NOT EXISTS {DATABASE};\n"
        f"CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY '{DATABASE_PASSWORD}';\n"
        f"GRANT ALL ON {DATABASE}.* TO slurm@'127.0.0.1';\n"
    )
