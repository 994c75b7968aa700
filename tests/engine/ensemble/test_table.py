"""Tables of simulations: what is read, and what is refused, naming file, row and column."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ensemble.engine.ensemble import csv_table, parquet_table, record_table
from airflow_ensemble.engine.ensemble.csv_table import type_cell
from airflow_ensemble.engine.ensemble.schema import Place
from airflow_ensemble.engine.ensemble.table import read_records, read_table
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.simulation import Resources, Simulation
from tests.engine.strategies import ids

FOLDER_FIXTURE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=50,
)
cells = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(path: Path, **options: Any) -> list[Simulation]:
    return list(read_table(path, **options))


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert caught.value.exit_code == 2
    return message.replace(f"{path.parent}/", "")


# --- reading --------------------------------------------------------------------------------------


def test_cells_are_typed_as_json_would(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "id,n,x,flag,text,when\n"
        "007,1,-1.5e3,true,007,2015-12-10 00:00\n"
        "1.50,-0,.5,FALSE,1_000,10:00:00\n"
        'c,+3,5.,True,"a, ""b""",12345678901234567890\n',
    )
    first, second, third = read(path)
    assert [s.id for s in (first, second, third)] == ["007", "1.50", "c"]
    assert first.params == {
        "n": 1, "x": -1500.0, "flag": True, "text": "007", "when": "2015-12-10 00:00",
        "$written": {"x": "-1.5e3"},
    }  # fmt: skip
    assert second.params == {
        "n": 0, "x": 0.5, "flag": False, "text": "1_000", "when": "10:00:00",
        "$written": {"n": "-0", "x": ".5", "flag": "FALSE"},
    }  # fmt: skip
    assert third.params == {
        "n": 3, "x": 5.0, "flag": True, "text": 'a, "b"', "when": "12345678901234567890",
        "$written": {"n": "+3", "x": "5.", "flag": "True"},
    }  # fmt: skip
    assert isinstance(first.params["n"], int)


def test_marks_blanks_and_blank_lines_are_no_content(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfid , x\r\na, 1\r\n\r\nb, two words \r\n\r\n")
    assert [(s.id, s.params) for s in read(path)] == [("a", {"x": 1}), ("b", {"x": "two words "})]


def test_ids_alone_are_a_table(tmp_path: Path) -> None:
    assert [s.params for s in read(write(tmp_path, "id\na\nb\n"))] == [{}, {}]


def test_the_type_of_a_cell_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    plain = write(tmp_path, "id,x\n" + "".join(f"s{n},{n}.5\n" for n in range(10)), "plain.csv")
    mixed = write(tmp_path, plain.read_text() + "last,text\n", "mixed.csv")
    assert read(mixed)[:10] == read(plain)
    assert [s.params["x"] for s in read(plain)] == [n + 0.5 for n in range(10)]


@FOLDER_FIXTURE
@given(st.lists(cells.filter(str.strip), min_size=1, max_size=8))
def test_a_column_is_typed_as_its_cells(tmp_path: Path, column: list[str]) -> None:
    try:
        expected = [type_cell(cell.lstrip(" ")) for cell in column]
    except ValueError:
        return
    path = tmp_path / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerow(["id", "x"])
        writer.writerows((f"s{n}", cell.lstrip(" ")) for n, cell in enumerate(column))
    assert [s.params["x"] for s in read(path)] == expected


numbers = (
    st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-1000, 1000).map(lambda x: round(x, 4))
)


@FOLDER_FIXTURE
@given(st.lists(st.tuples(ids, numbers), unique_by=lambda row: row[0], min_size=1, max_size=20))
def test_numbers_and_ids_survive_csv(tmp_path: Path, rows: list[tuple[str, float]]) -> None:
    path = write(tmp_path, "id,x\n" + "".join(f'"{id}",{x!r}\n' for id, x in rows))
    found = [(s.id, s.params["x"]) for s in read(path)]
    assert found == rows
    assert [type(x) for _, x in found] == [type(x) for _, x in rows]


@FOLDER_FIXTURE
@given(
    st.lists(
        st.tuples(ids, st.text(st.characters(exclude_categories=("Cs",)), max_size=20), numbers),
        unique_by=lambda row: row[0],
        min_size=1,
        max_size=10,
    )
)
def test_json_lines_and_lists_give_the_same(
    tmp_path: Path, rows: list[tuple[str, str, float]]
) -> None:
    records = [{"id": id, "text": text, "nested": {"x": [x]}} for id, text, x in rows]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    found = read(write(tmp_path, lines, "table.jsonl"))
    assert found == list(read_records(records, Place("file", "simulations")))
    assert [{"id": s.id, **s.params} for s in found] == records


