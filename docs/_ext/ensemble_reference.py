"""Directives that write the reference from the program itself, so that the two cannot differ.

``.. ensemble-commands::`` describes every command from its argument parser.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from airflow_ensemble.cli.command import Command
from airflow_ensemble.cli.commands import COMMANDS
from airflow_ensemble.cli.parser import build_parser

#: Options that every command has: described once.
COMMON = ("help", "verbose", "quiet", "debug")


class EnsembleCommands(Directive):
    """One section for each command: usage, arguments, example, exit codes."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        parser = build_parser(COMMANDS)
        parsers = _subparsers(parser)
        sections = [_command_section(command, parsers[command.name]) for command in COMMANDS]
        return [_common_section(parser), *sections]


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise LookupError("the command line has no commands")


def _common_section(parser: argparse.ArgumentParser) -> nodes.section:
    section = nodes.section(ids=["common-options"], names=["common options"])
    section += nodes.title(text="Options of every command")
    section += _definitions(_arguments(parser))
    return section


def _command_section(command: Command, parser: argparse.ArgumentParser) -> nodes.section:
    section = nodes.section(ids=[f"ensemble-{command.name}"], names=[f"ensemble {command.name}"])
    section += nodes.title("", "", nodes.literal(text=f"ensemble {command.name}"))
    section += nodes.paragraph(text=command.summary)
    section += _listing(_usage(parser), "text")
    section += _definitions(_arguments(parser, without=COMMON))
    section += nodes.paragraph(text="Example:")
    section += _listing("\n".join(f"$ {line}" for line in command.example.splitlines()), "console")
    section += nodes.paragraph(text="Exit codes:")
    codes = sorted(command.exit_codes.items())
    section += _bullets(codes)
    return section


def _usage(parser: argparse.ArgumentParser) -> str:
    return parser.format_usage().removeprefix("usage: ").strip()


def _arguments(
    parser: argparse.ArgumentParser, without: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if action.dest in without or isinstance(action, argparse._SubParsersAction):
            continue
        value = action.metavar or action.dest.upper()
        value = " ".join(value) if isinstance(value, tuple) else value
        takes_value = action.nargs != 0
        names = [f"{name} {value}" if takes_value else name for name in action.option_strings]
        yield ", ".join(names) or value, (action.help or "") % _help_values(action)


def _help_values(action: argparse.Action) -> dict[str, Any]:
    return {**vars(action), "prog": "ensemble"}


def _definitions(rows: Any) -> nodes.definition_list:
    listing = nodes.definition_list()
    for name, meaning in rows:
        item = nodes.definition_list_item()
        item += nodes.term("", "", nodes.literal(text=name))
        item += nodes.definition("", nodes.paragraph(text=meaning))
        listing += item
    return listing


def _bullets(rows: Iterable[tuple[int, str]]) -> nodes.bullet_list:
    listing = nodes.bullet_list()
    for code, meaning in rows:
        text = nodes.paragraph("", "", nodes.literal(text=str(code)), nodes.Text(f" {meaning}"))
        listing += nodes.list_item("", text)
    return listing


def _listing(text: str, language: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language=language)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("ensemble-commands", EnsembleCommands)
    return {"version": "1", "parallel_read_safe": True}
