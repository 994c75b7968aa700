"""From arguments to an opened ensemble."""

from __future__ import annotations

import logging
import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ensemble.cli.command import DEFAULT_FILE
from airflow_ensemble.engine.errors import IndexMissing, UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex

log = logging.getLogger(__name__)


def find_file(args: Namespace) -> Path:
    """Return the path of the ensemble file that the arguments name.

    :raises UsageError: when it is named twice, when there is none, or when it cannot be looked for.
    """
    positional = getattr(args, "positional_file", None)
    if positional and args.file and positional != args.file:
        raise UsageError(f"two ensemble files are named, {positional} and -f {args.file}: name one")
    path = Path(positional or args.file or DEFAULT_FILE)
    _refuse_other_encodings(path)
    try:
        path = path / DEFAULT_FILE if path.is_dir() else path
        is_there = path.exists()
    except OSError as error:
        raise UsageError(f"the ensemble file {path} cannot be read: {error.strerror}") from error
    if not is_there:
        raise UsageError(
            f"there is no ensemble file {path}: name one, or write a starter with `ensemble init`"
        )
    return path


def _refuse_other_encodings(path: Path) -> None:
    """Refuse a path that no database and no JSON file can hold, before either is asked to.

    :raises UsageError: saying how to have another.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"the path {path.absolute()} is no text in the encoding of this session: rename its "
            "folders, or, when they show well elsewhere, set LC_ALL=C.UTF-8"
        ) from None


def file_option(args: Namespace) -> str:
    """Return what hints need to name the same ensemble: `` -f FILE``, and each ``--set``.

    Nothing where the default file is meant as it stands. With other settings the same file names
    other results.
    """
    named = getattr(args, "positional_file", None) or getattr(args, "file", None)
    option = f" -f {shlex.quote(named)}" if named and named != DEFAULT_FILE else ""
    return option + "".join(f" --set {shlex.quote(pair)}" for pair in args.settings)


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` arguments; values are YAML, so that numbers are numbers.

    :raises UsageError: naming the argument that is wrong.
    """
    from airflow_ensemble.engine.ensemble.yaml_text import parse_value

    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {pair}: write KEY=VALUE, such as parameters.n_hours=-6")
        settings[key.strip()] = parse_value(value, f"--set {pair}")
    return settings


def load_ensemble(args: Namespace) -> Ensemble:
    """Load the ensemble file that the arguments name, with what ``--set`` and the like change.

    :raises UsageError: naming file, key and what to do.
    """
    from airflow_ensemble.engine.ensemble import load

    path = find_file(args)
    overrides = parse_settings(args.settings)
    for argument, key in (("n_workers", "execution.n_workers"), ("backend", "execution.backend")):
        value = getattr(args, argument, None)
        if value is not None:
            overrides[key] = value
    return load(path, overrides)


@contextmanager
def opened(args: Namespace, *, create: bool = False, read_only: bool = False) -> Iterator[Control]:
    """Open the ensemble that the arguments name.

    :param create: make the index where there is none.
    :param read_only: nothing will be written: what readers should know is said.
    """
    from airflow_ensemble.engine.control import open_control

    with open_control(load_ensemble(args), create=create, read_only=read_only) as control:
        if read_only:
            warn_readers(control)
        yield control


def warn_readers(control: Control) -> None:
    """Say what keeps an index from telling the present truth about its ensemble."""
    made_for = control.index.recipe(control.key).output
    if made_for != control.ensemble.output:
        log.warning(
            "the index was made for the output root %s: this is a copy or was moved, and files are "
            "read from %s",
            made_for,
            control.ensemble.output,
        )
    warn_of_unread(control.index, control.key)


def warn_of_unread(index: OutputIndex, key: EnsembleKey) -> None:
    """Say that results may be missing which this account cannot bring into the index."""
    if not index.may_write and index.counts(key).unfinished:
        log.warning(
            "the index may only be read from here: results that have come since somebody who may "
            "write it last looked are not counted"
        )


def check_ids(control: Control, ids: Sequence[str]) -> None:
    """Refuse ids that the ensemble does not have, so that a slip of the pen changes nothing.

    :raises UsageError: naming all of them.
    """
    unknown = [id for id in ids if control.index.simulation(control.key, id) is None]
    if unknown:
        raise unknown_ids(control, unknown)


def unknown_ids(control: Control, ids: Sequence[str]) -> UsageError:
    """Return the error that names ids which the ensemble does not have."""
    named = ", ".join(map(repr, ids))
    return UsageError(
        f"ensemble {control.ensemble.name!r} has no simulation {named} with the present settings: "
        f"its ids stand in the table that {control.ensemble.path} names, and `ensemble register` "
        "or `ensemble run` brings new rows in"
    )


def open_existing_index(ensemble: Ensemble) -> OutputIndex | None:
    """Open the ensemble's index for reading if there is one; never make it.

    :raises UsageError: when it is there and cannot be used.
    """
    from airflow_ensemble.engine.index import open_index

    try:
        return open_index(ensemble.index_location(), read_only=True)
    except IndexMissing:
        return None


def find_key(index: OutputIndex, ensemble: Ensemble) -> EnsembleKey | None:
    """Return the ensemble as the index knows it with its present settings, or None."""
    settings_hash = ensemble.settings.hash
    keys = index.ensembles(ensemble.name)
    return next((key for key in keys if key.settings_hash == settings_hash), None)
