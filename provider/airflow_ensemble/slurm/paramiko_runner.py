"""Commands and files of a cluster over one SSH connection of paramiko's.

One connection serves everything, a channel of it each command, so that sites see one login per
process. It is made when it is first needed, and again when it was lost.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_ensemble.slurm import remote_shell
from airflow_ensemble.slurm.errors import AccessRefused, OutcomeUnknown, Unreachable
from airflow_ensemble.slurm.runner import Completed
from airflow_ensemble.slurm.sftp_files import FILE_TIMEOUT, SshRunner
from airflow_ensemble.slurm.ssh_connection import SshConnection, connect, route

if TYPE_CHECKING:
    import paramiko

    from airflow_ensemble.slurm.login import Login

_BLOCK = 32768
#: Seconds between two looks at a channel that may take more input.
_SENDING_PAUSE = 0.02
#: How often to ask for a session that the server refuses, and seconds in between: one that was
#: closed is not free at once.
_SESSION_TRIES = 20
_SESSION_PAUSE = 0.1


class ParamikoRunner(SshRunner):
    """Runs on a login node over SSH; it connects when it is first used.

    :param login: where and as whom.
    :raises UsageError: when ``proxy_jump`` cannot be read.
    """

    def __init__(self, login: Login) -> None:
        super().__init__()
        self._login = login
        self._route = route(login)
        self._connection: SshConnection | None = None

    @property
    def place(self) -> str:
        """See :attr:`Runner.place`."""
        return self._route[-1].name

    def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0) -> Completed:
        """See :meth:`Runner.run`."""
        import paramiko

        command, data = remote_shell.wrap(script)
        channel = self._open_channel()
        out, err = bytearray(), bytearray()
        broken = (EOFError, OSError, paramiko.SSHException)
        with _limited(channel, timeout) as limit, contextlib.suppress(*broken):
            channel.exec_command(command)
            _converse(channel, data + input, out, err)
        completed = remote_shell.unwrap(bytes(out), bytes(err))
        if completed is not None:
            return completed
        if limit.is_set():
            raise OutcomeUnknown(
                f"a command did not end within {timeout:g} s on {self.place}; it may still run"
            )
        if channel.exit_status != -1 and not remote_shell.has_begun(bytes(out)):
            raise AccessRefused(remote_shell.refusal(self.place, bytes(out), bytes(err)))
        raise OutcomeUnknown(f"the connection to {self.place} broke in the middle of a command")

    def close(self) -> None:
        """See :meth:`Runner.close`."""
        self._close_files()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open_files(self) -> paramiko.SFTPClient:
        import paramiko

        channel = self._open_channel()
        try:
            with _limited(channel, FILE_TIMEOUT):
                channel.invoke_subsystem("sftp")
                channel.settimeout(FILE_TIMEOUT)
                return paramiko.SFTPClient(channel)
        except (EOFError, OSError, paramiko.SSHException, paramiko.SFTPError) as error:
            channel.close()
            if self._connection is None or not self._connection.is_alive:
                raise self._closed(error) from error
            raise AccessRefused(
                f"{self.place} runs commands but does not speak SFTP ({error or 'no answer'}): its "
                "sshd needs a line 'Subsystem sftp internal-sftp', or the account's start-up files "
                "print something in shells that nobody sees"
            ) from error

    def _open_channel(self) -> paramiko.Channel:
        """Open a channel, over a new connection if the one there was is gone."""
        import paramiko

        was_connected = self._connection is not None
        try:
            return self._open_session()
        except (EOFError, OSError, paramiko.SSHException) as error:
            self.close()
            if not was_connected:
                raise self._closed(error) from error
        try:
            return self._open_session()
        except (EOFError, OSError, paramiko.SSHException) as error:
            self.close()
            raise self._closed(error) from error

    def _open_session(self) -> paramiko.Channel:
        """Open a channel; where a site allows only one at a time, instead of that for files."""
        import paramiko

        transport = self._connected().transport
        for _ in range(_SESSION_TRIES):
            try:
                return transport.open_session(timeout=self._login.connect_timeout)
            except paramiko.ChannelException as error:
                refusal = error
            self._close_files()
            time.sleep(_SESSION_PAUSE)
        raise Unreachable(
            f"{self.place} opens no more sessions in this connection (MaxSessions): {refusal.text}"
        )

    def _closed(self, error: Exception) -> Unreachable:
        return Unreachable(f"{self.place} closed the connection: {error or 'no answer'}")

    def _connected(self) -> SshConnection:
        if self._connection is not None and not self._connection.is_alive:
            self.close()
        if self._connection is None:
            self._connection = connect(self._route, self._login)
            self.connections += 1
        return self._connection


@contextlib.contextmanager
def _limited(channel: paramiko.Channel, timeout: float) -> Iterator[threading.Event]:
    """Close a channel after a time, which ends every wait on it; the event tells that it did."""
    is_over = threading.Event()

    def give_up() -> None:
        is_over.set()
        channel.close()

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield is_over
    finally:
        timer.cancel()


def _converse(channel: paramiko.Channel, data: bytes, out: bytearray, err: bytearray) -> None:
    """Send the input and collect the output, both at once, until the other side has ended."""
    rest = memoryview(data)
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    while True:
        if len(rest) and channel.send_ready():
            with contextlib.suppress(socket.error):  # it may end without reading everything
                rest = rest[channel.send(bytes(rest[:_BLOCK])) :]
            if not len(rest):
                channel.shutdown_write()
        is_over = channel.eof_received or channel.closed
        while channel.recv_ready():
            out += channel.recv(_BLOCK)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(_BLOCK)
        if is_over:
            break
        poll.poll(1000 * _SENDING_PAUSE if len(rest) else 1000)
    # The exit status comes after the last output.
    channel.status_event.wait(1)
    channel.close()
