"""What people see of a failed simulation: its last words, once, on lines of their own."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli, write_command_ensemble
from tests.ensembles import write_ensemble

FULL = "echo No space left on device >&2; exit 1"


def test_a_command_that_failed_is_known_by_its_last_words_everywhere(tmp_path, cli: Cli) -> None:
    file = write_command_ensemble(tmp_path, [{"id": "a"}], ["sh", "-c", FULL], max_attempts=1)

    ran = cli("run", file)

    detail = "sh ended with exit status 1: No space left on device"
    assert ran.code == 1
    assert f"error: {detail}; log: " in ran.err
    for said in (ran.out, cli("status", file).out, cli("show", "a", "-f", file).out):
        assert detail in said
    assert cli("show", "a", "-f", file, "--json").json["detail"] == detail
    log = cli("logs", "a", "-f", file).out.splitlines()
    assert log[1:2] == ["No space left on device"]
    assert log[2].startswith(f"[error: {detail}, after ")


def test_several_lines_stand_below_each_other_and_on_one_line_in_tables(tmp_path, cli: Cli) -> None:
    script = "for n in 1 2 3; do echo this is line $n; done; exit 4"
    file = write_command_ensemble(tmp_path, [{"id": "a"}], ["sh", "-c", script], max_attempts=1)

    ran = cli("run", file)

    (line,) = (line for line in ran.err.splitlines() if " failed " in line and "; log: " in line)
    assert "exit status 4: this is line 1 | this is line 2 | this is line 3; log: " in line
    (row,) = (row for row in ran.out.splitlines() if row.startswith("error"))
    assert row.endswith("this is line 3")
    shown = cli("show", "a", "-f", file).out.splitlines()
    place = next(n for n, text in enumerate(shown) if text.startswith("detail"))
    assert shown[place].endswith("sh ended with exit status 4: this is line 1")
    assert [text.strip() for text in shown[place + 1 : place + 3]] == [
        "this is line 2",
        "this is line 3",
    ]


@pytest.mark.parametrize(
    "message",
    ["'9' * 5_000_000", "'\\x1b[2J\\x07' * 1000", "'two\\nlines'", "'\\ud800'", "'a\\0b'"],
)
def test_no_message_floods_or_controls_the_console(tmp_path, cli: Cli, message: str) -> None:
    model = f"def simulate(run): raise ValueError({message})"
    file = write_ensemble(tmp_path, [{"id": "a"}], model=model, max_attempts=1)

    ran = cli("run", file)

    assert ran.code == 1
    told = [ran, cli("status", file), cli("show", "a", "-f", file)]
    lines = [line for ended in told for text in (ended.out, ended.err) for line in text.split("\n")]
    assert max(map(len, lines)) <= 2100
    assert max(len(line) for line in ran.err.split("\n")) <= 600
    assert all(line.isprintable() for line in lines)
    assert any("ValueError: " in line for line in lines)
