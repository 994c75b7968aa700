"""What the columns of a table become: names with one owner, one type for one column, seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ensemble.engine.ensemble import Ensemble, build
from airflow_ensemble.engine.ensemble.blocks import Remarks
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.parameters import as_argument, take_apart
from airflow_ensemble.engine.simulation import Resources, Simulation, digest

FILE = {"name": "tests", "model": "m:f", "products": ["p"], "output": "output"}
COMMAND = {
    **{key: value for key, value in FILE.items() if key != "model"},
    "products": {"p": {"glob": "*"}},
}
FORMATS = ("csv", "jsonl", "parquet", "list")


def ensemble(folder: Path, rows: list[dict[str, Any]], form: str, **keys: Any) -> Ensemble:
    """Return an ensemble whose simulations stand in a table of a format, or in the file itself."""
    source: Any = f"t.{form}"
    if form == "csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        (folder / source).write_text("\n".join(lines) + "\n")
    elif form == "jsonl":
        (folder / source).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / source)
    else:
        source = rows
    base = COMMAND if "command" in keys else FILE
    return build(folder / "e.yaml", {**base, "simulations": source, **keys})


def of_csv(folder: Path, text: str, **keys: Any) -> Ensemble:
    (folder / "t.csv").write_text(text)
    base = COMMAND if "command" in keys else FILE
    return build(folder / "e.yaml", {**base, "simulations": "t.csv", **keys})


def of_parquet(folder: Path, table: pa.Table, **keys: Any) -> Ensemble:
    pq.write_table(table, folder / "t.parquet")
    return build(folder / "e.yaml", {**FILE, "simulations": "t.parquet", **keys})


def read(one: Ensemble) -> list[Simulation]:
    return list(one.read_simulations())


def arguments(one: Ensemble, name: str = "x") -> list[str]:
    found = [take_apart(simulation.params) for simulation in read(one)]
    return [row.written.get(name, as_argument(row.values[name])) for row in found]


def warnings(one: Ensemble) -> list[str]:
    remarks = Remarks()
    assert list(one.read_simulations(remarks=remarks))
    return [warning.replace(f"{one.path.parent}/", "") for warning in remarks.warnings]


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        action()
    return str(caught.value)


# --- columns: new names ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_column_is_renamed_and_no_resource_any_more(tmp_path: Path, form: str) -> None:
    rows = [{"id": "a", "nodes": 12, "x": 1}, {"id": "b", "nodes": 7, "x": 2}]
    renamed = ensemble(tmp_path, rows, form, columns={"mesh_nodes": "nodes"})
    assert read(renamed) == [
        Simulation("a", {"mesh_nodes": 12, "x": 1}),
        Simulation("b", {"mesh_nodes": 7, "x": 2}),
    ]
    assert read(ensemble(tmp_path, rows, form))[0].resources == Resources(nodes=12)


@pytest.mark.parametrize("form", FORMATS)
def test_names_can_be_exchanged_and_given_to_ids_and_resources(tmp_path: Path, form: str) -> None:
    rows = [{"site": "a", "x": 1, "y": 2, "mem": 512}]
    columns = {"id": "site", "x": "y", "y": "x", "memory": "mem"}
    assert read(ensemble(tmp_path, rows, form, columns=columns)) == [
        Simulation("a", {"x": 2, "y": 1}, Resources(memory=512))
    ]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"mesh": "node"}, "columns.mesh: there is no column 'node'; found: 'id', 'nodes', 'x'"),
        ({"x": "nodes"}, "columns.x: another column has the name 'x' already"),
        ({"id": "x"}, "columns.id: another column has the name 'id' already"),
        ({"name": "id"}, "there is no column 'id', every simulation needs one"),
        ({"$x": "x"}, "the name '$x' begins with '$'"),
    ],
)
def test_wrong_new_names(tmp_path: Path, form: str, columns: dict[str, str], message: str) -> None:
    rows = [{"id": "a", "nodes": 12, "x": 1}]
    assert message in refusal(lambda: read(ensemble(tmp_path, rows, form, columns=columns)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"columns": {"a": "x", "b": "x"}}, "columns.b and 'a' are the same column 'x'"),
        ({"columns": ["x"]}, "columns must be a mapping"),
        ({"columns": {"a": None}}, "columns.a must be a column"),
        ({"types": {"x": "number"}}, "types.x must be one of text, found the text 'number'"),
        ({"types": ["x"]}, "types must be a mapping"),
    ],
)
def test_wrong_columns_and_types(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: of_csv(tmp_path, "id,x\na,1\n", **keys))


def test_a_column_that_only_some_records_have_can_be_renamed(tmp_path: Path) -> None:
    rows = [{"id": "a", "x": 1}, {"id": "b", "nodes": 3}]
    found = read(ensemble(tmp_path, rows, "jsonl", columns={"mesh": "nodes"}))
    assert [one.params for one in found] == [{"x": 1}, {"mesh": 3}]


# --- names with two owners ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nodes", "tasks", "memory", "priority", "disk", "time_limit",
                                  "cores_per_task", "gpus_per_task", "walltime"])  # fmt: skip
def test_a_command_cannot_use_a_resource(tmp_path: Path, name: str) -> None:
    for form in FORMATS:
        rows = [{"id": "a", name: 2}]
        message = refusal(
            lambda: ensemble(tmp_path, rows, form, command=["prog", f"{{{name}}}"])  # noqa: B023
        )
        assert f"command uses {{{name}}}, and a column {name!r} is no parameter" in message
        assert f"columns: {{my_{name}: {name}}}" in message
    command = ["prog", f"{{{name}}}"]
    own = ensemble(tmp_path, [{"id": "a"}], "csv", command=command, parameters={name: 4})
    assert read(own) == [Simulation("a")]


@pytest.mark.parametrize("form", FORMATS)
def test_a_common_parameter_and_a_resource_of_one_name_are_refused(
    tmp_path: Path, form: str
) -> None:
    one = ensemble(tmp_path, [{"id": "a", "nodes": 2}], form, parameters={"nodes": 4})
    message = refusal(lambda: read(one))
    assert "'nodes' is one of the ensemble's parameters, and the column of that name is" in message
    assert "columns: {my_nodes: nodes}" in message


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["cpus", "workdir", "attempt"])
def test_a_column_that_the_run_would_hide_from_a_command_is_refused(
    tmp_path: Path, form: str, name: str
) -> None:
    rows = [{"id": "a", name: 2}]
    one = ensemble(tmp_path, rows, form, command=["prog", f"{{{name}}}"])
    message = refusal(lambda: read(one))
    assert f"{{{name}}} in the command is filled by the run itself" in message
    assert f"columns: {{my_{name}: {name}}}" in message
    for harmless in (
        ensemble(tmp_path, rows, form),
        ensemble(tmp_path, rows, form, command=["prog", "{id}"]),
    ):
        assert read(harmless)[0].params == {name: 2}


def test_remarks_say_what_each_column_became(tmp_path: Path) -> None:
    remarks = Remarks()
    one = of_csv(tmp_path, "id,nodes,mem,x\na,2,3,4\n", columns={"mesh": "mem"})
    assert list(one.read_simulations(remarks=remarks))
    assert remarks.columns == {"id": "", "nodes": "", "mesh": "mem", "x": ""}


# --- seeds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_a_column_seed_is_the_seed_of_its_simulation(tmp_path: Path, form: str, seed: int) -> None:
    (one,) = read(ensemble(tmp_path, [{"id": "a", "seed": seed, "x": 1.5}], form))
    assert take_apart({}, one.params) == ({"seed": seed, "x": 1.5}, {}, seed)
    assert one.digest != digest({"seed": seed, "x": 1.5})


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "seven", True, 2**64])
def test_what_is_no_seed_is_refused_with_row_and_value(
    tmp_path: Path, form: str, seed: Any
) -> None:
    if form == "parquet" and seed == 2**64:
        return
    message = refusal(lambda: read(ensemble(tmp_path, [{"id": "a", "seed": seed}], form)))
    assert "'seed' must be a seed, a whole number from 0 to 4294967295, found" in message
    assert {"csv": "line 2", "jsonl": "line 1", "parquet": "row 1", "list": "item 1"}[
        form
    ] in message
    assert str(seed).lower() in message


def test_a_parameter_seed_is_refused_for_commands_and_a_warning_for_models(tmp_path: Path) -> None:
    keys = {"parameters": {"seed": 1}}
    message = refusal(lambda: of_csv(tmp_path, "id\na\n", command=["prog"], **keys))
    assert "parameters.seed: {seed} in a command is filled by the run itself" in message
    assert "a column 'seed' of the table that of each simulation" in message
    (found,) = warnings(of_csv(tmp_path, "id\na\n", **keys))
    assert "parameters.seed is a parameter that all simulations share, and not run.seed" in found


def test_another_sign_makes_no_other_seed(tmp_path: Path) -> None:
    signed, plain = (read(of_csv(tmp_path, f"id,seed\na,{seed}\n"))[0] for seed in ("+7", "7"))
    assert signed == plain


def test_a_renamed_column_seed_is_a_parameter(tmp_path: Path) -> None:
    (one,) = read(of_csv(tmp_path, "id,seed\na,-3\n", columns={"case": "seed"}))
    assert one.params == {"case": -3}


# --- texts ----------------------------------------------------------------------------------------


TEXTS = ["10E8", "0123", "5e12345", "true", "NaN", "1.10", "-0", " two ", "1e-400", "9" * 30]


def test_a_column_of_texts_keeps_its_cells_as_written(tmp_path: Path) -> None:
    rows = "".join(f'b{n},"{text}",{n}\n' for n, text in enumerate(TEXTS))
    one = of_csv(tmp_path, f"id,sample,n\n{rows}", types={"sample": "text"})
    assert [row.params["sample"] for row in read(one)] == TEXTS
    assert [row.params["n"] for row in read(one)] == list(range(len(TEXTS)))
    assert warnings(one) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"'),
                        min_size=1, max_size=9), min_size=1, max_size=9))  # fmt: skip
def test_whatever_is_in_a_column_of_texts_stays(tmp_path: Path, cells: list[str]) -> None:
    rows = "".join(f'b{n},"{text}"\n' for n, text in enumerate(cells))
    one = of_csv(tmp_path, f"id,x\n{rows}", types={"x": "text"})
    assert [row.params["x"] for row in read(one)] == cells


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ({"sampel": "text"}, "types: there is no column 'sampel'; found: 'id', 'x', 'memory'"),
        ({"memory": "text"}, "types: the column 'memory' is no parameter"),
    ],
)
def test_wrong_columns_of_texts(tmp_path: Path, types: dict[str, str], message: str) -> None:
    assert message in refusal(lambda: read(of_csv(tmp_path, "id,x,memory\na,1,2\n", types=types)))


def test_types_has_the_names_that_columns_gives(tmp_path: Path) -> None:
    table, names = "id,x\na,007\n", {"sample": "x"}
    one = of_csv(tmp_path, table, columns=names, types={"x": "text"})
    assert "types: columns calls 'x' 'sample'; found: 'id', 'sample'" in refusal(lambda: read(one))
    (row,) = read(of_csv(tmp_path, table, columns=names, types={"sample": "text"}))
    assert row.params == {"sample": "007"}


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    one = of_csv(tmp_path, "id,x\na,1\nb,\n", types={"x": "text"})
    assert "line 3, column 'x': the cell is empty" in refusal(lambda: read(one))


@pytest.mark.parametrize("form", ["jsonl", "parquet", "list"])
def test_types_are_for_csv(tmp_path: Path, form: str) -> None:
    one = ensemble(tmp_path, [{"id": "a", "x": 1}], form, types={"x": "text"})
    assert "types.x: only the cells of a CSV table have no type" in refusal(lambda: read(one))


# --- two kinds in one column ----------------------------------------------------------------------


def test_two_kinds_in_one_column_are_a_warning_that_names_the_first_of_each(
    tmp_path: Path,
) -> None:
    one = of_csv(tmp_path, "id,x,y,z\na,1,a,1\nb,2.5,b,2\nc,1_0,c,3.5\nd,4,d,1e3\ne,x,e,1\n")
    assert warnings(one) == [
        "t.csv: the column 'x' holds numbers and texts: the first number, 1, is in line 2; the "
        "first text, '1_0', is in line 4. Where all are texts, say so in the ensemble file: "
        "types: {x: text}"
    ]


@pytest.mark.parametrize("form", FORMATS[1:])
def test_kinds_are_told_apart_in_typed_tables(tmp_path: Path, form: str) -> None:
    rows: list[dict[str, Any]] = [{"id": "a", "x": True}, {"id": "b", "x": "no"}]
    if form == "parquet":
        assert warnings(ensemble(tmp_path, [{"id": "a", "x": 1}], form)) == []
        return
    (found,) = warnings(ensemble(tmp_path, rows, form))
    assert "the column 'x' holds truth values and texts: the first truth value, True" in found
    assert "Where all are texts, put all of them in quotes" in found


def test_a_warning_of_two_kinds_shows_cells_as_they_were_written(tmp_path: Path) -> None:
    (found,) = warnings(of_csv(tmp_path, "id,x\na, 10E8\nb,q\nc,TRUE\n"))
    assert "the first number, 10E8, is in line 2" in found
    assert "the first truth value, TRUE, is in line 4" in found
    (tmp_path / "t.jsonl").write_text('{"id": "a", "x": 1.10}\n{"id": "b", "x": "1.10"}\n')
    (found,) = warnings(build(tmp_path / "e.yaml", {**FILE, "simulations": "t.jsonl"}))
    assert "the first number, 1.10, is in line 1; the first text, '1.10', is in line 2" in found


def test_kinds_far_apart_are_found(tmp_path: Path) -> None:
    cells = [*map(str, range(5000)), "x", "y"]
    rows = "".join(f"b{n},{cell}\n" for n, cell in enumerate(cells))
    (found,) = warnings(of_csv(tmp_path, f"id,x\n{rows}"))
    assert "the first number, 0, is in line 2; the first text, 'x', is in line 5002" in found


# --- whole numbers beyond 64 bits -----------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_one_number_beyond_64_bits_makes_texts_of_its_whole_column(
    tmp_path: Path, form: str
) -> None:
    cells: list[Any] = [*range(5000), 2**63 - 1, 2**63, 3]
    rows = [{"id": f"b{n}", "x": cell, "y": 1} for n, cell in enumerate(cells)]
    if form == "parquet":
        columns = {"id": [row["id"] for row in rows], "x": pa.array(cells, pa.uint64())}
        one = of_parquet(tmp_path, pa.table(columns))
    else:
        one = ensemble(tmp_path, rows, form)
    assert [row.params["x"] for row in read(one)] == [str(cell) for cell in cells]
    (found,) = warnings(one)
    assert "column 'x': 9223372036854775808 is a whole number beyond 2^63 - 1" in found
    row = {"csv": "line 5003", "jsonl": "line 5002", "parquet": "row 5002", "list": "item 5002"}
    assert row[form] in found


@pytest.mark.parametrize("form", FORMATS)
def test_a_seed_beyond_64_bits_is_refused_where_it_stands(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        columns = {"id": ["a", "b"], "seed": pa.array([7, 2**64 - 1], pa.uint64())}
        one = of_parquet(tmp_path, pa.table(columns))
    else:
        one = ensemble(tmp_path, [{"id": "a", "seed": 7}, {"id": "b", "seed": 2**64 - 1}], form)
    row = {"csv": "line 3", "jsonl": "line 2", "parquet": "row 2", "list": "item 2"}
    message = refusal(lambda: read(one))
    assert f"{row[form]}, column 'seed' must be a seed" in message
    assert "18446744073709551615" in message


def test_cells_of_such_a_column_stay_as_written(tmp_path: Path) -> None:
    one = of_csv(tmp_path, f"id,x\na,1.10\nb,+3\nc,{2**63}\nd,True\n")
    assert [row.params for row in read(one)] == [
        {"x": "1.10"}, {"x": "+3"}, {"x": str(2**63)}, {"x": "True"}
    ]  # fmt: skip
    broken = of_csv(tmp_path, f"id,x\na,{2**63}\nb,NaN\n")
    assert "line 3, column 'x': NaN is not a finite number" in refusal(lambda: read(broken))


@pytest.mark.parametrize(
    "cell", ["0.12345678901234567890123", "1" * 18, "x" * 30, "9223372036854775807"]
)
def test_many_digits_alone_make_no_text(tmp_path: Path, cell: str) -> None:
    one = of_csv(tmp_path, f"id,x\n{'1' * 25},1.5\nb,{cell}\n")
    assert read(one)[0].params == {"x": 1.5}
    assert not any("beyond" in warning for warning in warnings(one))


def test_parameters_beyond_64_bits_are_texts_with_a_warning(tmp_path: Path) -> None:
    one = of_csv(tmp_path, "id\na\n", parameters={"x": {"run": [2**63]}, "y": 2**63 - 1})
    assert one.settings.parameters == {"x": {"run": [str(2**63)]}, "y": 2**63 - 1}
    (found,) = warnings(one)
    assert "parameters.x: 9223372036854775808 is a whole number beyond 2^63 - 1" in found


# --- Parquet --------------------------------------------------------------------------------------


def test_small_floats_reach_a_command_as_they_were_written(tmp_path: Path) -> None:
    numbers = [
        *("0.1", "0.5", "1e-45", "123456792.0", "16777216.0", "-2.3", "1e-05", "100000.0"),
        *("1e+20", "-3e+38", "1e+16", "999999986991104.0"),
    ]
    single = pa.array([float(text) for text in numbers], pa.float32())
    table = {"id": [f"b{n}" for n in range(len(numbers))], "x": single}
    one = of_parquet(tmp_path, pa.table(table))
    assert arguments(one) == numbers
    assert [row.params["x"] for row in read(one)] == single.to_pylist()
    assert "$written" not in read(one)[1].params
    half = pa.array(np.array([0.1, 65504.0], np.float16))
    assert arguments(of_parquet(tmp_path, pa.table({"id": ["a", "b"], "x": half}))) == [
        "0.1", "65504.0"
    ]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_small_floats_are_the_shortest_numbers_that_are_the_same(
    tmp_path: Path, numbers: list[float]
) -> None:
    table = {"id": [f"b{n}" for n in range(len(numbers))], "x": pa.array(numbers, pa.float32())}
    found = arguments(of_parquet(tmp_path, pa.table(table)))
    assert [float(np.float32(text)) for text in found] == numbers
    fractions = [(x, text) for x, text in zip(numbers, found) if not x.is_integer()]
    assert [float(text) for _, text in fractions] == [
        float(str(np.float32(x))) for x, _ in fractions
    ]


def test_small_floats_in_lists_and_records(tmp_path: Path) -> None:
    kind = pa.struct([("v", pa.list_(pa.float32())), ("n", pa.int8())])
    table = pa.table({"id": ["a"], "x": pa.array([{"v": [0.1, 0.5], "n": 3}], kind)})
    assert arguments(of_parquet(tmp_path, table)) == ['{"n":3,"v":[0.1,0.5]}']


def test_decimals_are_numbers_as_written(tmp_path: Path) -> None:
    values = [Decimal("1.10"), Decimal("3.00"), Decimal("0.25")]
    one = of_parquet(tmp_path, pa.table({"id": ["a", "b", "c"], "x": values}))
    assert arguments(one) == ["1.10", "3.00", "0.25"]
    assert [row.params["x"] for row in read(one)] == [1.1, 3.0, 0.25]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array(["1.10", "a"]).dictionary_encode(), ["1.10", "a"]),
        (pa.array([1, 2], pa.uint8()), [1, 2]),
        (pa.array([2**63 - 1, 0], pa.uint64()), [2**63 - 1, 0]),
        (pa.array([0.1, 1e300]), [0.1, 1e300]),
        (pa.array([1_000_000_001, 0], pa.timestamp("ns")),
         ["1970-01-01T00:00:01.000000001", "1970-01-01T00:00:00"]),
        (pa.array([0, 1_500_000], pa.timestamp("us", "America/Denver")),
         ["1969-12-31T17:00:00-07:00", "1969-12-31T17:00:01.500000-07:00"]),
        (pa.array([0, 1], pa.date32()), ["1970-01-01", "1970-01-02"]),
        (pa.array([timedelta(hours=1), timedelta(seconds=-0.5)], pa.duration("us")),
         ["P0DT1H0M0S", "P-1DT23H59M59.5S"]),
        (pa.array([3_600_000_000_000, 1], pa.duration("ns")),
         ["P0DT1H0M0S", "P0DT0H0M0.000000001S"]),
        (pa.array([[True, None], []]), [[True, None], []]),
    ],
)  # fmt: skip
def test_what_each_type_of_parquet_becomes(tmp_path: Path, column: Any, values: list[Any]) -> None:
    one = of_parquet(tmp_path, pa.table({"id": ["a", "b"], "x": column}))
    assert [row.params for row in read(one)] == [{"x": value} for value in values]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([0.5, None], pa.float32()), "row 2, column 'x': the cell is empty"),
        (pa.array([0.5, float("nan")], pa.float32()), "row 2, column 'x' must be a finite number"),
        (pa.array([0.5, float("inf")], pa.float16()), "row 2, column 'x' must be a finite number"),
        (pa.array([Decimal("1.5"), None]), "row 2, column 'x': the cell is empty"),
        (pa.array([timedelta(1), None], pa.duration("s")), "row 2, column 'x': the cell is empty"),
        (pa.array(["a", None]).dictionary_encode(), "row 2, column 'x': the cell is empty"),
    ],
)
def test_cells_of_parquet_that_hold_nothing(tmp_path: Path, column: Any, message: str) -> None:
    one = of_parquet(tmp_path, pa.table({"id": ["a", "b"], "x": column}))
    assert message in refusal(lambda: read(one))


def test_the_index_of_pandas_can_be_given_a_name(tmp_path: Path) -> None:
    import pandas as pd

    pd.DataFrame({"x": [1, 2]}, index=["a", "b"]).to_parquet(tmp_path / "t.parquet")
    keys = {"simulations": "t.parquet", "columns": {"id": "__index_level_0__"}}
    rows = read(build(tmp_path / "e.yaml", {**FILE, **keys}))
    assert [(row.id, row.params) for row in rows] == [("a", {"x": 1}), ("b", {"x": 2})]


def test_the_index_of_pandas_is_no_parameter(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"id": ["a", "b", "c", "d"], "x": [1, 2, 3, 4]})
    frame[frame["x"] != 2].to_parquet(tmp_path / "t.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "t.parquet").names
    one = build(tmp_path / "e.yaml", {**FILE, "simulations": "t.parquet"})
    remarks = Remarks()
    found = list(one.read_simulations(remarks=remarks))
    assert [simulation.params for simulation in found] == [{"x": 1}, {"x": 3}, {"x": 4}]
    assert remarks.left_out == ["__index_level_0__"]
    frame.set_index("id").to_parquet(tmp_path / "t.parquet")
    assert [simulation.id for simulation in read(one)] == ["a", "b", "c", "d"]
