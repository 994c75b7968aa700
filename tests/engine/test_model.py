"""Loading and running one simulation, in this process."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from airflow_ensemble.engine import storage
from airflow_ensemble.engine.errors import ModelError
from airflow_ensemble.engine.model import (
    Invalid,
    PythonModel,
    Result,
    Run,
    execute,
    load_function,
    load_model,
    remove_workdir,
)
from airflow_ensemble.engine.pool.child import Publisher
from airflow_ensemble.engine.products import suffix_of
from airflow_ensemble.engine.recipe import ProductSpec, Recipe, Settings
from airflow_ensemble.engine.simulation import ProductStatus, Reason

COMPLETE, EMPTY, FAILED = (
    ProductStatus.COMPLETE,
    ProductStatus.COMPLETE_EMPTY,
    ProductStatus.FAILED,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    workdir = tmp_path / "work"
    workdir.mkdir()
    return Run("s1", {"x": 2}, workdir, seed=7, cpus=3, attempt=2)


class Bench:
    """Runs functions as models and keeps their products."""

    def __init__(self, tmp_path: Path, run: Run) -> None:
        self.root = storage.open_root(tmp_path / "output")
        self._run = run
        recipe = Recipe("tests", Settings(model="a:b"), str(tmp_path / "output"))
        self.publish = Publisher(recipe, "token")
        self.publish.id, self.publish.attempt = run.id, run.attempt

    def model(self, function: Any, *names: str, optional: tuple[str, ...] = ()) -> Result:
        specs = [ProductSpec(name, optional=name in optional) for name in (*names, *optional)]
        return execute(PythonModel(function), self._run, specs, self.publish)

    def returning(self, value: Any, *names: str, optional: tuple[str, ...] = ()) -> Result:
        return self.model(lambda run: value, *names, optional=optional)

    def command(self, *arguments: str, globs: Mapping[str, str], **optional: str) -> Result:
        specs = [ProductSpec(name, glob) for name, glob in globs.items()]
        specs += [ProductSpec(name, glob, optional=True) for name, glob in optional.items()]
        model = load_model(Settings(command=arguments, products=tuple(specs)))
        return execute(model, self._run, specs, self.publish)

    @property
    def published(self) -> list[str]:
        return [name for name, _ in self.root.list("")]


@pytest.fixture
def bench(tmp_path: Path, run: Run) -> Bench:
    return Bench(tmp_path, run)


# --- products -------------------------------------------------------------------------------------


def test_a_dataset_becomes_netcdf_with_size_and_checksum(bench: Bench) -> None:
    dataset = xr.Dataset({"foot": ("x", np.arange(3.0))}, attrs={"units": "ppm"})
    result = bench.returning({"foot": dataset}, "foot")

    assert result.reason is None
    (product,) = result.products
    assert product.path is not None
    assert product.path.endswith("/s1.token-2.nc")
    file = bench.root.fetch(product.path)
    assert product.size == file.stat().st_size
    with file.open("rb") as stream:
        assert storage.measure(stream)[1] == product.checksum
    with xr.open_dataset(file) as back:
        xr.testing.assert_identical(back.load(), dataset)


def test_an_array_and_a_table_are_written_in_their_formats(bench: Bench) -> None:
    table = pd.DataFrame({"a": [1, 2]})
    result = bench.returning({"a": xr.DataArray([1.0, 2.0], name="a"), "t": table}, "a", "t")

    assert [p.status for p in result.products] == [COMPLETE, COMPLETE]
    a, t = (bench.root.fetch(p.path or "") for p in result.products)
    with xr.open_dataarray(a) as array:
        assert array.values.tolist() == [1.0, 2.0]
    pd.testing.assert_frame_equal(pd.read_parquet(t), table)


@pytest.mark.parametrize("as_text", [True, False])
def test_a_path_is_moved_and_keeps_its_suffix(bench: Bench, run: Run, as_text: bool) -> None:
    file = run.workdir / "deep" / "out.tar.gz"
    file.parent.mkdir()
    file.write_bytes(b"content")
    result = bench.returning({"p": "deep/out.tar.gz" if as_text else file}, "p")

    assert result.products[0].path is not None
    assert result.products[0].path.endswith(".tar.gz")
    assert bench.root.read(result.products[0].path) == b"content"
    assert not file.exists()


def test_a_file_that_is_not_the_simulations_own_is_copied(
    bench: Bench, run: Run, tmp_path: Path
) -> None:
    precious = tmp_path / "precious.dat"
    precious.write_text("shared by all")
    (run.workdir / "link.dat").symlink_to(precious)
    result = bench.returning({"direct": precious, "linked": "link.dat"}, "direct", "linked")

    assert result.reason is None
    assert precious.read_text() == "shared by all"
    assert [bench.root.read(p.path or "") for p in result.products] == [b"shared by all"] * 2


def test_one_file_under_two_names_is_two_products(bench: Bench, run: Run) -> None:
    (run.workdir / "out").write_text("x")
    result = bench.returning({"a": "out", "b": "out"}, "a", "b")

    assert [bench.root.read(p.path or "") for p in result.products] == [b"x", b"x"]


def test_nothing_is_written_for_an_empty_product(bench: Bench) -> None:
    result = bench.returning({"a": None}, "a", optional=("b",))

    assert result.reason is None
    assert [p.status for p in result.products] == [EMPTY, EMPTY]
    assert bench.published == []


@pytest.mark.parametrize(
    ("value", "reason", "message"),
    [
        ({}, Reason.MISSING_PRODUCT, "'foot'"),
        (None, Reason.MISSING_PRODUCT, "'foot'"),
        ({"foot": "nowhere.nc"}, Reason.MISSING_PRODUCT, "nowhere.nc"),
        ({"foot": None, "fot": None}, Reason.ERROR, "'fot'"),
        ({"foot": 7}, Reason.ERROR, "is a int"),
        ({"foot": "."}, Reason.ERROR, "directory"),
        ([1, 2], Reason.ERROR, "returned a list"),
    ],
)
def test_wrong_returns_are_named(bench: Bench, value: Any, reason: Reason, message: str) -> None:
    result = bench.returning(value, "foot")

    assert result.reason is reason
    assert message in result.detail
    assert [p.status for p in result.products] == [FAILED]
    assert bench.published == []


def test_nothing_is_published_when_one_product_is_bad(bench: Bench) -> None:
    result = bench.returning({"good": xr.Dataset(), "bad": object()}, "good", "bad")

    assert result.reason is Reason.ERROR
    assert bench.published == []


def test_two_attempts_publish_beside_each_other(bench: Bench, run: Run) -> None:
    for attempt in (2, 3):
        bench.publish.attempt = attempt
        (run.workdir / "out").write_text(f"attempt {attempt}")
        assert bench.returning({"p": "out"}, "p").reason is None

    assert len(bench.published) == 2


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.nc", ".nc"), ("a.1.5.nc", ".nc"), ("a.tar.gz", ".tar.gz"), ("a.gz", ".gz"), ("a", "")],
)
def test_suffixes(name: str, suffix: str) -> None:
    assert suffix_of(Path(name)) == suffix


# --- what goes wrong in a model -------------------------------------------------------------------


def test_a_model_that_has_closed_its_streams_still_tells_why_it_failed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr("sys.stderr", log)

        def model(run: Run) -> None:
            log.close()
            raise RuntimeError("no licence")

        result = bench.model(model, "out")
    assert (result.reason, result.detail) == (Reason.ERROR, "RuntimeError: no licence")


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (Invalid("no met"), Reason.INVALID, "no met"),
        (MemoryError("big"), Reason.OUT_OF_MEMORY, "MemoryError: big"),
        (ValueError("first\nlast"), Reason.ERROR, "last"),
        (ValueError("first\nlast"), Reason.ERROR, "ValueError: first\nlast"),
        (ValueError("\x1b[31mred\0"), Reason.ERROR, "ValueError: red\ufffd"),
        (Invalid("row 1\nrow 2"), Reason.INVALID, "row 1\nrow 2"),
        (SyntaxError("no code", ("x.py", 3, 1, "?")), Reason.ERROR, "SyntaxError: no code (x.py"),
        (SystemExit(3), Reason.ERROR, "sys.exit(3)"),
        (KeyboardInterrupt(), Reason.ERROR, "KeyboardInterrupt"),
    ],
)
def test_exceptions_have_reasons(
    bench: Bench, error: BaseException, reason: Reason, detail: str
) -> None:
    def model(run: Run) -> None:
        raise error

    result = bench.model(model)
    assert result.reason is reason
    assert detail in result.detail


def test_a_message_of_megabytes_is_bounded(bench: Bench) -> None:
    def model(run: Run) -> None:
        raise ValueError(f"first\n{'9' * 5_000_000}\nlast")

    detail = bench.model(model).detail
    assert detail.startswith("ValueError: first\n9")
    assert detail.endswith("9\nlast")
    assert len(detail) <= 2000


def test_a_failure_is_not_printed_a_second_time(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.command(*SHELL, "echo last words >&2; exit 1", globs={})

    assert capfd.readouterr().err == "last words\n"


def test_a_model_is_told_everything(bench: Bench, run: Run) -> None:
    seen: list[Run] = []
    bench.model(seen.append)
    assert seen == [run]


def test_a_locked_working_directory_is_removed(tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    (workdir / "sub").mkdir(parents=True)
    (workdir / "sub" / "file").touch()
    (workdir / "sub").chmod(0o500)
    remove_workdir(workdir)
    assert not workdir.exists()


# --- loading --------------------------------------------------------------------------------------


def test_code_directories_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path / "late"), *sys.path])
    name = f"model_{uuid.uuid4().hex}"
    for folder in ("early", "late"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(f"def simulate(run): return '{folder}'")
    load_model(Settings(model=f"{name}:simulate"), [str(tmp_path / "early")])

    assert Path(sys.modules[name].__file__ or "").parent.name == "early"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere_at_all:f", "no module named 'nowhere_at_all'"),
        ("json", "module:function"),
        ("json:nothing", "has no 'nothing'"),
        ("json:decoder", "is a module, not a function"),
        ("os.path:join", None),
        ("json:load", None),
        ("json.decoder:JSONDecoder.decode.__wrapped__", "has no"),
        ("shutil:copyfile", "must take one argument"),
    ],
)
def test_functions_that_cannot_be_models(reference: str, message: str | None) -> None:
    if message is None:
        assert callable(load_function(reference))
        return
    with pytest.raises(ModelError, match=message):
        load_function(reference)


# --- commands -------------------------------------------------------------------------------------

SHELL = ("/bin/sh", "-c")


def test_a_command_gets_its_parameters_without_any_shell(bench: Bench, run: Run) -> None:
    object.__setattr__(run, "params", {"x": "$(touch hacked); 'a b'", "t": 1.5, "l": [1, 2]})
    result = bench.command(
        sys.executable,
        "-c",
        "import sys; open('out.txt', 'w').write('|'.join(sys.argv[1:]))",
        *("{x}", "{t:.2f}", "{{{l}}}", "{id}-{seed}-{cpus}-{attempt}"),
        globs={"p": "*.txt"},
    )

    assert result.reason is None, result.detail
    written = bench.root.read(result.products[0].path or "").decode()
    assert written == "$(touch hacked); 'a b'|1.50|{[1,2]}|s1-7-3-2"
    assert not list(run.workdir.rglob("hacked"))


def test_a_command_sees_its_run_in_the_environment(bench: Bench, run: Run) -> None:
    text = (
        'echo "$ENSEMBLE_ID $ENSEMBLE_SEED $ENSEMBLE_CPUS" > out; test "$PWD" = "$ENSEMBLE_WORKDIR"'
    )
    result = bench.command(*SHELL, text, globs={"p": "out"})

    assert result.reason is None, result.detail
    assert bench.root.read(result.products[0].path or "") == b"s1 7 3\n"


@pytest.mark.parametrize(
    ("script", "reason", "detail"),
    [
        ("exit 3", Reason.ERROR, "exit status 3"),
        ("kill -SEGV $$", Reason.CRASHED, "SIGSEGV"),
        ("true", Reason.MISSING_PRODUCT, "no file matches 'out*'"),
        ("touch out1 out2", Reason.ERROR, "2 files match 'out*'"),
        ("mkdir out", Reason.MISSING_PRODUCT, "no file matches"),
    ],
)
def test_commands_fail_with_reasons(bench: Bench, script: str, reason: Reason, detail: str) -> None:
    result = bench.command(*SHELL, script, globs={"p": "out*"})

    assert result.reason is reason
    assert detail in result.detail


def test_a_missing_optional_file_of_a_command_is_empty(bench: Bench) -> None:
    result = bench.command(*SHELL, "touch a", globs={"a": "a"}, b="b")

    assert [p.status for p in result.products] == [COMPLETE, EMPTY]


@pytest.mark.parametrize(
    ("argument", "detail"),
    [("{temperature}", "{temperature}"), ("{x:%Y}", "x is 2"), ("{nothing}", "it has: ")],
)
def test_parameters_that_a_command_lacks_are_invalid(
    bench: Bench, argument: str, detail: str
) -> None:
    result = bench.command("true", argument, globs={})

    assert result.reason is Reason.INVALID
    assert detail in result.detail


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("no-such-program",), "no-such-program"),
        (("./relative",), "absolute"),
        (("true", "{"), "braces"),
        (("true", "{}"), "only {name}"),
        (("true", "{x!r}"), "only {name}"),
    ],
)
def test_commands_that_cannot_be_used(command: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(Settings(command=command))


def test_a_command_needs_a_glob_for_each_product() -> None:
    with pytest.raises(ModelError, match=r"'p'.*glob"):
        load_model(Settings(command=("true",), products=(ProductSpec("p"),)))


def test_programs_are_found_in_the_code_directories(tmp_path: Path) -> None:
    program = tmp_path / "mymodel"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    load_model(Settings(command=("mymodel",)), [str(tmp_path)])


def test_a_program_named_by_a_parameter_may_be_missing_for_one_simulation(bench: Bench) -> None:
    result = bench.command("no-such-program-{x}", globs={})

    assert result.reason is Reason.ERROR
    assert "no-such-program-2" in result.detail
