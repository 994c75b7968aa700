"""``show``, ``logs``, ``retry``, ``cancel``, ``reconcile``, ``rebuild``, ``gc`` and ``collect``."""

from __future__ import annotations

import time

import pytest

from tests.cli.conftest import picture, processes_of, start
from tests.ensembles import executions, write_ensemble

ROWS = [
    *({"id": f"s{number}", "x": number} for number in range(3)),
    {"id": "none", "what": "empty"},
    {"id": "bad", "what": "raise"},
    {"id": "dead", "what": "die"},
]


@pytest.fixture
def ran(tmp_path, cli):
    """Return the file of an ensemble that has run: four complete, two failed."""
    file = write_ensemble(tmp_path, ROWS, max_attempts=1)
    assert cli("run", file).code == 1
    return file


def _counts(cli, file):
    return cli("status", file, "--json").json["counts"]


# --- show and logs --------------------------------------------------------------------------------


def test_show_tells_status_parameters_and_products(ran, cli, tmp_path):
    shown = cli("show", "s1", "-f", ran, "--json").json

    assert shown["status"] == "complete"
    assert shown["parameters"] == {"x": 1}
    [product] = shown["products"]
    assert product["name"] == "values"
    assert (tmp_path / "output" / product["path"]).stat().st_size == product["size"]
    text = cli("show", "s1", "-f", ran).out
    assert product["path"] in text
    assert "complete" in text


def test_show_tells_why_it_failed_and_where_the_log_is(ran, cli):
    text = cli("show", "bad", "-f", ran).out

    assert "ValueError: no luck with bad" in text
    assert "unsuccessful attempts" in text
    assert "ensemble logs bad" in text


def test_show_empty(ran, cli):
    [product] = cli("show", "none", "-f", ran, "--json").json["products"]
    assert product == {"name": "values", "status": "complete-empty"}


def test_logs_have_the_traceback(ran, cli):
    ended = cli("logs", "bad", "-f", ran)

    assert ended.code == 0
    assert "Traceback" in ended.out
    assert "no luck with bad" in ended.out


def test_logs_of_complete_ones_say_how_to_keep_them(ran, cli):
    ended = cli("logs", "s0", "-f", ran)

    assert ended.code == 2
    assert "logs: all" in ended.err


def test_logs_of_complete_ones_when_all_are_kept(tmp_path, cli):
    model = """
        def simulate(run):
            print("hello from", run.id)
            return {"values": None}
    """
    file = write_ensemble(tmp_path, [{"id": "a"}, {"id": "b"}], model=model, logs="all")
    cli("run", file)

    assert "hello from b" in cli("logs", "b", "-f", file).out


# --- retry and cancel -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "again"),
    [(["--all"], {"bad", "dead"}), (["bad"], {"bad"}), (["--reason", "crashed"], {"dead"})],
)
def test_retry_sends_back_what_is_selected(ran, cli, tmp_path, selection, again):
    before = executions(tmp_path)

    ended = cli("retry", *selection, "-f", ran)

    assert ended.code == 0
    assert ended.out.startswith(f"{len(again)} simulation")
    assert _counts(cli, ran)["pending"] == len(again)
    cli("run", ran)
    assert set(executions(tmp_path)[len(before) :]) == again


def test_retry_of_complete_ones_does_nothing(ran, cli, tmp_path):
    before = picture(tmp_path)

    for selection in (["s0"], ["--reason", "timeout"]):
        ended = cli("retry", *selection, "-f", ran)
        assert ended.code == 0
        assert "nothing to retry" in ended.err
    assert picture(tmp_path) == before


def test_repeating_retry_is_harmless(ran, cli):
    cli("retry", "--all", "-f", ran)

    assert cli("retry", "--all", "-f", ran).code == 0
    assert _counts(cli, ran)["pending"] == 2


def test_cancel_what_waits_and_take_it_back(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS[:3])
    cli("register", file)

    assert cli("cancel", "s1", "-f", file).out.startswith("1 simulation cancelled")
    assert "nothing to cancel" in cli("cancel", "s1", "-f", file).err
    assert cli("run", file).code == 1
    assert sorted(executions(tmp_path)) == ["s0", "s2"]
    assert cli("show", "s1", "-f", file, "--json").json["reason"] == "cancelled"

    assert cli("retry", "--reason", "cancelled", "-f", file).code == 0
    assert cli("run", file).code == 0
    assert sorted(executions(tmp_path)) == ["s0", "s1", "s2"]


