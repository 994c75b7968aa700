"""The logs of simulations while they run: the beginning is kept, what is too much is counted.

Standard library only.
"""

from __future__ import annotations

import tempfile
from collections import deque
from pathlib import Path

from airflow_ensemble.engine.words import last_words

#: Bytes of one simulation's output that are kept.
MAX_LOG = 16 << 20
#: Bytes of its end that are at hand in any case: there it says why it ended.
MAX_END = 1 << 13
_IN_MEMORY = 1 << 17


class Spool:
    """What a simulation has printed so far, in memory while it is short.

    :param folder: where a longer one is put aside.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._size = 0
        self._end = b""

    def __bool__(self) -> bool:
        return self._size > 0

    def write(self, data: bytes) -> None:
        """Add output; beyond the limit it is only counted."""
        if not data:
            return
        room = max(0, MAX_LOG - self._size)
        self._size += len(data)
        self._end = (self._end + data[room:])[-MAX_END:]
        if not room:
            return
        if self._file is None:
            self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115
                _IN_MEMORY, dir=str(self._folder)
            )
        self._file.write(data[:room])

    def read(self) -> bytes:
        """Return what was kept, with a note where something was left out."""
        if self._file is None:
            return b""
        self._file.seek(0)
        kept = self._file.read()
        left_out = self._size - len(kept)
        if not left_out:
            return kept
        note = f"\n[output truncated: {left_out} bytes after the first {MAX_LOG} were left out]\n"
        return kept + note.encode()

    def last_line(self) -> str:
        """Return the last line that is not blank, printable and bounded."""
        return last_words(self._read_end(), max_lines=1)

    def last_words(self) -> str:
        """Return the last lines that are not blank, printable, as many as are worth keeping."""
        return last_words(self._read_end())

    def _read_end(self) -> bytes:
        if self._file is None or len(self._end) == MAX_END:
            return self._end
        self._file.seek(0, 2)
        self._file.seek(max(0, self._file.tell() - MAX_END))
        return self._file.read() + self._end

    def close(self) -> None:
        """Drop everything."""
        if self._file is not None:
            self._file.close()


def end_mark(secret: str) -> bytes:
    """Return what a process writes behind the output of each simulation.

    :param secret: of this process, so that no model writes the same by chance.
    """
    return f"\0{secret}\0".encode()


class LogReader:
    """Splits the output of one process into the logs of its simulations.

    The next simulation may have begun to print before the worker hears of the last one's end.

    :param folder: where longer logs are put aside.
    :param secret: see :func:`end_mark`.
    """

    def __init__(self, folder: Path, secret: str) -> None:
        self._folder = folder
        self._mark = end_mark(secret)
        self._rest = b""
        self._done: deque[Spool] = deque()
        self._current = Spool(folder)

    def write(self, data: bytes) -> None:
        """Take output as it comes."""
        *ended, last = (self._rest + data).split(self._mark)
        for part in ended:
            self._current.write(part)
            self._done.append(self._current)
            self._current = Spool(self._folder)
        # The mark itself may be cut in two.
        keep = next((n for n in range(len(self._mark) - 1, 0, -1) if self._is_begun(last, n)), 0)
        self._rest = last[len(last) - keep :]
        self._current.write(last[: len(last) - keep])

    def take(self) -> Spool:
        """Return the first log that has ended, or else the one that has not."""
        if self._done:
            return self._done.popleft()
        spool = self._current
        spool.write(self._rest)
        self._rest = b""
        self._current = Spool(self._folder)
        return spool

    def close(self) -> None:
        """Drop everything."""
        for spool in (*self._done, self._current):
            spool.close()

    def _is_begun(self, data: bytes, length: int) -> bool:
        return data.endswith(self._mark[:length])
