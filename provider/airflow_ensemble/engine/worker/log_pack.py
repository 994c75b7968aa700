"""Many logs in few files. Standard library only."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from airflow_ensemble.engine.storage import Appender, OutputRoot, pack_name

#: An object store gets a pack when this many bytes, or seconds, have come together.
PACK_SIZE = 8 << 20
PACK_AGE = 30.0


class LogPack:
    """The logs of one worker's completed simulations.

    A local root has one growing file. Objects cannot grow: there each pack is put once, when it is
    large or old enough, and the next one begins.

    :param root: the output root.
    :param hash8: its result folder.
    :param writer: the worker.
    :param token: the worker's token.
    """

    def __init__(self, root: OutputRoot, hash8: str, writer: str, token: str) -> None:
        self._root = root
        self._base = (hash8, writer, token)
        self._number = 1
        self._offset = 0
        self._appender: Appender | None = None
        self._pending = bytearray()
        self._born = 0.0

    def add(self, text: bytes) -> str:
        """Keep a log and return its place: the pack's name, ``#``, offset, ``:``, length."""
        place = f"{self._name}#{self._offset}:{len(text)}"
        self._offset += len(text)
        if self._root.is_local:
            if self._appender is None:
                self._appender = self._root.append(self._name)
            self._appender.write(text)
            return place
        self._born = self._born if self._pending else time.monotonic()
        self._pending += text
        if len(self._pending) >= PACK_SIZE or time.monotonic() - self._born >= PACK_AGE:
            self._put()
        return place

    def close(self) -> None:
        """Bring the rest into the root."""
        if self._appender is not None:
            self._appender.close()
        self._put()

    @property
    def _name(self) -> str:
        hash8, writer, token = self._base
        return pack_name(hash8, writer, token if self._root.is_local else f"{token}.{self._number}")

    def _put(self) -> None:
        if not self._pending:
            return
        with tempfile.TemporaryDirectory(prefix="ensemble-pack-") as folder:
            source = Path(folder) / "pack"
            source.write_bytes(self._pending)
            self._root.publish(source, self._name)
        self._pending.clear()
        self._number += 1
        self._offset = 0
