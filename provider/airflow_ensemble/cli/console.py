"""Where the command writes: results to standard output, all else to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from airflow_ensemble.cli.text import paint


@dataclass(frozen=True)
class Console:
    """What a command may say, and how.

    :param quiet: only results and errors.
    """

    quiet: bool = False

    def say(self, text: str = "") -> None:
        """Print a result."""
        print(text)

    def say_json(self, record: Mapping[str, Any]) -> None:
        """Print a result as JSON."""
        print(json.dumps(record, indent=2, allow_nan=False))

    def note(self, text: str) -> None:
        """Print what a person may want to know, unless asked to be quiet."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def style(self, text: str, style: str) -> str:
        """Return the text in colour, if standard output shows colours."""
        return paint(text, style, has_colors(sys.stdout))


def has_colors(stream: TextIO) -> bool:
    """Return whether a stream shows colours: a terminal, and https://no-color.org agrees."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that understands cursor movements."""
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"
