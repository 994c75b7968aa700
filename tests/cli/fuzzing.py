"""Strange ensemble files, tables, arguments and environments, each not far from a good one."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

#: Rows of the good table.
ROWS = ({"id": "a", "x": 1}, {"id": "b", "x": 2})
#: A good ensemble file, with most of what one may hold.
GOOD: Mapping[str, Any] = {
    "name": "fuzz",
    "command": ["true", "{id}", "{x}"],
    "products": {"values": {"glob": "*.txt", "optional": True}},
    "parameters": {"y": 1.5, "z": {"deep": [1, 2]}},
    "simulations": "table.jsonl",
    "output": "output",
    "model_version": "1",
    "seed": 1,
    "max_attempts": 2,
    "time_limit": 60,
    "max_failed": "5%",
    "resources": {"cores_per_task": 1, "memory": "1 GB"},
    "skip_existing": True,
    "logs": "failed",
    "execution": {
        "backend": "local",
        "n_workers": 1,
        "code": ["."],
        "setup": ["true"],
        "partition": "p",
    },
}
COMMANDS = (
    *(["check"], ["register"], ["status"], ["status", "--json"], ["show", "a"], ["logs", "a"]),
    *(["retry", "--all"], ["cancel", "--all"], ["collect"], ["collect", "--to", "all.nc"]),
    *(["reconcile"], ["rebuild"], ["gc", "--dry-run"], ["manifests"], ["run", "--dry-run"]),
)

_texts = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                " ",
                "\0",
                "\n",
                "a\nb",
                "é",
                "\ud800",
                "数",
                "\u202e",
                "\x1b[31m",
                "'",
                '"',
                "%",
            ),
            *(
                "~",
                "~nobody-at-all",
                "$HOME",
                "${",
                "${HOME",
                "$UNSET_NAME",
                ".",
                "..",
                "../..",
                "/",
            ),
            *("{", "}", "{}", "{id", "{x!r}", "{0}", "{x:>99999999999}", "{x.__class__}", "{$x}"),
            *("a/b", "a..b", "-", "--help", "-x", "*", "**", "[", "(", "**/*", "\\", "x" * 3000),
            *("table.csv", "table.jsonl", "table.parquet", "model.py", "ensemble.yaml", "no.csv"),
            *(
                "s3://",
                "s3://bucket",
                "gs:/x",
                "file:///",
                "http://x",
                "://",
                "env:",
                "env:NO",
                "conn:x",
            ),
            *("postgresql://", "postgresql://[", "sqlite://", "postgresql://h:notaport/d", "x:y:z"),
            *(
                "1:2:3",
                "00:10:00",
                "10 GB",
                "-1 GB",
                "1e999 GB",
                "nan",
                "inf",
                "5%",
                "-5%",
                "1e400%",
            ),
            *(
                "json:loads",
                "os:path.join",
                "a:",
                ":b",
                "slurm",
                "kubernetes",
                "local",
                "push",
                "pull",
            ),
            *("true", "null", "0123", "1e5", "1.10", "2019-01-01", "0x10", "1_000", "١٢", "١٢%"),
        ]
    ),
    st.text(max_size=8),
)
_numbers = st.one_of(
    st.sampled_from(
        [0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, 5e-324]
    ),
    st.integers(),
    st.floats(),
)
_scalars = st.one_of(st.none(), st.booleans(), _numbers, _texts)
values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_texts, inner, max_size=3)
    ),
    max_leaves=6,
)
_known_keys = st.sampled_from(
    [
        *("model", "models", "values", "types", "columns", "control", "index", "python", "pool"),
        *("dispatch", "remote_root", "conn_id", "kubernetes", "blocks", "executors", "image", "id"),
        *("namespace", "env", "template", "secrets", "partition", "account", "$written", "align"),
    ]
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [place]
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in [*items, *(enumerate(value) if isinstance(value, list) else ())]:
        found += _places(inner, (*place, key))
    return found


@st.composite
def changed(draw: st.DrawFn, good: Mapping[str, Any] = GOOD) -> Any:
    """Return the good mapping with a few values replaced, removed, or added."""
    result = copy.deepcopy(dict(good))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(result)))
        if not place:
            result[draw(st.one_of(_known_keys, _texts))] = draw(values)
            continue
        holder: Any = result
        for key in place[:-1]:
            holder = holder[key]
        act = draw(st.sampled_from(["replace", "remove", "add"]))
        inner = holder[place[-1]]
        if act == "remove":
            del holder[place[-1]]
        elif act == "add" and isinstance(inner, dict):
            inner[draw(st.one_of(_known_keys, _texts))] = draw(values)
        else:
            holder[place[-1]] = draw(values)
    return result


_scraps = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    b"name: x\n",
                    b"  - ",
                    b"? ",
                    b": ",
                    b"&a ",
                    b"*a",
                    b"<<: *a\n",
                    b"!!python/object ",
                ),
                *(
                    b"!!binary ",
                    b"!!int ",
                    b"!!float ",
                    b"!!set ",
                    b"!!timestamp ",
                    b"!t ",
                    b"%YAML 9\n",
                ),
                *(
                    b"---\n",
                    b"...\n",
                    b"{",
                    b"}",
                    b"[",
                    b"]",
                    b"\t",
                    b"\0",
                    b"\xff\xfe",
                    b"\xef\xbb\xbf",
                ),
                *(
                    b'"\\ud800"',
                    b'"\\x00"',
                    b"'",
                    b'"',
                    b"|\n",
                    b">-\n",
                    b"# c\n",
                    b"\r\n",
                    b"\xc3",
                    b"[",
                ),
                *(
                    b"[" * 3000,
                    b"- " * 2000,
                    b"{a: " * 500,
                    b"1" * 5000,
                    b"command: [true]\n",
                    b"\n",
                ),
            ]
        ),
        st.binary(max_size=6),
    ),
    max_size=12,
).map(b"".join)


def _as_text(record: Any) -> bytes:
    return json.dumps(record).encode()


#: What is in an ensemble file.
files = st.one_of(changed().map(_as_text), changed().map(_as_text), _scraps)

_cells = st.one_of(
    st.sampled_from(
        [
            *(
                b"a",
                b"b",
                b"",
                b" ",
                b"nan",
                b"inf",
                b"1e400",
                b"1e-400",
                b"9" * 400,
                b"0123",
                b"true",
            ),
            *(
                b'"',
                b'""',
                b'"x"y',
                b'"a\nb"',
                b"\0",
                b"\xff",
                b"\xef\xbb\xbf",
                b"\r",
                b"'",
                b"-",
                b"+",
            ),
            *(b"id", b"time_limit", b"priority", b"nodes", b"memory", b"x" * 200_000, b"{", b"[1]"),
        ]
    ),
    st.binary(max_size=4),
)
_csv = st.lists(st.lists(_cells, max_size=4).map(b",".join), max_size=5).map(b"\n".join)
_csv_with_ids = st.lists(st.lists(_cells, max_size=3).map(b",".join), max_size=4).map(
    lambda lines: b"id,x,y\n" + b"\n".join(lines)
)
_records = st.one_of(changed(ROWS[0]), values).map(_as_text)
_jsonl = st.lists(st.one_of(_records, _scraps), max_size=4).map(b"\n".join)


_columns = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=2, max_size=2),
    st.lists(st.one_of(st.none(), st.floats()), min_size=2, max_size=2),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=2, max_size=2),
    st.lists(st.one_of(st.none(), st.binary(max_size=4)), min_size=2, max_size=2),
    st.lists(st.one_of(st.none(), st.text(max_size=4)), min_size=2, max_size=2),
    st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=2, max_size=2),
    st.lists(st.one_of(st.none(), st.decimals(-9, 9, places=2)), min_size=2, max_size=2),
    st.lists(st.one_of(st.none(), st.datetimes()), min_size=2, max_size=2),
    st.lists(st.one_of(st.none(), st.dates()), min_size=2, max_size=2),
    st.lists(st.one_of(st.none(), st.times()), min_size=2, max_size=2),
    st.lists(st.timedeltas(timedelta(days=-9), timedelta(days=9)), min_size=2, max_size=2),
    st.lists(st.fixed_dictionaries({"deep": st.integers(0, 9)}), min_size=2, max_size=2),
    st.just([None, None]),
)
_names = st.sampled_from(["id", "x", "time_limit", "priority", "memory", "seed", "", "a b", "$x"])


def _as_parquet(columns: Mapping[str, list[Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), file)
    return file.getvalue()


_parquet = st.dictionaries(_names, _columns, max_size=3).map(
    lambda columns: _as_parquet({"id": ["a", "b"], **columns})
)


@dataclass(frozen=True)
class Table:
    """A file of simulations.

    :param name: its name, whose ending says what it should be.
    :param content: its bytes.
    """

    name: str
    content: bytes


tables = st.one_of(
    st.builds(Table, st.just("table.csv"), st.one_of(_csv, _csv_with_ids, _scraps)),
    st.builds(Table, st.just("table.jsonl"), st.one_of(_jsonl, _scraps)),
    st.builds(Table, st.just("table.parquet"), st.one_of(_parquet, _parquet, _scraps)),
)
arguments = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "run",
                    "check",
                    "status",
                    "show",
                    "logs",
                    "collect",
                    "gc",
                    "--json",
                    "--set",
                    "-f",
                ),
                *(
                    "--to",
                    "--first",
                    "--index",
                    "--name",
                    "--debug",
                    "-q",
                    "-vv",
                    "--all",
                    "--reason",
                ),
                *(
                    "--help",
                    "--version",
                    "--",
                    "-",
                    "x=1",
                    "=",
                    "parameters.x=[",
                    "name=",
                    "a",
                    "-1",
                ),
                *("execution=1", "execution.n_workers=x", "..=1", "simulations=.", "output=\0"),
            ]
        ),
        _texts.filter(lambda text: "\ud800" not in text),
    ),
    max_size=5,
)


def write_good(folder: Path) -> Path:
    """Write the good ensemble into a folder, and return its file."""
    folder.mkdir(parents=True)
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "model.py").write_text("def simulate(run): return {}\n")
    file = folder / "ensemble.yaml"
    file.write_text(json.dumps(GOOD))
    return file
