"""The worker's side of its warden (see :mod:`airflow_ensemble.engine.pool.warden`)."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.errors import EnsembleError
from airflow_ensemble.engine.pool import launch
from airflow_ensemble.engine.pool.channel import Inbox, render

_END_LIMIT = 10.0


class WardenLink:
    """A running warden.

    :param scratch: the directory that it removes in the end; None keeps it.
    """

    def __init__(self, scratch: Path | None) -> None:
        self._socket, far = socket.socketpair()
        with far:
            function = "airflow_ensemble.engine.pool.warden:main"
            self._process = subprocess.Popen(
                launch.command(function, far.fileno(), isolated=True),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[far.fileno()],
                start_new_session=True,
            )
        self.inbox = Inbox(self._socket.fileno())
        if scratch is not None:
            self._ask({"scratch": str(scratch)})

    @property
    def pid(self) -> int:
        """Return the warden's process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the descriptor on which it reports."""
        return self._socket.fileno()

    def start(self, number: int, descriptors: list[int], environment: Mapping[str, str]) -> None:
        """Have a process started.

        :param number: the pool's number for it.
        :param descriptors: its log, its tasks, its results.
        :param environment: variables to add to this process's own.
        """
        request = {
            "start": number,
            "command": launch.command("airflow_ensemble.engine.pool.child:main"),
            "environment": dict(environment),
        }
        data = render(request)
        with self._explained():
            sent = socket.send_fds(self._socket, [data], descriptors)
            self._socket.sendall(data[sent:])

    def kill(self, number: int) -> None:
        """Have a process killed, with everything below it."""
        self._ask({"kill": number})

    def reports(self) -> list[dict[str, Any]]:
        """Return what it has to say; waits when there is nothing.

        :raises EnsembleError: when it is gone.
        """
        messages = self.inbox.read()
        if self.inbox.is_over:
            raise EnsembleError(
                "the warden process, which starts and stops the simulations, was killed: "
                "run the worker again"
            )
        return messages

    def close(self) -> None:
        """End it; it kills all that is left and removes the scratch directory first."""
        self._socket.close()
        try:
            self._process.wait(_END_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, request: dict[str, Any]) -> None:
        with self._explained():
            self._socket.sendall(render(request))

    @contextlib.contextmanager
    def _explained(self) -> Any:
        try:
            yield
        except OSError as error:
            raise EnsembleError(f"the warden process does not answer ({error})") from error
