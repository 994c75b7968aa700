"""A wake-up for a thread that waits for descriptors. Standard library only."""

from __future__ import annotations

import contextlib
import os
import select


class Bell:
    """A descriptor that can be read from the moment that somebody rings until it is hushed."""

    def __init__(self) -> None:
        self._is_closed = False
        self._reading, self._writing = os.pipe()
        for descriptor in (self._reading, self._writing):
            os.set_blocking(descriptor, False)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._reading

    def ring(self) -> None:
        """End the present wait, or the next; from any thread and from signal handlers."""
        with contextlib.suppress(OSError):
            if not self._is_closed:
                os.write(self._writing, b"!")

    def hush(self) -> None:
        """Forget that somebody rang."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reading, 4096)

    def close(self) -> None:
        """Close the descriptor; ringing is harmless from now on."""
        self._is_closed = True
        for descriptor in (self._reading, self._writing):
            os.close(descriptor)


def wait_readable(descriptors: list[int], seconds: float) -> list[int]:
    """Return those of the descriptors that can be read, after a while at most."""
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poller.poll(max(0, round(seconds * 1000)))]
