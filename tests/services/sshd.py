"""A private OpenSSH server on loopback for tests, that lets in the account that runs them."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import pytest

from airflow_ensemble.slurm.login import Login

INSTALL_HINT = (
    "sshd was not found: install OpenSSH's server, for example with "
    "`apt-get install openssh-server`; the tests of the SSH runners run against a real one"
)
#: What sshd asks for before it starts: the folder of its unprivileged half.
PRIVILEGE_SEPARATION = Path("/run/sshd")


class SshServer:
    """A running sshd with keys and a port of its own.

    :param options: lines of sshd_config, each instead of the one of that name here.
    """

    def __init__(self, *options: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ensemble-sshd-"))
        self.port = free_port()
        self.user = getpass.getuser()
        self.log = self.root / "sshd.log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions_left: list[psutil.Process] = []
        make_key(self.root / "host_key")
        make_key(self.root / "user_key")
        shutil.copy(self.root / "user_key.pub", self.root / "authorized_keys")
        self.start()

    @property
    def host_key(self) -> str:
        """Return the host's public key, type and base64."""
        return " ".join((self.root / "host_key.pub").read_text().split()[:2])

    @property
    def private_key(self) -> str:
        """Return the text of the key that the server lets in."""
        return (self.root / "user_key").read_text()

    def login(self, **changes: Any) -> Login:
        """Return what is needed to get in, changed as asked."""
        settings: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": self.user,
            "private_key": self.private_key,
            "host_key": self.host_key,
        }
        return Login(**{**settings, **changes})

    def allow(self, public_key: str) -> None:
        """Let another key in."""
        with (self.root / "authorized_keys").open("a") as stream:
            stream.write(public_key.strip() + "\n")

    def new_host_key(self) -> None:
        """Become another host, as far as clients can tell; takes effect with the next start."""
        for name in ("host_key", "host_key.pub"):
            (self.root / name).unlink()
        make_key(self.root / "host_key")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
        assert program, INSTALL_HINT
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        configuration = self.root / "sshd_config"
        configuration.write_text("\n".join((*self._options, *self._defaults())) + "\n")
        self._process = subprocess.Popen(
            [program, "-D", "-f", str(configuration), "-E", str(self.log)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop listening; connections that exist go on."""
        process, self._process = self._process, None
        if process is not None:
            self._sessions_left = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(10)

    def kill(self) -> None:
        """Cut every connection and stop listening, without a farewell."""
        process, self._process = self._process, None
        if process is not None:
            self._sessions_left = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait(10)
        self._end_sessions()

    def cut(self) -> None:
        """Cut every connection, without a farewell, and go on listening."""
        assert self._process is not None
        self._sessions_left = psutil.Process(self._process.pid).children(recursive=True)
        self._end_sessions()

    def pause(self) -> None:
        """Let the server and its connections stand still, as a machine that swaps does."""
        for process in self._processes():
            process.suspend()

    def resume(self) -> None:
        """Let everything go on."""
        for process in self._processes():
            process.resume()

    @property
    def accepted(self) -> int:
        """Return how many connections have been logged in so far."""
        return self.log.read_text().count("Accepted publickey")

    def close(self) -> None:
        """Stop everything and remove its files."""
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> SshServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _defaults(self) -> list[str]:
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.root / 'host_key'}",
            f"AuthorizedKeysFile {self.root / 'authorized_keys'}",
            f"PidFile {self.root / 'sshd.pid'}",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            "MaxSessions 100",
            "MaxStartups 200:30:400",
            "LogLevel VERBOSE",
            "Subsystem sftp internal-sftp",
            # What a person's shell begins with takes its time, and may leave a lock when it is cut.
            f"SetEnv HOME={self.root}",
        ]
        given = {option.split()[0] for option in self._options}
        return [line for line in lines if line.split()[0] not in given]

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def _end_sessions(self) -> None:
        for process in self._sessions_left:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(self._sessions_left, timeout=10)
        self._sessions_left = []

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            assert self._process is not None
            log = self.log.read_text() if self.log.exists() else ""
            assert self._process.poll() is None, f"sshd did not start:\n{log[-2000:]}"
            assert time.monotonic() < deadline, f"sshd does not answer:\n{log[-2000:]}"
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                    if probe.recv(4) == b"SSH-":
                        return
            except OSError:
                pass
            time.sleep(0.02)


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "", *options: str) -> None:
    """Make a key pair as people do."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)]
    if kind == "rsa":
        command += ["-b", "2048"]  # the smallest that is let in, and the quickest to find
    subprocess.run([*command, *options], check=True, stdin=subprocess.DEVNULL)


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def sshd() -> Iterator[SshServer]:
    """An SSH server for the whole session, which no test may change or stop."""
    with SshServer() as server:
        yield server


@pytest.fixture
def own_sshd() -> Iterator[SshServer]:
    """An SSH server that a test may stop, cut and change."""
    with SshServer() as server:
        yield server