def test_cancel_reaches_what_runs(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "slow", "sleep": 60}, {"id": "late"}])
    run = start("run", file, "--n-workers", 1)
    while executions(tmp_path) != ["slow"]:
        assert run.poll() is None
        time.sleep(0.05)

    begun = time.monotonic()
    ended = cli("cancel", "slow", "-f", file)
    out, err = run.communicate(timeout=30)

    assert ended.code == 0
    assert run.returncode == 1, err
    assert time.monotonic() - begun < 20
    assert "cancelled" in out
    assert executions(tmp_path) == ["slow", "late"]
    assert _counts(cli, file) == {
        "total": 2, "pending": 0, "running": 0, "complete": 1, "empty": 0, "failed": 1
    }  # fmt: skip
    assert processes_of(tmp_path) == []


# --- reconcile and rebuild ------------------------------------------------------------------------


def test_reconcile_takes_back_what_a_killed_run_left(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "quick"}, {"id": "slow", "sleep": 60}])
    run = start("run", file, "--n-workers", 1)
    while executions(tmp_path) != ["quick", "slow"]:
        assert run.poll() is None
        time.sleep(0.05)
    run.kill()
    run.communicate(timeout=30)
    while processes_of(tmp_path):
        time.sleep(0.05)

    ended = cli("reconcile", file)

    assert ended.code == 0
    assert "given back" in ended.out
    assert _counts(cli, file)["pending"] == 1
    assert _counts(cli, file)["complete"] == 1
    assert "nothing to reconcile" in cli("reconcile", file).err


def test_rebuild_of_a_lost_index_keeps_all_that_was_known(ran, cli, tmp_path):
    before = _counts(cli, ran)
    products = cli("show", "s2", "-f", ran, "--json").json["products"]
    for path in (tmp_path / "output" / ".ensemble").glob("index.sqlite*"):
        path.unlink()

    ended = cli("rebuild", ran)

    assert ended.code == 0
    assert ended.out.startswith("6 simulations finished")
    assert _counts(cli, ran) == before
    assert cli("show", "s2", "-f", ran, "--json").json["products"] == products
    assert cli("show", "bad", "-f", ran, "--json").json["reason"] == "error"
    assert "4 complete already" in cli("run", ran).err
    assert len(executions(tmp_path)) == 6


def test_rebuild_beside_a_good_index_changes_no_result(ran, cli):
    before = _counts(cli, ran)

    assert cli("rebuild", ran).code == 0
    assert _counts(cli, ran) == before


# --- gc -------------------------------------------------------------------------------------------


def _products(folder):
    return sorted(path.name for path in (folder / "output").rglob("values/*/*"))


def test_gc_removes_what_newer_generations_replaced(ran, cli, tmp_path):
    cli("run", ran, "--no-skip")
    assert len(_products(tmp_path)) == 6
    before = picture(tmp_path)

    would = cli("gc", ran, "--dry-run")
    assert would.out.startswith("would remove ")
    assert picture(tmp_path) == before

    done = cli("gc", ran)
    assert done.out == would.out.replace("would remove", "removed")
    kept = cli("show", "s0", "-f", ran, "--json").json["products"][0]["path"]
    assert len(_products(tmp_path)) == 3
    assert (tmp_path / "output" / kept).exists()
    assert "Traceback" in cli("logs", "bad", "-f", ran).out
    assert cli("gc", ran).out.startswith("removed 0 files")


def test_gc_waits_for_what_runs(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "slow", "sleep": 4}])
    run = start("run", file)
    try:
        while not executions(tmp_path):
            time.sleep(0.05)
        ended = cli("gc", file)
    finally:
        run.communicate(timeout=30)

    assert ended.code == 2
    assert "running" in ended.err
    assert run.returncode == 0


# --- collect --------------------------------------------------------------------------------------

NETCDF_MODEL = """
    import xarray as xr

    def simulate(run):
        if run.params["x"] < 0:
            return {"values": None}
        return {"values": xr.Dataset({"values": ("time", [run.params["x"], 2 * run.params["x"]])})}
"""


