"""Messages between a worker and its processes: one JSON object a line over a pipe.

JSON text never holds a raw newline, so that whatever else gets into the pipe is found out at the
next one. Standard library only.
"""

from __future__ import annotations

import json
import os
from typing import Any

#: Longer lines are no messages of ours.
MAX_LINE = 64 << 20
_BLOCK = 1 << 18


class Garbled(Exception):
    """Something that is no message."""


class Inbox:
    """The reading end of a pipe. What comes after garbage is not believed.

    :param descriptor: blocking or not, as its reader wants it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        #: Whether no more messages come.
        self.is_over = False
        #: What came that is no message.
        self.garbage: str | None = None
        self._rest = b""

    def read(self) -> list[dict[str, Any]]:
        """Read once and return the messages that are whole."""
        return self._split(self._read_block() or b"")

    def read_all(self) -> list[dict[str, Any]]:
        """Read a non-blocking pipe until nothing is left in it."""
        messages: list[dict[str, Any]] = []
        while data := self._read_block():
            messages.extend(self._split(data))
        return messages

    def _read_block(self) -> bytes | None:
        try:
            data = os.read(self.descriptor, _BLOCK)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        self.is_over = self.is_over or not data
        return data

    def _split(self, data: bytes) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if self.garbage is not None:
            return messages
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        try:
            messages.extend(map(parse, lines))
        except Garbled as garbled:
            self.garbage = str(garbled)
        if len(self._rest) > MAX_LINE:
            self.garbage = "a line without end"
        return messages


def parse(line: bytes) -> dict[str, Any]:
    """Read one message.

    :raises Garbled: when it is none.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Garbled(f"{line[:60]!r}") from error
    if not isinstance(message, dict):
        raise Garbled(f"{line[:60]!r}")
    return message


def render(message: dict[str, Any]) -> bytes:
    """Return the line of a message."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def send(descriptor: int, data: bytes) -> None:
    """Write all of some lines to a blocking pipe."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
