"""A private Slurm behind a private SSH server, with or without accounting: real daemons.

Everything of a cluster lies in a folder of its own (configuration, keys, munge socket, database),
its ports are its own, and an SSH session learns of it through ``SetEnv SLURM_CONF``: several
clusters run side by side on one machine, and none touches how the machine itself is configured.
As root, jobs and SSH sessions belong to the account that ``scripts/install_services.sh`` makes;
without root, everything belongs to whoever runs the tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pytest

from tests.interpreters import interpreters
from tests.leftovers import VARIABLE
from tests.services import slurm_files
from tests.services.daemons import Daemon, descendants, free_ports, listens, processes_with
from tests.services.shared_python import our_python, share_packages, share_python

if TYPE_CHECKING:
    from airflow_ensemble.slurm.login import Login

ACCOUNT = "ensemble-hpc"
INSTALL_HINT = (
    "a server program was not found: run scripts/install_services.sh as root; the tests of the "
    "Slurm backend run against a real Slurm, MariaDB and OpenSSH server. Missing: "
)
#: Daemons, by how their names begin, in the order in which they need each other.
_STAGES = (("munged", "mariadb"), ("slurmdbd",), ("slurmctld", "slurmd-", "sshd"))
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class SlurmCluster:
    """A running cluster of two virtual nodes, and the daemons that make it.

    Daemons are called by name: ``slurmctld``, ``slurmdbd``, ``mariadb``, ``munged``, ``sshd``,
    ``slurmd-n1``, ``slurmd-n2``, and ``slurmd`` for all nodes.

    :param accounting: whether there is a slurmdbd, with a MariaDB behind it.
    :param nodes: virtual nodes, ``n1`` and so on.
    :param cpus: that each of them pretends to have.
    :param memory_limits: whether the kernel ends a job that takes more memory than it asked for
        (see :func:`can_limit_memory`); the nodes then have other names.
    :param clock_ahead: seconds by which the clock of daemons, sessions and jobs is ahead of ours.
    :param options: settings of ``slurm.conf`` over those of ``slurm_files.FIXED``.
    """

    def __init__(
        self,
        *,
        accounting: bool = True,
        nodes: int = 2,
        cpus: int = 32,
        memory_limits: bool = False,
        clock_ahead: int = 0,
        options: Mapping[str, str] | None = None,
        database: Path | None = None,
    ) -> None:
        self.accounting = accounting
        self.user = ACCOUNT if os.geteuid() == 0 else getpass.getuser()
        self.account = slurm_files.ACCOUNTS[0]
        self.root = Path(tempfile.mkdtemp(prefix="ensemble-slurm-"))
        self.shared = self.root / "shared"
        self.slurm_conf = self.root / "etc" / "slurm.conf"
        self.known_hosts = self.root / "keys" / "known_hosts"
        self.private_key_path = self.root / "keys" / "client"
        self._clock = _shifted_clock(clock_ahead)
        self._has_forgotten = False
        self._cpus, self._changed = cpus, dict[str, str]()
        self._options = {**(slurm_files.MEMORY_LIMITS if memory_limits else {}), **(options or {})}
        ssh, slurmctld, slurmdbd, db, *rest = free_ports(4 + nodes)
        # Control groups are named after nodes, and belong to the machine.
        prefix = f"n{slurmctld}x" if memory_limits else "n"
        self.nodes = [f"{prefix}{number}" for number in range(1, nodes + 1)]
        self._ports = slurm_files.Ports(ssh, slurmctld, slurmdbd, db, dict(zip(self.nodes, rest)))
        self.ssh_port = ssh
        try:
            self._make_files(database)
            self._daemons = self._make_daemons()
            self.start()
        except BaseException:
            self.close()
            raise

    # Who and where

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables with which Slurm's commands reach this cluster from here."""
        return {"SLURM_CONF": str(self.slurm_conf)}

    @cached_property
    def private_key(self) -> str:
        """Return the text of the key that the SSH server lets in."""
        return self.private_key_path.read_text()

    @cached_property
    def host_key(self) -> str:
        """Return the server's public key: ``ssh-ed25519 AAAA…``."""
        return " ".join((self.root / "keys" / "host.pub").read_text().split()[:2])

    @property
    def ssh_options(self) -> list[str]:
        """Return what the system's ``ssh`` needs to be told to reach the cluster."""
        return [
            *("-F", "none", "-p", str(self.ssh_port), "-l", self.user),
            *("-i", str(self.private_key_path), "-o", "BatchMode=yes"),
            *("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "IdentitiesOnly=yes"),
        ]

    def login(self) -> Login:
        """Return the way in, for :func:`airflow_ensemble.slurm.connecting.make_runner`."""
        from airflow_ensemble.slurm.login import Login

        return Login(
            host="127.0.0.1",
            port=self.ssh_port,
            user=self.user,
            private_key=self.private_key,
            host_key=self.host_key,
        )

    def airflow_connection(self, **extra: object) -> str:
        """Return the connection as ``AIRFLOW_CONN_…`` holds it; ``extra`` adds to its extra."""
        return json.dumps(
            {
                "conn_type": "slurm",
                "host": "127.0.0.1",
                "port": self.ssh_port,
                "login": self.user,
                "extra": {
                    "private_key": self.private_key,
                    "host_key": self.host_key,
                    "remote_root": str(self.shared),
                    **extra,
                },
            }
        )

    # Interpreters that the account can run

    @cached_property
    def python(self) -> str:
        """Return an interpreter that the account can run, of at least Python 3.9."""
        return self.python39

    @cached_property
    def python39(self) -> str:
        """Return the oldest interpreter that a worker is promised to run on, without packages."""
        found = interpreters().get("3.9")
        assert found, "the tests of the cluster need a Python 3.9: with pyenv or uv, or on the PATH"
        return share_python(found, self.root / "python39")

    @cached_property
    def python_with_models(self) -> str:
        """Return an interpreter that finds the packages which these tests run with."""
        packages = share_packages(self.root / "packages", self._as_account)
        return share_python(our_python(), self.root / "python-with-models", packages=packages)

    # Commands

    def run(
        self, command: str, *, input: str = "", timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as the account, in its shared folder, without SSH."""
        return subprocess.run(
            ["/bin/sh", "-c", command],
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._session_environment(),
            user=self._as_account,
            group=self._as_account and pwd.getpwnam(self._as_account).pw_gid,
            extra_groups=[] if self._as_account else None,
            cwd=self.shared,
            check=False,
        )

    def answer(self, command: str) -> str:
        """Run a shell command as the account and return what it printed; it must not fail."""
        done = self.run(command)
        assert done.returncode == 0, f"{command!r} ended with {done.returncode}: {done.stderr}"
        return done.stdout.strip()

    def admin(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands as its administrator and return what it printed."""
        done = subprocess.run(
            [_program(command[0]), *command[1:]],
            capture_output=True,
            text=True,
            env=self._daemon_environment(),
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def rpcs(self) -> dict[str, int]:
        """Return how often slurmctld was asked for what since it started: ``{"REQUEST_…": n}``."""
        text = self.admin("sdiag").partition("statistics by message type")[2]
        return _counts(text.partition("statistics by user")[0])

    def user_rpcs(self) -> int:
        """Return how many requests of the account slurmctld has answered since it started."""
        text = self.admin("sdiag").partition("statistics by user")[2]
        return _counts(text).get(self.user, 0)

    @property
    def ssh_connections(self) -> int:
        """Return how many SSH connections have been let in so far."""
        return (
            (self.root / "log" / "sshd.log")
            .read_text(errors="replace")
            .count("Accepted publickey for ")
        )

    # Daemons

    def start(self, daemon: str | None = None) -> None:
        """Start a daemon, or all, and wait until it answers."""
        chosen = {one.name: one for one in self._named(daemon)}
        for stage in _STAGES:
            names = [name for name in chosen if name.startswith(stage) and not chosen[name].runs]
            for name in names:
                chosen[name].start()
            for name in names:
                chosen[name].wait_until(partial(self._answers, name))

    def stop(self, daemon: str) -> None:
        """Stop a daemon."""
        for one in self._named(daemon):
            one.stop()

    def kill(self, daemon: str) -> None:
        """Kill a daemon; with ``sshd``, the open connections too.

        A killed slurmctld has forgotten what it was told in its last seconds, jobs included:
        :meth:`wait_until_saved` comes before a kill that shall leave the jobs known.
        """
        self._has_forgotten = self._has_forgotten or daemon == "slurmctld"
        if daemon == "sshd":
            self._daemons["sshd"].pause()
            self.drop_connections()
        for one in self._named(daemon):
            one.kill()

    def pause(self, daemon: str) -> None:
        """Freeze a daemon with SIGSTOP."""
        for one in self._named(daemon):
            one.pause()

    def resume(self, daemon: str) -> None:
        """Let a frozen daemon go on."""
        for one in self._named(daemon):
            one.resume()

    def kill_steps(self) -> None:
        """Kill what watches over the jobs, on all nodes, so that nobody tells how they end."""
        for pid in processes_with("SLURM_CONF", str(self.slurm_conf)):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"slurmstepd"):
                    os.kill(pid, signal.SIGKILL)

    def drop_connections(self) -> int:
        """Cut the open SSH connections, and leave the server; return how many processes ended."""
        ended = 0
        for pid in list(descendants(self._daemons["sshd"].pid)):
            with contextlib.suppress(OSError):
                if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    ended += 1
        return ended

    def wait_until_saved(self) -> None:
        """Wait until slurmctld has written down what it knows now: it does within 5 s."""
        asked = time.time()
        saved = self.root / "state" / "job_state"
        while time.time() < asked + 6 and not (saved.exists() and saved.stat().st_mtime > asked):
            time.sleep(0.1)

    def configure(self, **options: str) -> None:
        """Change settings of ``slurm.conf`` until :meth:`reset`; the daemons must be up."""
        self._changed.update(options)
        self._read_slurm_conf_again()

    def reset(self) -> None:
        """Bring everything back to where a test may begin: no job, no file, every daemon up."""
        for one in self._daemons.values():
            one.resume()
        self.start()
        if self._changed or self._has_forgotten:
            self._changed.clear()
            self._skip_known_job_ids()
            self._read_slurm_conf_again()
        self.cancel_all()
        self.admin("scontrol", "update", "nodename=ALL", "state=resume", check=False)
        _wait(self._all_idle, "the nodes to be idle")
        for path in self.shared.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is left; the purged and the ended do not count."""
        self.admin("scancel", f"--user={self.user}", check=False)
        _wait(lambda: not self.admin("squeue", "-h", "-o", "%i"), "jobs to end")

    def close(self) -> None:
        """End the jobs, the daemons and whatever they left, and remove the folder."""
        daemons = getattr(self, "_daemons", {})
        for one in daemons.values():
            one.resume()
        if all(
            name in daemons and daemons[name].runs
            for name in ("slurmctld", f"slurmd-{self.nodes[0]}")
        ):
            with contextlib.suppress(AssertionError):
                self.admin("scancel", f"--user={self.user}", check=False)
                _wait(lambda: not self.admin("squeue", "-h"), "jobs to end", timeout=10)
        if "sshd" in daemons and daemons["sshd"].runs:
            self.kill("sshd")
        for one in reversed(list(daemons.values())):
            one.kill()  # nothing of it is kept, and some take seconds to stop
        for pid in processes_with("SLURM_CONF", str(self.slurm_conf)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for node in self.nodes:
            _remove_control_groups(MEMORY_GROUPS / f"slurm_{node}")
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> SlurmCluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # How it is made

    @property
    def _as_account(self) -> str | None:
        return self.user if os.geteuid() == 0 else None

    def _make_files(self, database: Path | None) -> None:
        self.root.chmod(0o755)
        for name in ("etc", "keys", "munge", "state", "spool", "log", "shared"):
            (self.root / name).mkdir(mode=0o755)
        if self._as_account:
            shutil.chown(self.shared, self.user, self.user)
        _write(self.root / "munge" / "key", os.urandom(128))
        for name in ("host", "client"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name]
            subprocess.run([*command, "-f", str(self.root / "keys" / name)], check=True)
        self.known_hosts.write_text(f"[127.0.0.1]:{self.ssh_port} {self.host_key}\n")
        self._write_slurm_conf()
        (self.root / "etc" / "cgroup.conf").write_text(slurm_files.CGROUP_CONF)
        environment = {key: str(value) for key, value in self._session_environment().items()}
        text = slurm_files.sshd_config(self.root, self._ports, environment)
        _write(self.root / "etc" / "sshd_config", text.encode())
        if self.accounting:
            self._make_accounting(database)

    def _make_accounting(self, database: Path | None) -> None:
        text = slurm_files.slurmdbd_conf(
            self.root, self._ports, host=_host_name(), owner=getpass.getuser()
        )
        _write(self.root / "etc" / "slurmdbd.conf", text.encode())
        (self.root / "etc" / "database.sql").write_text(slurm_files.database_setup())
        data = self.root / "mariadb"
        if database is None:
            _install_database(data)
        else:
            shutil.copytree(database, data)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "mysql", str(data)], check=True)

    def _write_slurm_conf(self) -> None:
        text = slurm_files.slurm_conf(
            self.root,
            self._ports,
            host=_host_name(),
            owner=getpass.getuser(),
            cpus=self._cpus,
            accounting=self.accounting,
            options={**self._options, **self._changed},
        )
        self.slurm_conf.write_text(text)

    def _skip_known_job_ids(self) -> None:
        """Begin a new thousand: slurmd does not run a job whose id it has seen before."""
        if self._has_forgotten:
            self._has_forgotten = False
            first = int(self._options.get("FirstJobId", "1")) // 1000 * 1000 + 1001
            self._options["FirstJobId"] = str(first)

    def _read_slurm_conf_again(self) -> None:
        self._write_slurm_conf()
        self.admin("scontrol", "reconfigure")

    def _make_daemons(self) -> dict[str, Daemon]:
        etc, log = self.root / "etc", self.root / "log"
        munge = self.root / "munge"
        commands = {
            "munged": [
                *("munged", "--foreground", f"--socket={munge}/socket", f"--key-file={munge}/key"),
                *(f"--pid-file={munge}/pid", f"--seed-file={munge}/seed", "--num-threads=4"),
            ],
            "mariadb": [
                *(
                    "mariadbd",
                    "--no-defaults",
                    f"--datadir={self.root}/mariadb",
                    *slurm_files.MARIADB,
                ),
                *(f"--port={self._ports.database}", f"--socket={self.root}/mariadb/socket"),
                *(f"--pid-file={self.root}/mariadb/pid", f"--init-file={etc}/database.sql"),
                *(["--user=mysql"] if os.geteuid() == 0 else []),
            ],
            "slurmdbd": ["slurmdbd", "-D"],
            "slurmctld": ["slurmctld", "-D", "-f", str(self.slurm_conf)],
            **{
                f"slurmd-{node}": ["slurmd", "-D", "-N", node, "-f", str(self.slurm_conf)]
                for node in self.nodes
            },
            "sshd": ["sshd", "-D", "-f", f"{etc}/sshd_config", "-E", f"{log}/sshd.log"],
        }
        if not self.accounting:
            del commands["mariadb"], commands["slurmdbd"]
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        (log / "sshd.log").touch()
        environment = self._daemon_environment()
        return {
            name: Daemon(
                name,
                [_program(command[0]), *command[1:]],
                log=log / f"{name}.out" if name == "sshd" else log / f"{name}.log",
                # munged gives and checks the times of all credentials by itself.
                environment={**environment, **({} if name == "munged" else self._clock)},
            )
            for name, command in commands.items()
        }

    def _daemon_environment(self) -> dict[str, str]:
        return {
            "PATH": f"/usr/local/bin:/usr/bin:/bin:{SBIN}",
            "LANG": "C.UTF-8",
            **self.environment,
            **_session_mark(),
        }

    def _session_environment(self) -> dict[str, str]:
        """Return what a login of the account finds; the mark lets leftovers be found."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **self._clock,
            **self.environment,
            **_session_mark(),
        }

    def _named(self, name: str | None) -> list[Daemon]:
        if name is None:
            return list(self._daemons.values())
        if name == "slurmd":
            return [one for key, one in self._daemons.items() if key.startswith("slurmd-")]
        return [self._daemons[name]]

    def _answers(self, name: str) -> bool:
        if name == "munged":
            return (self.root / "munge" / "socket").exists()
        if name == "slurmctld":
            return listens(self._ports.slurmctld)
        if name.startswith("slurmd-"):
            state = self.admin("sinfo", "-h", "-N", "-n", name[7:], "-o", "%T", check=False)
            return bool(state) and not any(word in state for word in ("down", "unk", "*"))
        ports = {"mariadb": "database", "slurmdbd": "slurmdbd", "sshd": "ssh"}
        port: int = getattr(self._ports, ports[name])
        return listens(port)

    def _all_idle(self) -> bool:
        return set(self.admin("sinfo", "-h", "-N", "-o", "%T").split()) == {"idle"}

    def register_accounts(self) -> None:
        """Tell slurmdbd of the cluster, the accounts and the user."""
        add = ("sacctmgr", "-iQ", "add")
        self.admin(*add, "cluster", slurm_files.CLUSTER, check=False)
        for account in slurm_files.ACCOUNTS:
            self.admin(*add, "account", account)
            self.admin(*add, "user", self.user, f"account={account}")


def _shifted_clock(seconds: int) -> dict[str, str]:
    """Return the variables with which a program sees another time, by Debian's libfaketime."""
    if not seconds:
        return {}
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, INSTALL_HINT + "libfaketime"
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": f"{seconds:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def can_limit_memory() -> bool:
    """Return whether ``memory_limits`` are to be had here: by cgroup v1 alone, and as root."""
    return os.geteuid() == 0 and os.access(MEMORY_GROUPS, os.W_OK)


def _remove_control_groups(folder: Path) -> None:
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def _session_mark() -> dict[str, str]:
    return {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}


def _host_name() -> str:
    return socket.gethostname().partition(".")[0]


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")
    assert found, INSTALL_HINT + name
    return found


def _write(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads, as munged, slurmdbd and sshd insist."""
    path.touch(mode=0o600)
    path.write_bytes(data)


def _counts(text: str) -> dict[str, int]:
    return {
        name: int(count)
        for name, count in re.findall(r"^\s*(\S+)\s*\(\s*\d+\) count:(\d+)", text, re.M)
    }


def _wait(condition: object, what: str, timeout: float = 60.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain for {what}"
        time.sleep(0.1)


# The database of accounting takes seconds to make, and is the same for every cluster.


def accounting_template() -> Path:
    """Return a database that slurmdbd has set up, made when first asked for on this machine."""
    programs = [Path(_program(name)).stat() for name in ("slurmdbd", "mariadbd")]
    digest = hashlib.sha256(repr([(one.st_size, one.st_mtime) for one in programs]).encode())
    digest.update(Path(slurm_files.__file__).read_bytes())
    name = f"ensemble-slurm-database-{os.geteuid()}-{digest.hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir()) / name
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _make_template(folder)
    assert folder.stat().st_uid == os.geteuid(), f"{folder} belongs to somebody else: remove it"
    return folder


def _make_template(folder: Path) -> None:
    with SlurmCluster(nodes=1) as cluster:
        cluster.register_accounts()
        for daemon in ("sshd", "slurmd", "slurmctld", "slurmdbd", "mariadb"):
            cluster.stop(daemon)
        aside = folder.with_suffix(".new")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(cluster.root / "mariadb", aside)
        aside.rename(folder)


def _install_database(data: Path) -> None:
    command = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={data}"]
    command += ["--skip-test-db", "--auth-root-authentication-method=normal", "--skip-log-bin"]
    command += ["--innodb-log-file-size=8M"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"mariadb-install-db failed:\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A cluster with accounting, for the whole session: :meth:`SlurmCluster.reset` it first."""
    with SlurmCluster(database=accounting_template()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_without_accounting() -> Iterator[SlurmCluster]:
    """A cluster that keeps no accounts, for the whole session."""
    with SlurmCluster(accounting=False) as cluster:
        yield cluster
