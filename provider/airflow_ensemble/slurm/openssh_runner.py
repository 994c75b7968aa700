"""Commands and files of a cluster over a connection that a person has opened.

Sites with one-time passwords let no program log in. There, an operator opens an OpenSSH
ControlMaster by hand, and this runner uses its socket through the system's ``ssh``. It never dials
and never asks for anything: without a master it says how to open one.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from airflow_ensemble.slurm import remote_shell
from airflow_ensemble.slurm.errors import AccessRefused, OutcomeUnknown, Unreachable
from airflow_ensemble.slurm.runner import Completed
from airflow_ensemble.slurm.sftp_files import FILE_TIMEOUT, SshRunner
from airflow_ensemble.slurm.ssh_connection import route

if TYPE_CHECKING:
    import paramiko

    from airflow_ensemble.slurm.login import Login

#: What ``ssh`` ends with when it is the one that failed.
_SSH_FAILED = 255
#: How ``ssh`` says that no session was begun, so that nothing was done.
_NOT_BEGUN = (
    "Control socket connect",
    "Session open refused",
    "session request failed",
    "mux_client_hello_exchange",
    "Connection closed by UNKNOWN",
)


class OpenSshRunner(SshRunner):
    """Runs on a login node through the socket of an open ControlMaster.

    :param login: host and user, and the socket as ``control_path``; nothing else of it is used.
    """

    def __init__(self, login: Login) -> None:
        super().__init__()
        self._login = login
        self._hop = route(login)[-1]
        self._socket = str(Path(login.control_path or "").expanduser())

    @property
    def place(self) -> str:
        """See :attr:`Runner.place`."""
        return self._hop.name

    def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0) -> Completed:
        """See :meth:`Runner.run`."""
        self._check_master()
        command, data = remote_shell.wrap(script)
        done = self._ssh([self._target, command], data + input, timeout)
        completed = remote_shell.unwrap(done.stdout, done.stderr)
        if completed is not None:
            return completed
        answer = done.stderr.decode("utf-8", "replace").strip()
        if remote_shell.has_begun(done.stdout):
            raise OutcomeUnknown(
                f"the connection to {self.place} broke in the middle of a command: {answer}"
            )
        if done.returncode != _SSH_FAILED:
            raise AccessRefused(remote_shell.refusal(self.place, done.stdout, done.stderr))
        if any(word in answer for word in _NOT_BEGUN):
            raise Unreachable(f"{self.place} began no session in the open connection: {answer}")
        raise OutcomeUnknown(f"the connection to {self.place} broke around a command: {answer}")

    def close(self) -> None:
        """See :meth:`Runner.close`. The master is the operator's and stays open."""
        self._close_files()

    @property
    def _target(self) -> str:
        return f"{self._hop.user}@{self._hop.host}"

    def _open_files(self) -> paramiko.SFTPClient:
        import paramiko

        self._check_master()
        channel = PipeChannel(self._command(["-s", self._target, "sftp"]), FILE_TIMEOUT)
        try:
            # paramiko asks no more of a channel than PipeChannel has.
            return paramiko.SFTPClient(cast("paramiko.Channel", channel))
        except (EOFError, OSError, paramiko.SSHException, paramiko.SFTPError) as error:
            answer = channel.farewell() or str(error)
            if any(word in answer for word in _NOT_BEGUN):
                raise Unreachable(f"{self.place} began no SFTP session: {answer}") from error
            raise AccessRefused(
                f"{self.place} runs commands but does not speak SFTP ({answer}): its sshd needs a "
                "line 'Subsystem sftp internal-sftp', or the account's start-up files print "
                "something in shells that nobody sees"
            ) from error

    def _check_master(self) -> None:
        """See that somebody has opened the connection, before anything is sent over it."""
        try:
            done = self._ssh(["-O", "check", self._target], b"", self._login.connect_timeout)
        except OutcomeUnknown as error:
            raise Unreachable(
                f"the master connection to {self.place} at {self._socket} stands still: end it "
                f"with `kill`, and open it anew with: {self._opening_command()}"
            ) from error
        if done.returncode != 0:
            answer = done.stderr.decode("utf-8", "replace").strip()
            raise Unreachable(
                f"no master connection to {self.place} is open at {self._socket} ({answer}). Open "
                f"it on this machine, as this account, with: {self._opening_command()}"
            )

    def _opening_command(self) -> str:
        words = ["ssh", "-fNM", "-S", self._socket, "-o", "ControlPersist=yes"]
        words += ["-o", "ServerAliveInterval=30"]
        if self._hop.port != 22:
            words += ["-p", str(self._hop.port)]
        if self._login.proxy_jump:
            words += ["-J", self._login.proxy_jump]
        return shlex.join([*words, self._target])

    def _ssh(
        self, arguments: list[str], data: bytes, timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                self._command(arguments), input=data, capture_output=True, timeout=timeout
            )
        except FileNotFoundError as error:
            raise AccessRefused(
                "the program ssh is not on the PATH here: install OpenSSH's client"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise OutcomeUnknown(
                f"a command did not end within {timeout:g} s on {self.place}; it may still run"
            ) from error

    def _command(self, arguments: list[str]) -> list[str]:
        # Without its master, ssh would dial by itself, and at a site with one-time passwords a
        # program's vain logins lock the account: the proxy that fails keeps it from that.
        options = ["BatchMode=yes", "ControlMaster=no", "ProxyCommand=false", "LogLevel=ERROR"]
        # The port is for sockets whose name has a %p or a %C in it.
        words = ["ssh", "-F", "none", "-T", "-S", self._socket, "-p", str(self._hop.port)]
        for option in options:
            words += ["-o", option]
        return [*words, *arguments]


class PipeChannel:
    """What paramiko's SFTP client needs of a channel, over the pipes of a program.

    :param command: the program, whose standard input and output speak SFTP.
    :param timeout: seconds that it may take to take or give something.
    """

    def __init__(self, command: list[str], timeout: float) -> None:
        self._is_closed = False
        self._timeout = timeout
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives with the program)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)

    @property
    def closed(self) -> bool:
        """Return whether nothing more can come."""
        return self._is_closed or self._process.poll() is not None

    def get_name(self) -> str:
        """Return a name for logs."""
        return str(self._process.pid)

    def send(self, data: bytes) -> int:
        """Send some bytes; return how many.

        :raises socket.timeout: when none could be sent in time.
        """
        self._wait(self._to, select.POLLOUT, self._timeout)
        try:
            return os.write(self._to, data)
        except BlockingIOError:
            time.sleep(0.01)
            return self.send(data)
        except OSError:
            self._is_closed = True
            raise EOFError from None

    def recv(self, size: int) -> bytes:
        """Return some bytes; none at the end.

        :raises socket.timeout: when none came in time.
        """
        self._wait(self._from, select.POLLIN, self._timeout)
        data = os.read(self._from, size)
        self._is_closed = self._is_closed or not data
        return data

    def recv_ready(self) -> bool:
        """Return whether bytes have come."""
        return _is_ready(self._from, select.POLLIN, 0)

    def farewell(self) -> str:
        """Close, and return what the program had to say."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self.close(keep_errors=True)
        self._errors.seek(0)
        answer = self._errors.read().decode("utf-8", "replace").strip()
        self._errors.close()
        return answer

    def close(self, *, keep_errors: bool = False) -> None:
        """End the program."""
        self._is_closed = True
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not keep_errors:
            self._errors.close()

    def _wait(self, descriptor: int, event: int, timeout: float) -> None:
        if self._process.stdin is None or self._process.stdin.closed:
            raise EOFError
        if not _is_ready(descriptor, event, timeout):
            raise socket.timeout("timed out")


def _is_ready(descriptor: int, event: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(1000 * timeout))
