"""No input, however strange, gives a traceback: an error is one sentence, with its exit code.

More examples: ``pytest tests/cli/test_fuzz.py --hypothesis-profile=long``.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.cli import main
from airflow_ensemble.cli.application import FAULT
from tests.cli import fuzzing

ERROR = "ensemble: error: "
commands = st.sampled_from(fuzzing.COMMANDS)


@pytest.fixture(autouse=True)
def _nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no strange path reach the user's files, and no strange address the network."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


@contextlib.contextmanager
def good_ensemble(is_registered: bool) -> Iterator[Path]:
    """Give the folder of a good ensemble, and make it the current one."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as top:
        folder = Path(top) / "one" / "two" / "ensemble"
        file = fuzzing.write_good(folder)
        with contextlib.chdir(folder):
            if is_registered:
                assert call(["register", str(file)]) == 0
            yield folder


def call(arguments: Sequence[str]) -> int:
    """Run a command in this process, and hold what it says against the rules."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    said = err.getvalue()
    assert code in (0, 1, 2, 3)
    if "--debug" not in arguments:
        assert "Traceback" not in out.getvalue() + said
    assert FAULT not in said
    errors = [line for line in said.splitlines() if line.startswith(ERROR)]
    n_errors = len(errors) - (f"{ERROR}where it came up:" in errors)  # of --debug
    # `check` tells what is wrong as its result.
    assert n_errors == (code in (2, 3)) or (arguments[:1] == ["check"] and n_errors == 0)
    assert all(len(line) < 5000 for line in said.splitlines())
    return code


@given(fuzzing.files, commands, st.booleans())
def test_no_ensemble_file_gives_a_traceback(
    content: bytes, command: list[str], is_registered: bool
) -> None:
    with good_ensemble(is_registered) as folder:
        (folder / "ensemble.yaml").write_bytes(content)
        call([*command, "-f", "ensemble.yaml"])


@given(fuzzing.tables, commands, st.booleans())
def test_no_table_gives_a_traceback(
    table: fuzzing.Table, command: list[str], is_registered: bool
) -> None:
    with good_ensemble(is_registered) as folder:
        (folder / table.name).write_bytes(table.content)
        (folder / "ensemble.yaml").write_text(
            json.dumps({**fuzzing.GOOD, "simulations": table.name})
        )
        call([*command, "-f", "ensemble.yaml"])


@given(fuzzing.arguments)
def test_no_arguments_give_a_traceback(arguments: list[str]) -> None:
    with good_ensemble(is_registered=False):
        call(arguments)
