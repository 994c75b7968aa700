"""Answers of a real Slurm, word for word, as ``record.py`` wrote them down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Answer:
    """One command and what it answered.

    :param command: as the account gave it to its shell.
    """

    command: str
    code: int
    out: str
    err: str


def cases() -> list[str]:
    """Return the names of all that was recorded."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def recorded(case: str) -> list[Answer]:
    """Return the answers of one case, in the order in which they were given."""
    return parse((FOLDER / f"{case}.txt").read_text())


def find(case: str, beginning: str) -> Answer:
    """Return the first answer of a case to a command that begins so."""
    return next(one for one in recorded(case) if one.command.startswith(beginning))


def parse(text: str) -> list[Answer]:
    """Return the answers in a file's text; the README says how it is written."""
    answers = []
    for part in ("\n" + text).split("\n$ ")[1:]:
        command, code, *lines = part.split("\n")
        lines = lines[:-1] if lines and not lines[-1] else lines
        out = "".join(f"{line}\n" for line in lines if not line.startswith("! "))
        err = "".join(f"{line[2:]}\n" for line in lines if line.startswith("! "))
        answers.append(Answer(command, int(code[2:]), out, err))
    return answers


def render(answers: list[Answer]) -> str:
    """Return a file's text."""
    text = ""
    for one in answers:
        err = "".join(f"! {line}\n" for line in one.err.splitlines())
        out = one.out if not one.out or one.out.endswith("\n") else one.out + "\n"
        text += f"$ {one.command}\n= {one.code}\n{out}{err}"
    return text
