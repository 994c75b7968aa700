"""Variables and home folders in paths: what is put in, and what is refused by name."""

from __future__ import annotations

import json
import os
import pwd
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.ensemble import Ensemble, load
from airflow_ensemble.engine.ensemble.paths import CONTAINER, expand, references, substitute
from airflow_ensemble.engine.ensemble.schema import Place
from airflow_ensemble.engine.errors import UsageError

PLACE = Place("e.yaml", "output")
ME = pwd.getpwuid(os.getuid())
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)


class Elsewhere:
    """A side that knows what it is given, and remembers what it was asked for."""

    name = "on hpc"

    def __init__(self, **known: str) -> None:
        self.known: Mapping[str, str] = known
        self.asked: list[str] = []

    def look_up(self, names: Sequence[str]) -> Mapping[str, str]:
        self.asked.extend(names)
        return {name: self.known[name] for name in names if name in self.known}


def loaded(folder: Path, there: Elsewhere | None = None, **keys: Any) -> Ensemble:
    values = {
        "name": "tests",
        "model": "model:simulate",
        "simulations": [{"id": "a"}],
        "products": ["values"],
        "output": "output",
        **keys,
    }
    path = folder / "ensemble.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return load(path, there=there)


# --- one text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A/x", "/a b/x"),
        ("${A}x", "/a bx"),
        ("/s/$_B2-x", "/s/$A*-x"),
        ("$A$_B2", "/a b$A*"),
        ("a$$A", "a$A"),
        ("$$", "$"),
        ("$$$A", "$/a b"),
        ("x/~", "x/~"),
        ("./~nobody-here", "./~nobody-here"),
        ("s3://bucket-$C/x", "s3://bucket-c/x"),
        ("file://$A/x", "file:///a%20b/x"),
        ("/%d/*/[a]/`b`/\n/ü ", "/%d/*/[a]/`b`/\n/ü "),
    ],
)
def test_what_a_path_comes_to(monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    for name, value in {"A": "/a b", "_B2": "$A*", "C": "c"}.items():
        monkeypatch.setenv(name, value)
    assert expand(text, PLACE) == expected


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert expand("~", PLACE) == "/h"
    assert expand("~/x", PLACE) == "/h/x"
    assert expand(f"~{ME.pw_name}/x", PLACE) == f"{ME.pw_dir}/x"
    monkeypatch.delenv("HOME")
    assert expand("~/x", PLACE) == f"{ME.pw_dir}/x"
    # An empty one would make it a path from the root folder.
    monkeypatch.setenv("HOME", "")
    assert expand("~/x", PLACE) == f"{ME.pw_dir}/x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$UNSET/x", "e.yaml: output names the variable UNSET, which is not set here: set it, or"),
        ("/a/${UNSET}", "names the variable UNSET, which is not set here"),
        ("$EMPTY/x", "names the variable EMPTY, which is empty here"),
        ("$BYTES/x", "names the variable BYTES, which is not UTF-8 text here"),
        ("~no-such-user/x", "begins with the home folder ~no-such-user, which is not known here"),
        ("/a/$(id)/x", "'$(id)/x' is not expanded: only $NAME"),
        ("${A:-/tmp}/x", "'${A:-/tmp}/x' is not expanded"),
        ("${}", "'${}' is not expanded"),
        ("/run$1", "'$1' is not expanded"),
        ("/run$", "'$' is not expanded"),
        ("$ü", "is not expanded"),
        ("$-$$A", "'$-$$A' is not expanded"),
        ("~a\0/x", "output must be a path in UTF-8, without NUL characters"),
        ("/a/\ud800", "output must be a path in UTF-8, without NUL characters"),
    ],
)
def test_what_is_refused(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setitem(os.environb, b"BYTES", b"/a/\xff")  # type: ignore[misc]
    with pytest.raises(UsageError, match=re.escape(message)):
        expand(text, PLACE)


def test_a_home_folder_that_nothing_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654_321)
    with pytest.raises(UsageError, match="begins with the home folder ~, which is not known here"):
        expand("~/x", PLACE)


