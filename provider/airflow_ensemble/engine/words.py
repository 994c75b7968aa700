"""What programs said, for people: safe to print, and short. Pure functions.

Whatever a program writes may end in a terminal or a log: no escape sequence, no control character
and no endless line of it does. Standard library only.
"""

from __future__ import annotations

import re
import traceback

#: Lines and characters of a program's last words that are kept.
MAX_LINES = 10
MAX_WORDS = 1200
#: Characters of a detail, whatever said it.
MAX_DETAIL = 2000
#: Characters where one record is one line.
MAX_LINE = 300

_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor movements
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\n\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, links
    r"|\x1b[ -/]*[0-~]?"
)


def printable(text: str) -> str:
    """Return the text as a terminal would show it in the end, without what would control one.

    Lines stay. Of a line that a carriage return has written anew, the last state is shown.
    """
    if text.isprintable():
        return text
    lines = _ESCAPE.sub("", text).split("\n")
    return "\n".join("".join(map(_plain, _rewritten(line))) for line in lines)


def bounded(text: str, width: int = MAX_DETAIL) -> str:
    """Return the text in at most ``width`` characters: its beginning, and its end."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def one_line(text: str, width: int = MAX_LINE) -> str:
    """Return the text on one line of at most ``width`` characters, its own lines set apart."""
    # No line is worth more than this, and a long text is not worth its time.
    lines = printable(bounded(text, 20 * width)).split("\n")
    return bounded(" | ".join(filter(None, (" ".join(line.split()) for line in lines))), width)


def detail_of(text: str) -> str:
    """Return the text as the detail of an outcome: printable, and bounded."""
    return bounded(printable(bounded(text.strip(), 2 * MAX_DETAIL)))


def describe(error: BaseException) -> str:
    """Return an exception's type and message as the detail of an outcome."""
    if isinstance(error, SyntaxError):  # a traceback shows the line of code before the type
        return detail_of(f"{type(error).__name__}: {error}")
    return detail_of("".join(traceback.format_exception_only(type(error), error)))


def last_words(output: bytes, max_lines: int = MAX_LINES) -> str:
    """Return the last lines that are not blank, as many as fit.

    :param output: the end of what a program printed.
    """
    lines = printable(output.decode("utf-8", "replace")).split("\n")
    kept: list[str] = []
    room = MAX_WORDS
    for line in reversed([line.strip() for line in lines if line.strip()][-max_lines:]):
        if kept and len(line) >= room:
            break
        kept.append(bounded(line, room))
        room -= len(kept[-1]) + 1
    return "\n".join(reversed(kept))


def _rewritten(line: str) -> str:
    states = [state for state in line.split("\r") if state.strip()]
    return states[-1] if states else ""


def _plain(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "\ufffd"