def test_collect_sums_up_and_judges(ran, cli):
    ended = cli("collect", ran)

    assert ended.code == 1
    rows = {line.split()[0]: line.split() for line in ended.out.splitlines() if line}
    assert rows["values"][:4] == ["values", "3", "1", "2"]
    assert "2 failed" in ended.out
    assert "ensemble logs" in ended.out


@pytest.mark.parametrize(("name", "option"), [("all.nc", []), ("all", ["--format", "zarr"])])
def test_collect_writes_one_dataset(tmp_path, cli, name, option):
    import xarray as xr

    rows = [{"id": "a", "x": 1.5}, {"id": "b", "x": 3.0}, {"id": "none", "x": -1.0}]
    file = write_ensemble(tmp_path, rows, model=NETCDF_MODEL)
    cli("run", file)

    ended = cli("collect", file, "--to", tmp_path / name, *option)

    assert ended.code == 0, ended.err
    assert f"wrote {tmp_path / name}" in ended.out
    opened = xr.open_dataset(tmp_path / name, engine="zarr" if option else None)
    with opened as dataset:
        assert list(dataset["simulation"].values) == ["a", "b", "none"]
        assert dataset["values"].sel(simulation="b").values.tolist() == [3.0, 6.0]
        assert dataset["values_empty"].values.tolist() == [False, False, True]


def test_collect_takes_several_products_and_no_others(tmp_path, cli):
    import xarray as xr

    model = """
        import xarray as xr

        def simulate(run):
            return {name: xr.Dataset({"v": ("x", [1, 2])}) for name in "abc"}
    """
    file = write_ensemble(tmp_path, [{"id": "s"}], model=model, products=["a", "b", "c"])
    cli("run", file)

    ended = cli("collect", file, "--to", tmp_path / "some.nc", "--product", "c", "--product", "a")

    assert ended.code == 0, ended.err
    with xr.open_dataset(tmp_path / "some.nc") as dataset:
        assert set(dataset.data_vars) == {"a", "a_empty", "c", "c_empty"}


def test_collect_names_its_own_option_for_axes_that_differ(tmp_path, cli):
    import xarray as xr

    model = """
        import xarray as xr

        def simulate(run):
            x = list(range(run.params["x"] + 1))
            return {"values": xr.Dataset({"v": ("x", x)}, coords={"x": x})}
    """
    file = write_ensemble(tmp_path, [{"id": "a", "x": 1}, {"id": "b", "x": 2}], model=model)
    cli("run", file)

    refused = cli("collect", file, "--to", tmp_path / "all.nc")
    joined = cli("collect", file, "--to", tmp_path / "all.nc", "--align", "outer")

    assert refused.code == 1
    assert "'b' has 3 values along 'x', not 2" in refused.err
    assert "choose --align outer to" in refused.err
    assert joined.code == 0, joined.err
    with xr.open_dataset(tmp_path / "all.nc") as dataset:
        assert dataset["values"].values[1].tolist() == [0, 1, 2]
        assert dataset["values"].values[0, :2].tolist() == [0, 1]


def test_collect_before_all_is_over_says_so(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS[:3])
    cli("run", file, "--first", 1)
    cli("register", file)

    ended = cli("collect", file)

    assert ended.code == 1
    assert "2 unfinished of 3" in ended.out


# --- what is said ---------------------------------------------------------------------------------


def test_show_tells_what_a_simulation_needs_and_may_take(tmp_path, cli):
    row = {"id": "a", "memory": "2G", "cores_per_task": 2, "time_limit": 90, "priority": 7}
    file = write_ensemble(tmp_path, [row])
    cli("register", file)

    text = cli("show", "a", "-f", file).out
    for words in ("memory 2048 MiB", "cores_per_task 2", "1 min 30 s", "7"):
        assert words in text
    shown = cli("show", "a", "-f", file, "--json").json
    assert (shown["time_limit"], shown["priority"]) == (90, 7)


def test_logs_say_why_there_is_none(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "wide", "cores_per_task": 99}, {"id": "late"}])
    cli("register", file)
    assert "late" in cli("logs", "late", "-f", file).err
    assert "it is pending" in cli("logs", "late", "-f", file).err
    cli("run", file)

    ended = cli("logs", "wide", "-f", file)
    assert ended.code == 2
    assert "it failed (invalid) without one: it needs 99 cores" in ended.err


def test_rebuild_says_when_there_was_nothing_to_learn(ran, cli):
    assert cli("rebuild", ran).out.endswith("tell nothing that the index did not know\n")
