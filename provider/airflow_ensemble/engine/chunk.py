"""Chunk files: written once, read anywhere.

A chunk file is JSON Lines. The first line is the header: format version, the index's uuid, batch,
chunk, submission, the recipe, and the count and checksum of the lines that follow, one per
simulation with its attempt number. A resubmission is a new file; a file never changes.
Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.recipe import Recipe
from airflow_ensemble.engine.simulation import Resources, Simulation, canonical_json

FORMAT = 1
READABLE_FORMATS = (1,)


@dataclass(frozen=True)
class Assignment:
    """A simulation together with the attempt under which it is to run.

    :param simulation: what to run.
    :param attempt: the number that the index gave to this attempt.
    :param generation: the generation that the attempt belongs to.
    """

    simulation: Simulation
    attempt: int
    generation: int = 1


@dataclass(frozen=True)
class Chunk:
    """An immutable, self-contained list of assignments.

    :param index: uuid of the output index that owns the simulations.
    :param batch: the dispatch that made the chunk.
    :param id: the chunk's id, unique in the index.
    :param submission: 1 for the first file of the chunk, one more for each resubmission.
    :param recipe: what the worker must know of the ensemble.
    :param assignments: what to run.
    """

    index: str
    batch: str
    id: str
    submission: int
    recipe: Recipe
    assignments: tuple[Assignment, ...]

    @property
    def file_name(self) -> str:
        """Return the name of the chunk's file."""
        return f"{self.id}.{self.submission}.jsonl"


def lock_path(chunk_file: Path) -> Path:
    """Return the lock file that whoever executes a chunk file holds."""
    return chunk_file.with_name(chunk_file.name + ".lock")


def cancel_path(folder: Path, chunk: str) -> Path:
    """Return the file that names a chunk's cancelled simulations, one a line, or ``*``."""
    return folder / f"{chunk}.cancel"


def write_chunk(folder: Path, chunk: Chunk) -> Path:
    """Write a chunk file aside and rename it; an equal file that exists already is kept.

    :return: its path.
    :raises UsageError: when a different chunk stands there.
    """
    path = folder / chunk.file_name
    text = render_chunk(chunk)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise UsageError(f"{path} exists and differs: chunk files are never overwritten")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{chunk.file_name}.{os.getpid()}"
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    return path


def read_chunk(path: Path) -> Chunk:
    """Read and verify a chunk file.

    :raises UsageError: naming the file and what is wrong with it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"chunk file {path} cannot be read: {error}") from error
    try:
        return parse_chunk(text)
    except UsageError as error:
        raise UsageError(f"chunk file {path}: {error}") from error


def render_chunk(chunk: Chunk) -> str:
    """Return the text of a chunk file."""
    body = "".join(_assignment_line(assignment) for assignment in chunk.assignments)
    header = {
        "format": FORMAT,
        "index": chunk.index,
        "batch": chunk.batch,
        "chunk": chunk.id,
        "submission": chunk.submission,
        "recipe": chunk.recipe.as_dict(),
        "count": len(chunk.assignments),
        "checksum": hashlib.sha256(body.encode()).hexdigest(),
    }
    return canonical_json(header) + "\n" + body


def parse_chunk(text: str) -> Chunk:
    """Read the text of a chunk file.

    :raises UsageError: when it is not one, is cut short, or was changed.
    """
    first, _, body = text.partition("\n")
    try:
        header = json.loads(first)
        version = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"corrupt header, this is not a chunk file ({error})") from error
    if version not in READABLE_FORMATS:
        raise UsageError(
            f"chunk format {version} is not one of {READABLE_FORMATS}: use the version of "
            "airflow-provider-ensemble that wrote it"
        )
    if hashlib.sha256(body.encode()).hexdigest() != header.get("checksum"):
        raise UsageError("corrupt: the checksum of its simulations does not match its header")
    return Chunk(
        index=header["index"],
        batch=header["batch"],
        id=header["chunk"],
        submission=header["submission"],
        recipe=Recipe.from_dict(header["recipe"]),
        assignments=tuple(_parse_assignments(body.splitlines())),
    )


def _assignment_line(assignment: Assignment) -> str:
    simulation = assignment.simulation
    record: dict[str, Any] = {
        "id": simulation.id,
        "attempt": assignment.attempt,
        "generation": assignment.generation,
        "params": dict(simulation.params),
    }
    if simulation.resources != Resources():
        record["resources"] = simulation.resources.as_dict()
    if simulation.time_limit is not None:
        record["time_limit"] = simulation.time_limit
    return canonical_json(record) + "\n"


def _parse_assignments(lines: Iterable[str]) -> Iterable[Assignment]:
    for line in lines:
        record: Mapping[str, Any] = json.loads(line)
        simulation = Simulation(
            id=record["id"],
            params=record["params"],
            resources=Resources(**record.get("resources", {})),
            time_limit=record.get("time_limit"),
        )
        yield Assignment(simulation, record["attempt"], record["generation"])
