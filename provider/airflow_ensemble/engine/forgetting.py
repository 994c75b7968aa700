"""Forgetting simulations, so that neither ``rebuild`` nor a late outcome brings them back.

What is forgotten is written below the output root before it is removed from the index: a record
there outlives the index, as the outcome segments do.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from airflow_ensemble.engine.control import Ledger
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index.interface import Entry
from airflow_ensemble.engine.simulation import OWNED, canonical_json, check_id
from airflow_ensemble.engine.standing import blocks
from airflow_ensemble.engine.storage import forgotten_name, forgotten_prefix

log = logging.getLogger(__name__)

FORMAT = 1
#: Simulations that are forgotten in one transaction, and stand in one line of the record.
BLOCK = 1000


def forget(ledger: Ledger, entries: Iterable[Entry]) -> int:
    """Remove simulations from the index for good; their files become garbage.

    What is dispatched or running stays, and so does what was registered or tried again since it was
    looked up. Stopped half way, the same call does the rest.

    :param ledger: index, ensemble and output root.
    :param entries: the simulations, as the index has shown them.
    :return: how many were removed.
    """
    free = (entry for entry in entries if entry.status not in OWNED)
    removed = 0
    name = forgotten_name(ledger.hash8, secrets.token_hex(8))
    with closing(ledger.root.append(name)) as record:
        for block in blocks(free, BLOCK):
            record.write(render({entry.id: entry.attempt for entry in block}).encode())
            record.sync()
            removed += ledger.index.forget(ledger.key, block)
    return removed


def read_forgotten(ledger: Ledger) -> Iterator[Mapping[str, int]]:
    """Yield what was ever forgotten of an ensemble: ids, and how many attempts each had."""
    for name, _ in sorted(ledger.root.list(forgotten_prefix(ledger.hash8))):
        for line in ledger.root.read(name).splitlines():
            attempts = parse(line)
            if attempts is None:
                log.warning("%s: passed over an unreadable line", name)
            else:
                yield attempts


def render(attempts: Mapping[str, int]) -> str:
    """Return the one line that says what was forgotten, newline included."""
    return canonical_json({"record": "forgotten", "format": FORMAT, "attempts": attempts}) + "\n"


def parse(line: bytes) -> Mapping[str, int] | None:
    """Read a line of :func:`render`; None when it is none."""
    try:
        values: Any = json.loads(line)
        attempts = values["attempts"]
        if values["record"] != "forgotten" or not all(map(_is_count, attempts.values())):
            return None
        return {check_id(id): attempt for id, attempt in attempts.items()}
    except (ValueError, KeyError, TypeError, AttributeError, UsageError):
        return None


def _is_count(value: object) -> bool:
    """Say whether a value is a number that the index can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