@given(st.lists(st.one_of(TEXTS, st.tuples(NAMES, TEXTS)), max_size=6))
def test_values_are_put_in_as_they_are(parts: list[str | tuple[str, str]]) -> None:
    values = dict(part for part in parts if isinstance(part, tuple))
    text = "/" + "".join(
        part.replace("$", "$$") if isinstance(part, str) else f"${{{part[0]}}}" for part in parts
    )
    expected = "/" + "".join(part if isinstance(part, str) else values[part[0]] for part in parts)
    names = references(text, PLACE)
    assert set(names) == set(values)
    assert substitute(text, values) == expected


@given(st.text())
def test_every_other_text_stays_or_is_refused(text: str) -> None:
    try:
        names = references(text, PLACE)
    except UsageError:
        assert "$" in text
        return
    if not names:
        assert substitute(text, {}) == text.replace("$$", "$")


def test_each_side_is_asked_for_its_own() -> None:
    there = Elsewhere(SCRATCH="/scratch/me")
    assert expand("$SCRATCH/x", PLACE, there) == "/scratch/me/x"
    with pytest.raises(UsageError, match="names the variable HOME, which is not set on hpc"):
        expand("$HOME/x", PLACE, there)
    assert expand("/plain", PLACE, there) == "/plain"
    assert there.asked == ["SCRATCH", "HOME"]
    with pytest.raises(UsageError, match="SCRATCH, which is not set in a container"):
        expand("/$SCRATCH", PLACE, CONTAINER)


# --- the keys of a file ---------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "root" / "code").mkdir(parents=True)
    return tmp_path / "root"


def test_every_path_key_of_a_file(tmp_path: Path, environment: Path) -> None:
    ensemble = loaded(
        tmp_path,
        simulations="$ROOT/table.csv",
        output="${ROOT}/out/",
        control="~/control",
        index="$ROOT/index.sqlite",
        execution={"code": ["$ROOT/code"], "python": "~/bin/python", "backend": "slurm",
                   "remote_root": "$ROOT/slurm"},
    )  # fmt: skip
    assert ensemble.simulations == environment / "table.csv"
    assert ensemble.output == f"{environment}/out"
    assert ensemble.recipe().output == f"{environment}/out"
    assert ensemble.control == tmp_path / "home/control"
    assert ensemble.index == ensemble.index_location() == f"{environment}/index.sqlite"
    assert ensemble.execution["code"] == (f"{environment}/code",)
    assert ensemble.execution["python"] == str(tmp_path / "home/bin/python")
    assert ensemble.execution["remote_root"] == f"{environment}/slurm"
    plain = loaded(tmp_path)
    assert ensemble.settings.hash == plain.settings.hash


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"simulations": "$NOPE/t.csv"}, "simulations"),
        ({"output": "$NOPE/out"}, "output"),
        ({"output": "s3://$NOPE/out", "control": "c"}, "output"),
        ({"control": "$NOPE/c"}, "control"),
        ({"index": "$NOPE/i.sqlite"}, "index"),
        ({"execution": {"code": ["model.py", "$NOPE/m"]}}, "execution.code"),
        ({"execution": {"python": "$NOPE/python"}}, "execution.python"),
        ({"execution": {"backend": "slurm", "remote_root": "$NOPE/r"}}, "execution.remote_root"),
        (
            {"execution": {"kubernetes": {"volumes": {"/data/$NOPE": "claim"}}}},
            "execution.kubernetes.volumes",
        ),
    ],
)
def test_an_unset_variable_is_refused_by_key_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], key: str
) -> None:
    monkeypatch.delenv("NOPE", raising=False)
    (tmp_path / "model.py").touch()
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, **keys)
    assert f"ensemble.yaml: {key} names the variable NOPE, which is not set" in str(caught.value)


def test_code_with_too_long_a_name_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"execution\.code: there is no "):
        loaded(tmp_path, execution={"code": ["x" * 300]})


def test_overrides_are_expanded_like_the_file(tmp_path: Path, environment: Path) -> None:
    path = loaded(tmp_path).path
    assert load(path, {"output": "$ROOT/x"}).output == f"{environment}/x"
    assert load(path, {"output": Path("$ROOT/x")}).output == f"{environment}/x"


