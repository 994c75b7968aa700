from __future__ import annotations

import argparse

import pytest

from airflow_ensemble.cli.commands import COMMANDS
from airflow_ensemble.cli.opening import find_file, parse_settings
from airflow_ensemble.cli.parser import build_parser
from airflow_ensemble.engine.errors import UsageError

DESIGNED = {
    *("init", "check", "run", "register", "status", "show", "logs", "retry", "cancel"),
    *("reconcile", "rebuild", "collect", "forget", "gc", "manifests"),
    *("push-worker", "pull-worker", "serve", "worker-bundle"),
}


def test_every_designed_command_is_there():
    assert {command.name for command in COMMANDS} == DESIGNED


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as end:
        build_parser(COMMANDS).parse_args([command.name, "--help"])

    assert end.value.code == 0
    text = capsys.readouterr().out
    flat = " ".join(text.split())
    assert command.summary.endswith(".")
    assert command.summary in flat
    assert f"ensemble {command.name}" in text.split("example:\n")[1]
    assert "exit codes:\n  0  " in text
    assert command.exit_codes.keys() <= {0, 1, 2, 3}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_examples_are_valid_command_lines(command):
    parser = build_parser(COMMANDS)
    for line in command.example.splitlines():
        for part in line.split("&&"):
            words = part.split("|")[0].split()
            assert words[0] == "ensemble"
            parser.parse_args(words[1:])


def test_top_help_shows_the_usual_order_and_the_exit_codes():
    text = build_parser(COMMANDS).format_help()
    steps = [f"  ensemble {step}" for step in ("init", "check", "run --first", "status", "logs")]
    positions = [text.index(step) for step in steps]
    assert positions == sorted(positions)
    assert "0  all complete    1  some failed    2  wrong input or usage    3  interrupted" in text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["statsu"], ["statsu", "did you mean 'status'"]),
        (["run", "--frist", "3"], ["--frist", "did you mean '--first'?", "`ensemble run --help`"]),
        (["run", "--xyz=3"], ["unrecognized arguments: --xyz=3 — see"]),
        (["run", "--first", "0"], ["--first", "at least 1"]),
        (["run", "--n-workers", "many"], ["--n-workers", "many"]),
        (["show"], ["ID"]),
    ],
)
def test_wrong_arguments_are_named(argv, words):
    with pytest.raises(UsageError) as caught:
        build_parser(COMMANDS).parse_args(argv)
    for word in [*words, "--help"]:
        assert word in str(caught.value)


@pytest.mark.parametrize("argv", [["-v", "-v", "status"], ["status", "-vv"]])
def test_verbosity_may_stand_before_and_after_the_command(argv):
    assert build_parser(COMMANDS).parse_args(argv).verbose == 2


def test_settings_are_yaml():
    pairs = ["parameters.n_hours=-6", "output=s3://b/a=b", "skip_existing=false", "x=[1, 2]"]
    assert parse_settings(pairs) == {
        "parameters.n_hours": -6,
        "output": "s3://b/a=b",
        "skip_existing": False,
        "x": [1, 2],
    }


@pytest.mark.parametrize("pair", ["no-equals", "=3", "x=[1"])
def test_settings_that_are_none(pair):
    with pytest.raises(UsageError, match="--set"):
        parse_settings([pair])


def test_the_file_is_found_by_folder_and_refused_twice(tmp_path):
    file = tmp_path / "ensemble.yaml"
    file.write_text("")
    names = {"positional_file": str(tmp_path), "file": None}
    assert find_file(argparse.Namespace(**names)) == file
    with pytest.raises(UsageError, match="two ensemble files"):
        find_file(argparse.Namespace(positional_file="a", file="b"))
    with pytest.raises(UsageError, match="ensemble init"):
        find_file(argparse.Namespace(positional_file=str(tmp_path / "no.yaml"), file=None))
