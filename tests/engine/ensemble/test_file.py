"""The ensemble file: what it may say, what it comes to, and everything that is refused."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.ensemble import KEYS, MERGED, Ensemble, build, load, merge
from airflow_ensemble.engine.ensemble.settings import placeholders
from airflow_ensemble.engine.ensemble.starter import starter_files, write_starter
from airflow_ensemble.engine.ensemble.yaml_text import parse_value, parse_yaml
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.recipe import ProductSpec, Recipe
from airflow_ensemble.engine.simulation import Limits, Resources, Simulation
from tests.engine.strategies import params

#: A character beyond the first 65,536, as JSON escapes it.
SURROGATES = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
MINIMAL = {
    "name": "tests",
    "model": "model:simulate",
    "simulations": "table.csv",
    "products": ["values"],
    "output": "output",
}
COMMAND = {
    **{key: value for key, value in MINIMAL.items() if key != "model"},
    "command": ["lmp", "-var", "T", "{temperature}"],
    "products": {"dump": {"glob": "*.dump"}},
}


def write(folder: Path, text: str) -> Path:
    path = folder / "ensemble.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, /, **keys: Any) -> Ensemble:
    values = {**MINIMAL, **keys}
    return load(write(folder, json.dumps({k: v for k, v in values.items() if v is not None})))


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        action()
    assert caught.value.exit_code == 2
    return str(caught.value)


# --- what a file comes to -------------------------------------------------------------------------


def test_defaults(tmp_path: Path) -> None:
    ensemble = loaded(tmp_path)
    assert ensemble == Ensemble(
        path=tmp_path / "ensemble.yaml",
        name="tests",
        settings=ensemble.settings,
        simulations=tmp_path / "table.csv",
        output=str(tmp_path / "output"),
        control=tmp_path / "output" / ".ensemble",
        index="sqlite",
        skip_existing=True,
        limits=Limits(3, 20),
        max_failed=0,
        time_limit=None,
        logs="failed",
        resources=Resources(),
        execution={},
        control_is_default=True,
    )
    assert ensemble.settings.model == "model:simulate"
    assert ensemble.settings.products == (ProductSpec("values"),)
    assert ensemble.index_location() == str(tmp_path / "output/.ensemble/index.sqlite")


def test_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    path = write(
        tmp_path,
        """
        name: slc-footprints
        command: [lmp, -in, in.melt, -n, 4, -var, T, "{temperature:.1f}", "{{x}}", "{id}"]
        model_version: 2.1
        seed: 42
        parameters: {n_hours: -3, when: 2015-12-10, nested: {list: [1, 2.5, null]}}
        simulations: &table
          - {id: 007, temperature: 300}
          - {id: b, temperature: 310.5, tasks: 4, time_limit: 00:01:00}
        products:
          dump: {glob: "*.dump"}
          restart: {glob: "out/restart.*", optional: yes}
        output: s3://bucket/prefix/
        control: control
        index: env:INDEX
        skip_existing: off
        max_attempts: 5
        max_interruptions: 7
        max_failed: 5%
        time_limit: 00:10:00
        logs: all
        resources: {memory: 4G, cores_per_task: 2}
        execution:
          backend: slurm
          n-workers: 200
          array_parallelism: 50
          partition: mypartition
          time: 10:00:00
          cpus_per_task: 2
          mem_per_cpu: 2G
          exclusive: true
          code: code
          python: /opt/python
        """,
    )
    ensemble = load(path)
    assert ensemble.recipe() == Recipe(
        ensemble="slc-footprints",
        settings=ensemble.settings,
        output="s3://bucket/prefix",
        limits=Limits(5, 7),
        time_limit=600.0,
        logs="all",
        code=(str(tmp_path / "code"),),
    )
    settings = ensemble.settings
    assert settings.command[3:5] == ("-n", "4")
    assert settings.model is None
    assert settings.model_version == "2.1"
    assert settings.seed == 42
    assert settings.parameters == {
        "n_hours": -3, "when": "2015-12-10", "nested": {"list": [1, 2.5, None]}
    }  # fmt: skip
    assert settings.products == (
        ProductSpec("dump", "*.dump"),
        ProductSpec("restart", "out/restart.*", optional=True),
    )
    assert ensemble.control == tmp_path / "control"
    assert ensemble.skip_existing is False
    assert ensemble.max_failed == "5%"
    assert ensemble.execution == {
        "backend": "slurm", "n_workers": 200, "array_parallelism": 50, "partition": "mypartition",
        "time": "10:00:00", "cpus-per-task": 2, "mem-per-cpu": "2G", "exclusive": True,
        "code": (str(tmp_path / "code"),), "python": "/opt/python",
    }  # fmt: skip
    default = Resources(memory=4096, cores_per_task=2)
    assert list(ensemble.read_simulations()) == [
        Simulation("007", {"temperature": 300}, default),
        Simulation(
            "b", {"temperature": 310.5}, Resources(tasks=4, memory=4096, cores_per_task=2), 60.0
        ),
    ]
    assert [s.id for s in ensemble.read_simulations(1)] == ["007"]
    json.dumps(ensemble.recipe().as_dict())


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    loaded(folder, control="../control", index="../i.sqlite", output="~/out")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    ensemble = load("folder/ensemble.yaml", {"simulations": "/elsewhere/t.csv"})
    assert ensemble.path == folder / "ensemble.yaml"
    assert ensemble.control == tmp_path / "control"
    assert ensemble.index_location() == str(tmp_path / "i.sqlite")
    assert ensemble.output == str(tmp_path / "home" / "out")
    assert ensemble.simulations == Path("/elsewhere/t.csv")


def test_a_control_folder_that_was_named_is_no_default(tmp_path: Path) -> None:
    assert not loaded(tmp_path, control="output/.ensemble").control_is_default
    path = write(tmp_path, json.dumps(MINIMAL))
    assert not load(path, {"control": "records"}).control_is_default
    assert load(path, {"control": None}).control_is_default


def test_a_file_uri_is_a_local_output(tmp_path: Path) -> None:
    ensemble = loaded(tmp_path, output=f"file://{tmp_path}/a%20b")
    assert ensemble.output == str(tmp_path / "a b")
    assert ensemble.control == tmp_path / "a b" / ".ensemble"


def test_the_settings_hash_covers_what_decides_results_and_nothing_else(tmp_path: Path) -> None:
    def hash_of(**keys: Any) -> str:
        return loaded(tmp_path, **keys).settings.hash

    plain = hash_of()
    for same in (
        {"execution": {"n_workers": 9}}, {"index": "other.sqlite"}, {"output": "elsewhere"},
        {"max_attempts": 9}, {"max_failed": "5%"}, {"skip_existing": False}, {"time_limit": 5},
        {"logs": "all"}, {"resources": {"tasks": 2}}, {"simulations": "other.csv"},
        {"control": "control"}, {"name": "renamed"}, {"products": {"values": None}},
    ):  # fmt: skip
        assert hash_of(**same) == plain, same
    different = [
        hash_of(**keys)
        for keys in (
            {"model": "model:other"}, {"model_version": "2"}, {"parameters": {"x": 1}},
            {"products": ["others"]}, {"products": {"values": {"optional": True}}}, {"seed": 1},
        )
    ]  # fmt: skip
    assert len({plain, *different}) == len(different) + 1


def test_an_ensemble_is_frozen(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        loaded(tmp_path).name = "other"  # type: ignore[misc]


# --- YAML -----------------------------------------------------------------------------------------


def test_values_are_read_as_they_are_written() -> None:
    values = parse_yaml(
        """
        time: 10:00:00
        minutes: 1:30
        octal: 010
        date: 2015-12-10 00:00
        grouped: 1_000
        hexadecimal: 0x10
        words: [yes, no, on, off, y, n]
        truth: [true, True, false]
        numbers: [1e5, .5, 5., +3, -0, 1.5e-3]
        long: 12345678901234567890
        nothing: [null, ~, ]
        quoted: ['5', "true"]
        """,
        "file",
    )
    assert values == {
        "time": "10:00:00", "minutes": "1:30", "octal": "010", "date": "2015-12-10 00:00",
        "grouped": "1_000", "hexadecimal": "0x10",
        "words": ["yes", "no", "on", "off", "y", "n"], "truth": [True, True, False],
        "numbers": [1e5, 0.5, 5.0, 3, 0, 1.5e-3], "long": "12345678901234567890",
        "nothing": [None, None], "quoted": ["5", "true"],
    }  # fmt: skip
    assert parse_value("10:00:00", "--set time") == "10:00:00"


def test_anchors_and_merges_work() -> None:
    text = "base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\n"
    assert parse_yaml(text, "file")["own"] == {"x": 1, "y": 3}


@given(params)
def test_what_json_holds_survives(values: dict[str, Any]) -> None:
    # Pairs of surrogate escapes are JSON but not YAML.
    text = SURROGATES.sub(
        lambda pair: pair[0].replace("\\", ""), json.dumps({"parameters": values})
    )
    assert parse_yaml(text, "file") == json.loads(text)


@given(params.filter(lambda values: not any("\x85" in key for key in values)))
def test_what_yaml_writes_of_plain_texts_survives(values: dict[str, Any]) -> None:
    plain = {key: str(value) for key, value in values.items()}
    text = yaml.safe_dump({"parameters": plain}, allow_unicode=False, default_style='"')
    assert parse_yaml(text, "file") == {"parameters": plain}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "e.yaml is empty: `ensemble init` writes a starter file"),
        ("# only a comment\n", "e.yaml is empty"),
        ("- a\n- b\n", "e.yaml must hold a mapping (key: value), found a list of 2"),
        ("just text", "e.yaml must hold a mapping (key: value), found the text 'just text'"),
        ("name: a\nseed: 1\nname: b\n", "e.yaml, line 3: the key 'name' stands in line 1 already"),
        ("p:\n  x: 1\n  x: 2\n", "e.yaml, line 3: the key 'x' stands in line 2 already"),
        ("a: [1, 2\nb: 3\n", "e.yaml, line 2: "),
        ("a: 1\n---\nb: 2\n", "e.yaml, line 2: but found another document"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: *nowhere\n", "e.yaml, line 1: found undefined alias"),
        ("a: \x00b\n", "e.yaml is not YAML"),
        ("[1]: 2\n", "e.yaml, line 1: found unhashable key"),
    ],
)
def test_what_is_no_ensemble_file(text: str, message: str) -> None:
    assert message in refusal(lambda: parse_yaml(text, "e.yaml"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert f"there is no ensemble file {missing}" in refusal(lambda: load(missing))
    assert "cannot be read: Is a directory" in refusal(lambda: load(tmp_path))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: é".encode("latin-1"))
    assert f"{latin} is not UTF-8 text" in refusal(lambda: load(latin))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"modle": "m:f"}, "modle is not a known key. Did you mean 'model'?"),
        ({"max-attempts": 2}, "max-attempts is not a known key. Did you mean 'max_attempts'?"),
        ({"zzz": 1}, "zzz is not a known key. Known are: name, model, command"),
        ({"name": None}, "the key 'name' is missing"),
        ({"output": None}, "the key 'output' is missing"),
        ({"simulations": None}, "the key 'simulations' is missing"),
        ({"products": None}, "the key 'products' is missing"),
        ({"model": None}, "give either 'model' (module:function) or 'command'"),
        ({"command": ["ls"]}, "'command' (a list of arguments), found both"),
        ({"name": "a b"}, "name must be a name of letters, digits"),
        ({"name": "../x"}, "name must be a name of letters, digits"),
        ({"name": 7}, "name must be a name of letters, digits, '.', '_' and '-', found the num"),
        ({"model": "simulate"}, "model must be of the form module:function, found the text 'sim"),
        ({"model": ["m:f"]}, "model must be of the form module:function, found a list of 1"),
        ({"model_version": [1]}, "model_version must be a text, found a list of 1"),
        ({"seed": "x"}, "seed must be a whole number of at least 0, found the text 'x'"),
        ({"seed": -1}, "seed must be a whole number of at least 0, found the number -1"),
        ({"seed": True}, "seed must be a whole number of at least 0, found true"),
        ({"parameters": [1]}, "parameters must be a mapping, found a list of 1"),
        ({"parameters": {"a": {"b": [1, float("nan")]}}}, "parameters.a.b.1 must be a finite num"),
        ({"parameters": {"x": float("inf")}}, "parameters.x must be a finite number"),
        ({"simulations": {"x": 1}}, "simulations must be the path of a table, or a list of"),
        ({"simulations": ["a"]}, "simulations.0 must be a mapping, found the text 'a'"),
        ({"simulations": "s3://b/t.csv"}, "simulations must be a local path"),
        ({"products": "values"}, "products must be a list of names, or a mapping"),
        ({"products": ["Values"]}, "products.0 must be a product's name"),
        ({"products": ["logs"]}, "products.0 must be a product's name"),
        ({"products": ["a", "b", "a"]}, "products names 'a' twice"),
        ({"products": {"a": {"globb": "x"}}}, "products.a.globb is not a known key. Did you mean"),
        ({"products": {"a": "*.nc"}}, "products.a must be a mapping"),
        ({"products": {"a": {"glob": "/etc/*"}}}, "products.a.glob must be a pattern below the w"),
        ({"products": {"a": {"glob": "../*"}}}, "products.a.glob must be a pattern below the wor"),
        ({"products": {"a": {"optional": "maybe"}}}, "products.a.optional must be true or false"),
        ({"output": 5}, "output must be a path or a URI"),
        ({"output": "file://host/x"}, "output: 'file://host/x' is not a local file URI"),
        ({"output": "s3://b/x"}, "control is missing: the output s3://b/x is in an object store"),
        ({"control": "s3://b/x"}, "control must be a local path"),
        ({"index": 5}, "index must be sqlite, a path, env:NAME, conn:ID"),
        ({"index": "env:"}, "index must be sqlite, a path, env:NAME, conn:ID"),
        ({"index": "env:A B"}, "index must be sqlite, a path, env:NAME, conn:ID"),
        ({"index": "mysql://u@h/d"}, "'mysql://' is none of them"),
        ({"skip_existing": 1}, "skip_existing must be true or false, found the number 1"),
        ({"max_attempts": 0}, "max_attempts must be a whole number of at least 1"),
        ({"max_attempts": "3"}, "max_attempts must be a whole number of at least 1, found the te"),
        ({"max_interruptions": 1.5}, "max_interruptions must be a whole number of at least 1"),
        ({"max_failed": -1}, "max_failed must be a number of simulations or a percentage"),
        ({"max_failed": "five"}, "max_failed must be a number of simulations or a percentage"),
        ({"max_failed": "120%"}, "max_failed must be a number of simulations or a percentage"),
        ({"max_failed": "nan%"}, "max_failed must be a number of simulations or a percentage"),
        ({"time_limit": 0}, "time_limit must be a positive number of seconds or a text HH:MM:SS"),
        ({"time_limit": "10:00"}, "time_limit must be a positive number of seconds or a text HH"),
        ({"time_limit": float("inf")}, "time_limit must be a positive number of seconds"),
        ({"logs": "some"}, "logs must be one of failed, all, found the text 'some'"),
        ({"logs": ["all"]}, "logs must be one of failed, all, found a list of 1"),
        ({"resources": {"core": 1}}, "resources.core is not a known key"),
        ({"resources": {"memory": "lots"}}, "resources.memory must be a positive number of MiB"),
        ({"execution": 5}, "execution must be a mapping"),
        ({"execution": {"backend": "slrum"}}, "execution.backend must be one of local, slurm"),
        ({"execution": {"n_workers": 0}}, "execution.n_workers must be a whole number of at lea"),
        ({"execution": {"n_worker": 1}}, "execution.n_worker is not a known key. Did you mean"),
        ({"execution": {"n_workers": 1, "n-workers": 2}}, "execution.n-workers is given twice"),
        ({"execution": {"mem": {"x": 1}}}, "execution.mem must be an option for sbatch"),
        ({"execution": {"mem": float("nan")}}, "execution.mem must be a finite number"),
        ({"execution": {"code": ["nowhere"]}}, "execution.code: there is no "),
        ({"execution": {"code": [5]}}, "execution.code.0 must be a text, found the number 5"),
    ],
)
def test_wrong_values(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = tmp_path / "ensemble.yaml"
    values = {key: value for key, value in {**MINIMAL, **keys}.items() if value is not None}
    found = refusal(lambda: build(path, values))
    assert message in found
    assert found.startswith(str(path))


@pytest.mark.parametrize("value", [5, {1: 2}, {"": 1}, {None: 1}])
def test_keys_of_parameters_are_texts(tmp_path: Path, value: Any) -> None:
    values = {**MINIMAL, "parameters": value}
    assert "parameters must be a mapping" in refusal(lambda: build(tmp_path / "e.yaml", values))


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"command": "lmp -in x"},
            "command must be a list of arguments, found 'lmp -in x': no shell reads it, so write "
            "command: [lmp, -in, x]",
        ),
        ({"command": []}, "command must be a list of arguments, the program first"),
        ({"command": ["  "]}, "command.0 must be the program to run"),
        ({"command": ["a", None]}, "command.1 must be a text (quote it"),
        ({"command": ["a", True]}, "command.1 must be a text (quote it"),
        ({"command": ["a", "{x"]}, "command: command argument '{x'"),
        ({"command": ["a", "{}"]}, "only {name} and {name:format} are filled"),
        ({"products": ["dump"]}, "products.dump: a command's product needs a pattern"),
        ({"products": {"dump": None}}, "products.dump: a command's product needs a pattern"),
        ({"parameters": {"seed": 1}, "command": ["a", "{seed}"]}, "parameters.seed: {seed} in a"),
        ({"parameters": {"cpus": 1}, "command": ["a", "{cpus}"]}, "parameters.cpus: {cpus} in a"),
    ],
)
def test_wrong_commands(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: build(tmp_path / "e.yaml", {**COMMAND, **keys}))


def test_placeholders() -> None:
    command = ("{program}", "{{literal}}", "-x={x:.2f}{y}", "plain", "{id}")
    assert placeholders(command) == {"program", "x", "y", "id"}
    assert placeholders(()) == frozenset()


def test_columns_that_a_command_uses_are_checked(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id,temp\na,300\n")
    ensemble = build(tmp_path / "e.yaml", COMMAND)
    message = refusal(lambda: list(ensemble.read_simulations()))
    assert f"{tmp_path}/table.csv: there is no column 'temperature'" in message
    common = build(tmp_path / "e.yaml", {**COMMAND, "parameters": {"temperature": 1}})
    assert [s.id for s in common.read_simulations()] == ["a"]
    own = {**COMMAND, "simulations": [{"id": "b", "temperature": 1}], "command": ["x", "{seed}"]}
    assert [s.id for s in build(tmp_path / "e.yaml", own).read_simulations()] == ["b"]


# --- the index ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://user:hunter2@host/db",
        "postgres://user:hunter2@host:5432/db?sslmode=require",
        "postgresql+psycopg://user:hunter2@host/db",
        "postgresql://host/db?user=u&password=hunter2",
        "host=h dbname=d PASSWORD = hunter2",
        "mysql://user:hunter2@host/db",
        "postgresql://user:hunter2@[broken",
    ],
)
def test_a_password_is_refused_and_not_repeated(tmp_path: Path, dsn: str) -> None:
    for action in (
        lambda: loaded(tmp_path, index=dsn),
        lambda: load(write(tmp_path, json.dumps(MINIMAL)), {"index": dsn}),
    ):
        message = refusal(action)
        assert "index holds a password: leave it out" in message
        assert "hunter2" not in message


def test_index_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def location(spec: str, resolve: Callable[[str], str] | None = None) -> str:
        return loaded(tmp_path, index=spec).index_location(resolve)

    assert location("postgresql://user@host/db") == "postgresql://user@host/db"
    assert location("postgres://host/db") == "postgresql://host/db"
    assert location("/abs/i.sqlite") == "/abs/i.sqlite"
    monkeypatch.setenv("INDEX", "postgres://user:hunter2@host/db")
    assert location("env:INDEX") == "postgresql://user:hunter2@host/db"
    monkeypatch.setenv("INDEX", "relative.sqlite")
    assert location("env:INDEX") == str(tmp_path / "relative.sqlite")
    assert location("conn:pg", {"pg": "postgres://u:p@h/d"}.__getitem__) == "postgresql://u:p@h/d"


def test_index_references_that_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INDEX", raising=False)
    from_variable = loaded(tmp_path, index="env:INDEX")
    message = refusal(from_variable.index_location)
    assert "index names the environment variable INDEX, which is not set" in message
    from_connection = loaded(tmp_path, index="conn:pg")
    assert "'pg', which only Airflow can look up" in refusal(from_connection.index_location)
    message = refusal(lambda: from_connection.index_location(lambda _: "mysql://u:hunter2@h/d"))
    assert "leads to a 'mysql://' database" in message
    assert "hunter2" not in message


# --- overrides ------------------------------------------------------------------------------------


def test_overrides_lie_over_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        json.dumps(
            {
                **MINIMAL,
                "parameters": {"met": {"dir": "a", "tres": 1}, "numpar": 100},
                "execution": {"n_workers": 2, "cpus-per-task": 1, "mem-per-cpu": "1G"},
            }
        ),
    )
    ensemble = load(
        path,
        {
            "simulations": "tonight.csv",
            "parameters": {"met": {"dir": "b"}},
            "parameters.numpar": 200,
            "parameters.extra": None,
            "execution": {"cpus_per_task": 4, "n_workers": None},
            "execution.mem_per_cpu": "2G",
            "skip_existing": False,
            "time_limit": None,
        },
    )
    assert ensemble.simulations == tmp_path / "tonight.csv"
    assert ensemble.settings.parameters == {
        "met": {"dir": "b", "tres": 1}, "numpar": 200, "extra": None
    }  # fmt: skip
    assert ensemble.execution == {"n_workers": 2, "cpus-per-task": 4, "mem-per-cpu": "2G"}
    assert ensemble.skip_existing is False


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"execution.n_worker": 3}, "execution.n_worker is not a known key. Did you mean"),
        ({"execution.n_workers": "3"}, "execution.n_workers must be a whole number"),
        ({"simulatons": "x"}, "simulatons is not a known key. Did you mean 'simulations'?"),
        ({"products.values": {"glob": "x"}}, "override 'products.values': only keys below"),
        ({"parameters": 5}, "parameters must be a mapping"),
        ({"parameters.x": float("nan")}, "parameters.x must be a finite number"),
        ({5: 1}, "5 is not a known key"),
    ],
)
def test_overrides_are_judged_like_the_file(
    tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, json.dumps(MINIMAL))
    assert message in refusal(lambda: load(path, overrides))


word = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
tree = st.recursive(st.integers(), lambda x: st.dictionaries(word, x, min_size=1), max_leaves=8)
trees = st.dictionaries(word, tree, max_size=4)


def flatten(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}.{key}"))
        else:
            flat[f"{prefix}.{key}"] = value
    return flat


@given(file=trees, over=trees)
def test_dotted_and_nested_overrides_are_equal(file: dict[str, Any], over: dict[str, Any]) -> None:
    before = copy.deepcopy(file)
    nested = merge({"parameters": file}, {"parameters": over})
    assert merge({"parameters": file}, flatten(over, "parameters")) == nested
    assert flatten(nested["parameters"], "").items() >= flatten(over, "").items()
    assert file == before


@given(trees)
def test_an_override_laid_twice_is_laid_once(over: dict[str, Any]) -> None:
    once = merge({"parameters": {"x": 1}}, {"parameters": over})
    assert merge(once, {"parameters": over}) == once
    assert merge(once, {}) == once


def test_merged_keys_are_keys() -> None:
    assert set(MERGED) <= set(KEYS)


# --- the starter ----------------------------------------------------------------------------------


def test_the_starter_is_valid_and_its_model_runs(tmp_path: Path) -> None:
    written = write_starter(tmp_path / "new" / "folder")
    assert sorted(path.name for path in written) == sorted(starter_files())
    ensemble = load(tmp_path / "new" / "folder" / "ensemble.yaml")
    simulations = list(ensemble.read_simulations())
    assert len(simulations) == 4
    code = f"""
