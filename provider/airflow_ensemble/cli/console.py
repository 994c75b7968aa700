"""Where the command writes: results to standard output, all else to standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from airflow_ensemble.cli.text import paint
from airflow_ensemble.engine.errors import UsageError


class OutputUnwritable(UsageError):
    """Standard output takes nothing more, for instance because its disk is full."""


@dataclass(frozen=True)
class Console:
    """What a command may say, and how.

    :param quiet: only results and errors.
    """

    quiet: bool = False

    def say(self, text: str = "") -> None:
        """Print a result.

        :raises OutputUnwritable: when standard output takes nothing more.
        """
        with _writing():
            print(text)

    def say_json(self, record: Mapping[str, Any]) -> None:
        """Print a result as JSON.

        :raises OutputUnwritable: when standard output takes nothing more.
        """
        with _writing():
            print(json.dumps(record, indent=2, allow_nan=False))

    def flush(self) -> None:
        """Make sure that all results are out.

        :raises OutputUnwritable: when standard output takes nothing more.
        """
        if sys.stdout is not None:
            with _writing():
                sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print what a person may want to know, unless asked to be quiet."""
        if not self.quiet:
            with contextlib.suppress(OSError):  # nobody reads it: no reason to stop what is done
                print(text, file=sys.stderr, flush=True)

    def style(self, text: str, style: str) -> str:
        """Return the text in colour, if standard output shows colours."""
        return paint(text, style, has_colors(sys.stdout))


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputUnwritable(f"standard output: {error.strerror or error}") from error


def has_colors(stream: TextIO) -> bool:
    """Return whether a stream shows colours: a terminal, and https://no-color.org agrees."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that understands cursor movements."""
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"
