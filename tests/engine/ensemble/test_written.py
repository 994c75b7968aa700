"""Numbers and truth values reach a command as they were written, from wherever they came."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ensemble.cli.opening import parse_settings
from airflow_ensemble.engine.ensemble import Ensemble, load
from airflow_ensemble.engine.ensemble.written import (
    LongNumber,
    WrittenFloat,
    WrittenInt,
    read_number,
)
from airflow_ensemble.engine.ensemble.yaml_text import parse_value
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.parameters import as_argument, take_apart

FILE = """\
name: tests
command: [prog, "{x}"]
products: {out: {glob: "*"}}
output: ./output
"""
IN_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
#: As a person writes a number; as Python prints it; and the number itself.
NUMBERS = [
    ("1.10", 1.1), ("1.1", 1.1), ("1e5", 1e5), ("1E5", 1e5), ("100000.0", 1e5), ("1.", 1.0),
    (".5", 0.5), ("0.5", 0.5), ("-.5e-3", -0.0005), ("-0.0", -0.0), ("-0", 0), ("+3", 3), ("3", 3),
    ("1e22", 1e22), ("1e+22", 1e22), ("0.1000000000000000055511151231257827", 0.1),
    ("0.00001", 1e-5), ("0e5", 0.0), ("9223372036854775807", 2**63 - 1),
    ("-9223372036854775808", -(2**63)), ("1234567890123456789", 1234567890123456789),
]  # fmt: skip


def write(folder: Path, text: str) -> Path:
    path = folder / "ensemble.yaml"
    path.write_text(FILE + text, encoding="utf-8")
    return path


def argument(ensemble: Ensemble) -> str:
    """Return what ``{x}`` is for the first simulation."""
    values, written, _ = take_apart(
        ensemble.settings.parameters, next(ensemble.read_simulations()).params
    )
    return written.get("x", as_argument(values["x"]))


def ways(folder: Path, text: str) -> dict[str, Ensemble]:
    """Return ensembles that have been given ``x`` in each way that there is to write it."""
    (folder / "t.csv").write_text(f"id,x\na,{text}\n")
    (folder / "t.jsonl").write_text(f'{{"id": "a", "x": {text}}}\n')
    nothing = write(folder, "simulations: [{id: a}]\n")
    given = {"--set": load(nothing, parse_settings([f"parameters.x={text}"]))}
    given["parameters"] = load(
        write(folder, f"simulations: [{{id: a}}]\nparameters: {{x: {text}}}\n")
    )
    given["list"] = load(write(folder, f"simulations: [{{id: a, x: {text}}}]\n"))
    given["csv"] = load(write(folder, "simulations: t.csv\n"))
    if is_json(text):
        given["jsonl"] = load(write(folder, "simulations: t.jsonl\n"))
    return given


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_a_number_is_a_number_and_its_argument_is_as_written(
    tmp_path: Path, text: str, number: float
) -> None:
    for way, ensemble in ways(tmp_path, text).items():
        simulation = next(ensemble.read_simulations())
        values, written, _ = take_apart(ensemble.settings.parameters, simulation.params)
        assert repr(values["x"]) == repr(number), way
        assert argument(ensemble) == text, way
        assert ("x" in written) == (text != repr(number)), way
        assert type(values["x"]) is type(number), way


@IN_FOLDER
@given(st.from_regex(r"[-+]?[0-9]{0,20}\.?[0-9]{0,20}([eE][-+]?[0-9]{1,2})?", fullmatch=True))
def test_whatever_looks_like_a_number_reaches_a_command_as_written(
    tmp_path: Path, text: str
) -> None:
    if text.strip("-"):
        found = {argument(ensemble) for ensemble in ways(tmp_path, text).values()}
        assert found == {text}


@pytest.mark.parametrize("text", ["true", "false"])
def test_truth_values_reach_a_command_as_json_writes_them(tmp_path: Path, text: str) -> None:
    for way, ensemble in ways(tmp_path, text).items():
        simulation = next(ensemble.read_simulations())
        assert argument(ensemble) == text, way
        assert "$written" not in {**ensemble.settings.parameters, **simulation.params}, way


@pytest.mark.parametrize("text", ["True", "TRUE", "False", "FALSE"])
def test_other_spellings_of_truth_reach_a_command_as_written(tmp_path: Path, text: str) -> None:
    for way, ensemble in ways(tmp_path, text).items():
        params = next(ensemble.read_simulations()).params
        values = take_apart(ensemble.settings.parameters, params).values
        assert argument(ensemble) == text, way
        assert values["x"] is (text.lower() == "true"), way


@pytest.mark.parametrize("text", ["007", "1_000", "0x10", "1.2.3", "2015-12-10", "12:30", "1e"])
def test_what_is_no_number_is_a_text(tmp_path: Path, text: str) -> None:
    for way, ensemble in ways(tmp_path, text).items():
        params = next(ensemble.read_simulations()).params
        assert {**ensemble.settings.parameters, **params}["x"] == text, way


@pytest.mark.parametrize("text", ["1e400", "-1e400", "1e-400", "-0.1e-999", f"0.{'0' * 400}1"])
def test_numbers_that_a_float_does_not_hold_are_refused(tmp_path: Path, text: str) -> None:
    for way, ensemble_of in {
        "--set": lambda: load(write(tmp_path, "simulations: [{id: a}]\n"),
                              parse_settings([f"parameters.x={text}"])),
        "parameters": lambda: load(
            write(tmp_path, f"simulations: []\nparameters: {{x: {text}}}\n")
        ),
        "list": lambda: load(write(tmp_path, f"simulations: [{{id: a, x: [{text}]}}]\n")),
        "csv": lambda: load(write(tmp_path, "simulations: t.csv\n")),
        "jsonl": lambda: load(write(tmp_path, "simulations: t.jsonl\n")),
    }.items():  # fmt: skip
        (tmp_path / "t.csv").write_text(f"id,x\na,1.5\nb,{text}\n")
        (tmp_path / "t.jsonl").write_text(f'{{"id": "a", "x": {text}}}\n')
        with pytest.raises(UsageError, match=r"finite number|too large|told from zero"):
            list(ensemble_of().read_simulations())
        assert way


@pytest.mark.parametrize("text", ["0.0", "0e-400", "-0.000e5", "0." + "0" * 400])
def test_what_is_really_zero_is_zero(tmp_path: Path, text: str) -> None:
    for way, ensemble in ways(tmp_path, text).items():
        params = next(ensemble.read_simulations()).params
        assert {**ensemble.settings.parameters, **params}["x"] == 0, way
        assert argument(ensemble) == text, way


@pytest.mark.parametrize("text", ["9223372036854775808", "-9223372036854775809", "9" * 5000])
def test_whole_numbers_that_64_bits_do_not_hold_are_texts(tmp_path: Path, text: str) -> None:
    for way, ensemble in ways(tmp_path, text).items():
        params = next(ensemble.read_simulations()).params
        value = {**ensemble.settings.parameters, **params}["x"]
        assert (value, type(value)) == (text, str), way


def test_lists_and_mappings_are_json_with_numbers_as_written(tmp_path: Path) -> None:
    ensemble = load(
        write(tmp_path, "simulations: [{id: a}]\nparameters: {x: {b: [1.10, 1e5, +2, True], a: 2}}")
    )
    assert ensemble.settings.parameters["x"] == {"b": [1.1, 1e5, 2, True], "a": 2}
    assert argument(ensemble) == '{"a":2,"b":[1.10,1e5,2,true]}'
    plain = load(write(tmp_path, "simulations: [{id: a}]\nparameters: {x: [1.1, +2, .5]}"))
    assert plain.settings.parameters == {"x": [1.1, 2, 0.5]}


def test_what_prints_as_it_was_written_keeps_its_hash_and_digest(tmp_path: Path) -> None:
    text = "parameters: {x: 1.1, n: 3, flag: true, at: [0.5, -7], s: '1.10'}\n"
    ensemble = load(write(tmp_path, f"{text}simulations: [{{id: a, y: 2.5, ok: false}}]\n"))
    assert ensemble.settings.hash == "cffc08e8558b12fb"
    assert next(ensemble.read_simulations()).digest == "b022a12151607a74"


def test_one_and_ten_hundredths_is_not_the_row_that_one_and_a_tenth_was(tmp_path: Path) -> None:
    digests = set()
    for text in ("1.1", "1.10", "1.100", "'1.1'"):
        ensemble = load(write(tmp_path, f"simulations: [{{id: a, x: {text}}}]\n"))
        digests.add(next(ensemble.read_simulations()).digest)
    assert len(digests) == 4


def test_an_override_drops_how_the_file_wrote_the_value(tmp_path: Path) -> None:
    path = write(tmp_path, "simulations: [{id: a}]\nparameters: {x: 1.10, y: 2.0}\n")
    assert argument(load(path)) == "1.10"
    assert load(path, {"parameters": {"x": 1.1}}).settings.parameters == {"x": 1.1, "y": 2.0}


def test_a_rows_plain_value_is_not_the_common_one_as_written(tmp_path: Path) -> None:
    path = write(tmp_path, "simulations: [{id: a, x: 1.1}]\nparameters: {x: 1.10}\n")
    assert argument(load(path)) == "1.1"


@IN_FOLDER
@given(st.lists(st.sampled_from([text for text, _ in NUMBERS]), min_size=1, max_size=12))
def test_how_a_cell_was_written_does_not_depend_on_its_neighbours(
    tmp_path: Path, cells: list[str]
) -> None:
    path = write(tmp_path, "simulations: t.csv\n")
    with (tmp_path / "t.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "x"], *([f"s{n}", c] for n, c in enumerate(cells))])
    rows = [take_apart(simulation.params) for simulation in load(path).read_simulations()]
    assert [row.written.get("x", as_argument(row.values["x"])) for row in rows] == cells


# --- texts of the ensemble file -------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1.10", "1.1", "1e5", "2", "+2", "007", "1e400", "1" * 30])
def test_versions_arguments_and_options_are_texts_as_written(tmp_path: Path, text: str) -> None:
    ensemble = load(
        write(tmp_path, f"simulations: [{{id: a}}]\nmodel_version: {text}\n"
              f"execution: {{constraint: {text}, kubernetes: {{env: {{RELEASE: {text}}}}}}}\n"),
        parse_settings([f"command=[prog, --x, {text}]"]),
    )  # fmt: skip
    assert ensemble.settings.model_version == text
    assert ensemble.settings.command == ("prog", "--x", text)
    assert str(ensemble.execution["constraint"]) == text
    assert ensemble.execution["kubernetes"]["env"] == {"RELEASE": text}
    again = load(ensemble.path, parse_settings([f"model_version={text}"]))
    assert again.settings.model_version == text


def test_where_a_number_is_meant_it_is_a_number(tmp_path: Path) -> None:
    ensemble = load(
        write(
            tmp_path,
            "simulations: [{id: a}]\nseed: +7\nmax_failed: +2\ntime_limit: 1e2\n"
            "resources: {memory: 1e3, tasks: +2}\nskip_existing: False\n"
            "execution: {n_workers: +3, queue_deadline: 1e3, exclusive: True, requeue: False,\n"
            "  policies: {time-limit: {time: 1.50}}, kubernetes: {cpu: 1e0, memory: 2e3}}\n",
        )
    )
    assert (ensemble.settings.seed, ensemble.max_failed, ensemble.time_limit) == (7, 2, 100.0)
    assert (ensemble.resources.memory, ensemble.resources.tasks) == (1000, 2)
    assert ensemble.skip_existing is False
    assert ensemble.execution == {
        "n_workers": 3, "queue_deadline": 1000.0, "exclusive": True, "requeue": False,
        "policies": {"time-limit": {"time": 1.5}}, "kubernetes": {"cpu": "1", "memory": "2000Mi"},
    }  # fmt: skip
    assert json.loads(json.dumps(dict(ensemble.execution))) == ensemble.execution


@pytest.mark.parametrize("value", ["true", "True", "FALSE"])
def test_truth_in_a_variable_is_as_written(tmp_path: Path, value: str) -> None:
    execution = f"execution: {{kubernetes: {{env: {{DEBUG: {value}}}}}}}\n"
    ensemble = load(write(tmp_path, f"simulations: [{{id: a}}]\n{execution}"))
    assert ensemble.execution["kubernetes"]["env"] == {"DEBUG": value}


@pytest.mark.parametrize("value", ["1.10", "1e5", "12", "007"])
def test_texts_of_pods_are_as_written(tmp_path: Path, value: str) -> None:
    pods = (
        f"{{env: {{V: {value}}}, labels: {{v: {value}}}, annotations: {{v: {value}}}, "
        f"node_selector: {{v: {value}}}, tolerations: [{{key: v, value: {value}}}]}}"
    )
    execution = f"execution: {{kubernetes: {pods}}}\n"
    found = load(write(tmp_path, f"simulations: [{{id: a}}]\n{execution}")).execution["kubernetes"]
    assert found["env"] == {"V": value}
    assert found["labels"] == found["annotations"] == found["node_selector"] == {"v": value}
    assert found["tolerations"] == ({"key": "v", "value": value},)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters: {$written: {x: 1}}", "parameters: the name '$written' begins with '$'"),
        ("simulations: [{id: a, x: 1, $x: 1}]", "the name '$x' begins with '$'"),
        ("max_failed: 1.10", "max_failed must be a number of simulations or a percentage such as "
         '"5%", found the number 1.10'),
        ("parameters: {1.10: 1}", "(quote 1.10)"),
    ],
)  # fmt: skip
def test_refusals_quote_what_was_written(tmp_path: Path, text: str, message: str) -> None:
    rest = "" if "simulations" in text else "simulations: [{id: a}]\n"
    with pytest.raises(UsageError) as caught:
        list(load(write(tmp_path, rest + text)).read_simulations())
    assert message in str(caught.value)


# --- the values themselves ------------------------------------------------------------------------


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_prints_is_read_without_a_text(number: float) -> None:
    found = read_number(repr(number))
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
        assert isinstance(found, LongNumber)
        return
    assert type(found) is type(number)
    assert repr(found) == repr(number)


@pytest.mark.parametrize("text", ["1.10", "+3", "1e5"])
def test_a_written_number_counts_as_its_number_and_prints_as_its_text(text: str) -> None:
    number: Any = parse_value(text, "--set")
    assert isinstance(number, (WrittenInt, WrittenFloat))
    assert number == float(text)
    assert f"{number} {number!r}" == f"{text} {text}"
    assert json.loads(json.dumps(number)) == float(text)
    assert str(copy.deepcopy(number)) == text


def test_a_tag_of_yaml_decides(tmp_path: Path) -> None:
    assert repr(parse_value("!!float 3", "--set")) == "3"
    assert isinstance(parse_value("!!float 3", "--set"), float)
    assert parse_value("!!str 1.10", "--set") == "1.10"
    for text in ("!!bool maybe", "!!int x", "!!float x", "!!timestamp x"):
        with pytest.raises(UsageError, match="--set is not YAML"):
            parse_value(text, "--set")
