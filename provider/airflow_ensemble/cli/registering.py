"""Registering from the command line, and saying what came of it."""

from __future__ import annotations

import secrets
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import file_option
from airflow_ensemble.cli.standing import describe_others
from airflow_ensemble.cli.text import format_count

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.index.interface import OutputIndex, Registration
    from airflow_ensemble.engine.recipe import Recipe, Settings


def add_register_options(parser: ArgumentParser) -> None:
    """Add what decides about simulations that the index knows already."""
    parser.add_argument(
        "--no-skip",
        action="store_true",
        help="run complete and failed ones again; older results stay until newer ones are complete",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="accept changed parameters of ids that are known, and run those again",
    )


def new_batch_key() -> str:
    """Return a key that names one run of the command, such as ``cli/20250131T120000Z-1a2b3c4d``."""
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return f"cli/{now}-{secrets.token_hex(4)}"


def register_batch(
    control: Control, args: Namespace, console: Console, batch_key: str
) -> Registration:
    """Register the table under a batch key, and say what came of it.

    :raises UsageError: on anything wrong with it; nothing is changed then.
    """
    from airflow_ensemble.cli.slurm.place import make_settlers
    from airflow_ensemble.engine.batch import register

    changes = changed_settings(control.index, control.recipe)
    registration = register(
        control,
        batch_key,
        skip_existing=False if args.no_skip else None,
        replace=args.replace,
        first=args.first,
        settlers=make_settlers(control.ensemble),
    )
    for change in changes:
        console.note(f"changed: {change}")
    facts = describe_registration(registration, file_option(args))
    others = control.index.counts(control.key).total - registration.total
    if others > 0 and args.first is None:
        facts.append(describe_others(others, file_option(args)))
    for fact in facts:
        console.note(fact)
    return registration


def describe_registration(registration: Registration, file_option: str = "") -> list[str]:
    """Return what a registration found, one fact a line.

    :param registration: what it found.
    :param file_option: what hints need to name the same ensemble.
    """
    facts = [
        f"{format_count(registration.total, 'simulation')}: {registration.new:,} new, "
        f"{registration.pending:,} to run"
    ]
    if registration.complete:
        facts.append(f"{registration.complete:,} complete already: skipped (--no-skip runs again)")
    if registration.reopened:
        facts.append(f"{registration.reopened:,} reopened as generation {registration.generation}")
    if registration.failed:
        facts.append(
            f"{registration.failed:,} failed earlier and will not run again: "
            f"`ensemble retry --all{file_option}` sends them back, `ensemble status{file_option}` "
            "says why they failed"
        )
    if registration.elsewhere:
        facts.append(
            f"{registration.elsewhere:,} belong to another run at this moment: "
            f"`ensemble run --wait{file_option}` waits for them"
        )
    return facts


def changed_settings(index: OutputIndex, recipe: Recipe) -> list[str]:
    """Return which settings changed since the last run; nothing when these are known.

    :param index: the open index, before the registration.
    :param recipe: what the ensemble file gives now.
    """
    known = index.ensembles(recipe.ensemble)
    if not known or any(key.settings_hash == recipe.settings.hash for key in known):
        return []
    return differences(index.recipe(known[0]).settings, recipe.settings)


def differences(before: Settings, after: Settings) -> list[str]:
    """Return one ``key: old → new`` for each setting that differs."""
    old, new = _as_written(before), _as_written(after)
    return [
        f"{key}: {old.get(key, 'unset')} → {new.get(key, 'unset')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _as_written(settings: Settings) -> dict[str, Any]:
    from airflow_ensemble.engine.parameters import take_apart

    parameters = take_apart(settings.parameters)
    shown = {**parameters.values, **parameters.written}
    return _flatten({**settings.as_dict(), "parameters": shown})


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
