"""The log of one simulation while it runs: its beginning is kept, what is too much is counted.

Standard library only.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

#: Bytes of one simulation's output that are kept.
MAX_LOG = 16 << 20
_IN_MEMORY = 1 << 17


class Spool:
    """What a simulation has printed so far, in memory while it is short.

    :param folder: where a longer one is put aside.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._size = 0

    def __bool__(self) -> bool:
        return self._size > 0

    def write(self, data: bytes) -> None:
        """Add output; beyond the limit it is only counted."""
        room = max(0, MAX_LOG - self._size)
        self._size += len(data)
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
        """Return the last line that is not blank, for a one-line detail."""
        if self._file is None:
            return ""
        self._file.seek(0, 2)
        self._file.seek(max(0, self._file.tell() - 4096))
        lines = self._file.read().decode(errors="replace").split("\n")
        self._file.seek(0, 2)
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """Drop everything."""
        if self._file is not None:
            self._file.close()