def test_a_variable_may_hold_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "my-bucket")
    monkeypatch.setenv("STORE", "s3://my-bucket")
    for written in ("s3://$BUCKET/x/", "$STORE/x"):
        assert loaded(tmp_path, output=written, control="c").output == "s3://my-bucket/x"


def test_names_with_a_dollar_are_reached(tmp_path: Path) -> None:
    assert loaded(tmp_path, output="a$$b").output == str(tmp_path / "a$b")
    folder = tmp_path / "x$HOME"
    folder.mkdir()
    # The folder of the file is not what a person wrote into it.
    ensemble = loaded(folder)
    assert ensemble.output == str(folder / "output")
    assert ensemble.index_location() == str(folder / "output/.ensemble/index.sqlite")


def test_what_env_names_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEX", "/data/$HOME/index.sqlite")
    ensemble = loaded(tmp_path, index="env:INDEX")
    assert ensemble.index_location() == "/data/$HOME/index.sqlite"


@pytest.mark.parametrize("held", ["postgresql://me:secret@db/x", "env:OTHER", "conn:index"])
def test_a_variable_in_the_path_of_an_index_holds_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.setenv("INDEX", held)
    with pytest.raises(UsageError, match=r"'\$INDEX' holds no path: .* env:NAME") as caught:
        loaded(tmp_path, index="$INDEX")
    assert held not in str(caught.value)


def test_a_dsn_in_another_encoding_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INDEX", "postgresql://me:secret\udce9@db/x")
    ensemble = loaded(tmp_path, index="env:INDEX")
    with pytest.raises(UsageError, match=r"variable INDEX, which is not UTF-8 text") as caught:
        ensemble.index_location()
    assert "secret" not in str(caught.value)


# --- a cluster's paths ----------------------------------------------------------------------------


def test_a_clusters_paths_are_the_clusters(tmp_path: Path, environment: Path) -> None:
    there = Elsewhere(ROOT="/there", **{"~": "/home/me"})
    ensemble = loaded(
        tmp_path,
        there,
        output="$ROOT/out",
        control="$ROOT/control",
        execution={"remote_root": "~/ens", "python": "$ROOT/python", "collect_to": "$ROOT/all.nc",
                   "code": ["$ROOT/code"]},
    )  # fmt: skip
    assert ensemble.output == "/there/out"
    assert ensemble.control == environment / "control"
    assert ensemble.execution == {
        "remote_root": "/home/me/ens",
        "python": "/there/python",
        "collect_to": "/there/all.nc",
        "code": (f"{environment}/code",),
    }


@pytest.mark.parametrize("output", ["$ROOT/out", "${ROOT}"])
def test_a_relative_folder_of_a_cluster_is_not_taken_for_one_beside_the_file(
    tmp_path: Path, output: str
) -> None:
    there = Elsewhere(ROOT="scratch/me")
    with pytest.raises(UsageError, match=r"output must be the absolute path .* on the cluster"):
        loaded(tmp_path, there, output=output, control="c")


@pytest.mark.parametrize("keys", [{"output": "s3://b/x"}, {"execution": {"fetch": "products"}}])
def test_what_this_machine_collects_it_writes_here(
    tmp_path: Path, environment: Path, keys: dict[str, Any]
) -> None:
    execution = {**keys.pop("execution", {}), "collect_to": "$ROOT/all.nc"}
    given = {"output": "/there", "control": "c", **keys, "execution": execution}
    ensemble = loaded(tmp_path, Elsewhere(ROOT="/there"), **given)
    assert ensemble.execution["collect_to"] == f"{environment}/all.nc"


def test_paths_that_nobody_uses_may_name_what_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCRATCH", raising=False)
    execution = {"remote_root": "$SCRATCH/ens", "collect_to": "$SCRATCH/all.nc"}
    assert loaded(tmp_path, execution=execution).execution == execution


@pytest.mark.parametrize("value", ["relative", "~/x", "/a\nb"])
def test_a_remote_root_is_judged_by_what_it_comes_to(tmp_path: Path, value: str) -> None:
    there = Elsewhere(ROOT=value)
    with pytest.raises(UsageError, match=r"execution\.remote_root must be the absolute path"):
        loaded(tmp_path, there, execution={"remote_root": "$ROOT/x"})