import json, pathlib, sys, types
sys.path.insert(0, {ensemble.recipe().code[0]!r})
import model
empty = 0
for n, params in enumerate(json.loads({json.dumps([dict(s.params) for s in simulations])!r})):
    folder = pathlib.Path({str(tmp_path)!r}) / str(n)
    folder.mkdir()
    params["threshold"] = {ensemble.settings.parameters["threshold"]!r}
    run = types.SimpleNamespace(params=params, workdir=folder, seed=n + 1)
    products = model.simulate(run)
    assert sorted(products) == {sorted(p.name for p in ensemble.settings.products)!r}
    assert products["track"].stat().st_size > 100
    empty += products["crossing"] is None
print(empty)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert 0 <= int(done.stdout) < 4


def test_the_starter_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("mine")
    assert "model.py exists already: nothing was written" in refusal(
        lambda: write_starter(tmp_path)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
    blocked = tmp_path / "model.py" / "below"
    assert "cannot write a starter into" in refusal(lambda: write_starter(blocked))


def test_a_device_is_no_ensemble_file(tmp_path: Path) -> None:
    file = tmp_path / "ensemble.yaml"
    file.symlink_to("/dev/zero")  # it has no end
    with pytest.raises(UsageError, match=r"ensemble\.yaml is a device: name an ensemble file"):
        load(file)
