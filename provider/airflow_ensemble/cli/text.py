"""Numbers, times and tables as text for people. Pure functions, no input or output."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_ensemble.engine.words import last_words, printable

#: ANSI colours by what they mean.
STYLES = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "strong": "1"}


def format_count(number: int, noun: str = "") -> str:
    """Return ``1,234`` or, with a noun, ``1 simulation`` and ``1,234 simulations``."""
    if not noun:
        return f"{number:,}"
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def format_duration(seconds: float) -> str:
    """Return a duration with the two units that matter, such as ``1 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d} h"


def format_rate(per_second: float) -> str:
    """Return a rate in the unit in which it is at least one, such as ``5.0/min``."""
    for scale, unit in ((1, "s"), (60, "min")):
        if per_second * scale >= 1:
            return f"{per_second * scale:,.1f}/{unit}"
    return f"{per_second * 3600:,.1f}/h"


def format_bytes(size: int) -> str:
    """Return a size such as ``1.2 MB``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def paint(text: str, style: str, enabled: bool) -> str:
    """Return the text in a colour of :data:`STYLES`, or as it is when colours are off."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if enabled and text else text


def render_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()
) -> str:
    """Return an aligned table.

    :param headers: the columns' names.
    :param rows: the cells, as many in each row as there are headers.
    :param right: names of the columns that are aligned to the right.
    """
    cells = [list(headers), *([_one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if header in right else cell.ljust(width)
            for cell, width, header in zip(row, widths, headers)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def render_fields(fields: Sequence[tuple[str, object]]) -> str:
    """Return one ``name  value`` line for each field, aligned; None is left out.

    Further lines of a value begin below its first one.
    """
    shown = [(name, value) for name, value in fields if value is not None and value != ""]
    width = max((len(name) for name, _ in shown), default=0)
    below = "\n" + " " * (width + 2)
    lines = (f"{name.ljust(width)}  {str(value).replace(chr(10), below)}" for name, value in shown)
    return "\n".join(lines)


def shorten(text: str, width: int) -> str:
    """Return the text in at most ``width`` characters, on one line."""
    line = _one_line(text)
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def _one_line(cell: object) -> str:
    return " ".join(printable(str(cell)).split())


def last_line(text: str) -> str:
    """Return the last line of what a command said."""
    return last_words(text.encode("utf-8", "replace"), max_lines=1) or "it said nothing"