def test_json_records_may_have_keys_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, '{"id": 7, "x": 1}\n\n{"id": "b", "y": [1, {"z": true}]}\n', "t.ndjson")
    assert [(s.id, s.params) for s in read(path)] == [
        ("7", {"x": 1}),
        ("b", {"y": [1, {"z": True}]}),
    ]


def write_parquet(folder: Path, columns: dict[str, Any]) -> Path:
    path = folder / "table.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path,
        {
            "id": pa.array([1, 2], pa.int32()),
            "x": pa.array([0.5, 2.0]),
            "text": pa.array(["007", ""]).dictionary_encode(),
            "when": pa.array([0, 3_600_000_000_000], pa.timestamp("ns", "UTC")),
            "list": pa.array([[1, 2], []]),
            "flag": pa.array([True, False]),
        },
    )
    first, second = read(path)
    assert first == Simulation(
        "1",
        {
            "x": 0.5, "text": "007", "when": "1970-01-01T00:00:00+00:00",
            "list": [1, 2], "flag": True,
        },
    )  # fmt: skip
    assert second.params["when"] == "1970-01-01T01:00:00+00:00"
    assert json.dumps(second.params)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_blocks_leave_nothing_out(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (csv_table, parquet_table, record_table):
        monkeypatch.setattr(module, "BLOCK", 7)
    names = [f"s{n}" for n in range(50)]
    if suffix == ".csv":
        path = write(tmp_path, "id,n\n" + "".join(f"{id},{n}\n\n" for n, id in enumerate(names)))
    elif suffix == ".parquet":
        path = write_parquet(tmp_path, {"id": names, "n": list(range(50))})
    else:
        lines = (json.dumps({"id": id, "n": n}) + "\n" for n, id in enumerate(names))
        path = write(tmp_path, "".join(lines), "t.jsonl")
    assert [(s.id, s.params["n"]) for s in read(path)] == [(id, n) for n, id in enumerate(names)]


def test_a_million_rows_would_stream(tmp_path: Path) -> None:
    """Memory is that of the ids already seen and of one block, not of the table."""
    rows = 60_000
    path = write(tmp_path, "id,text\n" + "".join(f"s{n:06d},{'x' * 200}{n}\n" for n in range(rows)))
    tracemalloc.start()
    count = sum(1 for _ in read_table(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == rows
    assert peak < 14e6
    assert path.stat().st_size > 12e6


@pytest.mark.parametrize("name", ["table.csv", "table.jsonl", "table.parquet"])
def test_a_pipe_or_a_device_is_no_table(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    device = tmp_path / f"device-{name}"
    device.symlink_to("/dev/full")  # zeros without an end

    assert (
        refusal(tmp_path / name) == f"table {name} is a pipe or a device: save the table as a file"
    )
    assert "is a pipe or a device" in refusal(device)


# --- reserved columns -----------------------------------------------------------------------------


def test_reserved_columns_become_resources(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "id,x,time_limit,priority,tasks,cores_per_task,gpus_per_task,memory,disk,walltime,nodes\n"
        "a,1,00:10:00,5,8,2,1,4G,1.5T,1-00:00:00,2\n"
        "b,2,2.5,-1,1,1,0,512,512M,90,1\n",
    )
    first, second = read(path)
    assert first == Simulation(
        "a", {"x": 1}, Resources(2, 8, 2, 1, 4096, 1572864, 86400), 600.0, priority=5
    )
    assert second == Simulation(
        "b", {"x": 2}, Resources(memory=512, disk=512, walltime=90), 2.5, priority=-1
    )


def test_default_resources_lie_below_those_of_a_row(tmp_path: Path) -> None:
    default = Resources(tasks=4, memory=100)
    path = write(tmp_path, "id,memory\na,200\n")
    assert read(path, resources=default)[0].resources == Resources(tasks=4, memory=200)
    path = write(tmp_path, "id,x\na,200\n")
    assert read(path, resources=default)[0].resources == default


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("memory", "much", "column 'memory' must be a positive number of MiB or a text"),
        ("memory", "-1", "column 'memory' must be a positive number of MiB"),
        ("time_limit", "10:00", "column 'time_limit' must be a positive number of seconds"),
        ("time_limit", "0", "column 'time_limit' must be a positive number of seconds"),
        ("walltime", "true", "column 'walltime' must be a positive number of seconds"),
        ("priority", "high", "column 'priority' must be a whole number, found the text 'high'"),
        ("priority", "1.5", "column 'priority' must be a whole number, found the number 1.5"),
        ("tasks", "0", "column 'tasks' must be a whole number of at least 1, found the number 0"),
        ("gpus_per_task", "-1", "column 'gpus_per_task' must be a whole number of at least 0"),
        ("cores_per_task", "2.0", "column 'cores_per_task' must be a whole number of at least 1"),
    ],
)
def test_wrong_reserved_values(tmp_path: Path, column: str, cell: str, message: str) -> None:
    path = write(tmp_path, f"id,{column}\ngood,1\nbad,{cell}\n")
    assert message in refusal(path)
    assert "table.csv: line 3" in refusal(path)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table.csv is empty"),
        ("id,x\n", "table.csv has no simulations"),
        ("id,x\n\n\n", "table.csv has no simulations"),
        ("lon,lat\n1,2\n", "there is no column 'id', every simulation needs one; found: 'lon', 'l"),
        ("id;x\na;1\n", "found: 'id;x'. Separate the columns with commas"),
        ("id,x,x\na,1,2\n", "two columns have the name 'x'"),
        ("id,x,\na,1,2\n", "column 3 has no name"),
        ("id,depends_on\na,b\n", "the name 'depends_on' is kept for a later version: rename it"),
        ("id,x\na,1\nb,\n", "table.csv: line 3, column 'x': the cell is empty"),
        ("id,x\na,1\nb,  \n", "table.csv: line 3, column 'x': the cell is empty"),
        ("id,x\na,NaN\n", "table.csv: line 2, column 'x': NaN is not a finite number"),
        ("id,x\na,1\nb,-inf\n", "table.csv: line 3, column 'x': -inf is not a finite number"),
        ("id,x\na,1e999\n", "table.csv: line 2, column 'x': 1e999 is too large"),
        ("id,x\na,1.0e99\nb,1.0e309\n", "line 3, column 'x': 1.0e309 is too large"),
        ("id,x\na,1\nb\n", "table.csv: line 3 has 1 cells, the header has 2 columns"),
        ("id,x\na,1,2\n", "table.csv: line 2 has 3 cells, the header has 2 columns"),
        ("id,x\na,1\nb,2\na,3\n", "the id 'a' stands in line 2 and line 4"),
        ('id,x\na,"1\n2"\n\na,3\n', "the id 'a' stands in line 2 and line 5"),
        ('id,x\na,"1\n2"\nb,\n', "table.csv: line 4, column 'x': the cell is empty"),
        ('id,x\na,"1\n', "table.csv: line 2: unexpected end of data"),
        ("id,x\n,1\n", "line 2, column 'id': simulation id '' is empty"),
        (b"id,x\na,1\nb,\xe9t\xe9\n", "table.csv: line 3 is not UTF-8 text"),
        (b"\xff\xfei\0d\0", "table.csv: line 1 is not UTF-8 text"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in refusal(write(tmp_path, text))


@pytest.mark.parametrize(
    "id", ["a/b", "..", "a..b", "a\nb", "x" * 300, "schön", "a b", "-a", ".a", "a\\b", "$(x)", "a'"]
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_wrong_ids(tmp_path: Path, id: str, suffix: str) -> None:
    rows = ["good", id]
    if suffix == ".csv":
        path = tmp_path / "table.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["id"], *([row] for row in rows)])
    elif suffix == ".jsonl":
        path = write(tmp_path, "".join(json.dumps({"id": i}) + "\n" for i in rows), "t.jsonl")
    else:
        path = write_parquet(tmp_path, {"id": rows})
    word = {".csv": "line 3", ".jsonl": "line 2", ".parquet": "row 2"}[suffix]
    assert f"{word}, column 'id': simulation id" in refusal(path)


def test_an_id_with_nul(tmp_path: Path) -> None:
    assert "line 2" in refusal(write(tmp_path, "id,x\na\0b,1\n"))
    assert "line 1, column 'id'" in refusal(write(tmp_path, '{"id": "a\\u0000b"}\n', "t.jsonl"))


@pytest.mark.parametrize("length", [10, 5000])
def test_duplicates_far_apart_name_both_rows(tmp_path: Path, length: int) -> None:
    names = [f"s{n}" for n in range(length)]
    path = write(tmp_path, "id\n" + "\n".join([*names, "s3"]) + "\n")
    assert refusal(path) == f"table.csv: the id 's3' stands in line 5 and line {length + 2}"
    path = write_parquet(tmp_path, {"id": [*names, "s3"]})
    assert f"stands in row 4 and row {length + 1}" in refusal(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"lon": [1.0]}, "there is no column 'id'"),
        ({"id": pa.array([], pa.string())}, "has no simulations"),
        ({"id": ["a", "b"], "x": [1.0, math.nan]}, "row 2, column 'x' must be a finite number"),
        ({"id": ["a", "b"], "x": [1.0, math.inf]}, "row 2, column 'x' must be a finite number"),
        ({"id": ["a", "b"], "x": [1, None]}, "row 2, column 'x': the cell is empty"),
        ({"id": ["a", None]}, "row 2, column 'id' must be a text or a whole number, found nothing"),
        ({"id": [1.5, 2.5]}, "row 1, column 'id' must be a text or a whole number"),
        ({"id": ["a"], "x": [b"raw"]}, "row 1, column 'x' must be text, number"),
        ({"id": ["a"], "x": [[1.0, math.nan]]}, "row 1, column 'x'.1 must be a finite number"),
    ],
)
def test_wrong_parquet(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    assert message in refusal(write_parquet(tmp_path, columns))


def test_parquet_that_is_none(tmp_path: Path) -> None:
    assert "is not a readable Parquet" in refusal(write(tmp_path, "id\na\n", "table.parquet"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "line 2 must be a mapping, found a list of 1"),
        ("{", "line 2 is not JSON"),
        ('{"id": "b", "x": NaN}', "line 2 is not JSON: NaN is not a finite number"),
        ('{"id": "b", "x": -Infinity}', "line 2 is not JSON: -Infinity is not a finite number"),
        ('{"id": "b", "x": 1e999}', "line 2, column 'x' must be a finite number"),
        ('{"id": "b", "x": null}', "line 2, column 'x': the cell is empty"),
        ('{"id": "b", "x": 1, "x": 2}', "a key stands twice"),
        ('{"x": 1}', "line 2: there is no column 'id'"),
        ('{"id": true}', "line 2, column 'id' must be a text or a whole number, found true"),
        ('{"id": "a"}', "the id 'a' stands in line 1 and line 2"),
    ],
)
def test_wrong_json_lines(tmp_path: Path, line: str, message: str) -> None:
    assert message in refusal(write(tmp_path, f'{{"id": "a"}}\n{line}\n', "table.jsonl"))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "e.yaml: simulations has no simulations"),
        ([{"x": 1}], "e.yaml: simulations: item 1: there is no column 'id'"),
        ([{"id": "a"}, {"id": "a"}], "the id 'a' stands in item 1 and item 2"),
        ([{"id": "a", "x": math.nan}], "item 1, column 'x' must be a finite number"),
    ],
)
def test_wrong_lists(records: Sequence[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        list(read_records(records, Place("e.yaml", "simulations")))


def test_what_a_command_needs_must_be_there(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "id,x\na,1\n"), needed={"x", "temperature"})
    assert "no column 'temperature', the command uses it; found: 'id', 'x'" in message
    message = refusal(write(tmp_path, '{"id": "a"}\n', "t.jsonl"), needed={"x"})
    assert "line 1: there is no column 'x'" in message


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "there is no table missing.csv" in refusal(tmp_path / "missing.csv")
    assert "there is no table missing.parquet" in refusal(tmp_path / "missing.parquet")
    (tmp_path / "folder.jsonl").mkdir()
    assert "cannot be read: Is a directory" in refusal(tmp_path / "folder.jsonl")
    message = refusal(write(tmp_path, "id\na\n", "table.xlsx"))
    assert "must end in one of .csv, .parquet" in message


def test_a_table_that_grows_while_it_is_read_is_no_duplicate(tmp_path: Path) -> None:
    path = write(tmp_path, "id\n" + "".join(f"s{n}\n" for n in range(5000)))
    simulations = read_table(path)
    first = next(simulations)
    with path.open("a") as stream:
        stream.write("late\n")
    assert [first.id, *(s.id for s in simulations)][-1] == "late"
