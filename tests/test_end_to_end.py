"""``ensemble`` from init to collect on what real sites have: an object store, a shared database."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import Cli, start
from tests.cli.conftest import cli as cli
from tests.ensembles import executions, write_ensemble
from tests.services.postgres import PASSWORD, PostgresServer
from tests.services.s3 import S3Server

INDEX_VARIABLE = "ENSEMBLE_END_TO_END_INDEX"
ROWS = [
    {"id": "a", "x": 1},
    {"id": "none", "what": "empty"},
    {"id": "bad", "what": "raise"},
    {"id": "c", "x": 3},
]
FIELD_MODEL = """
    import xarray as xr

    def simulate(run):
        print("made of", run.params["x"])
        return {"values": xr.Dataset({"values": ("time", [run.params["x"], run.cpus])})}
"""


def counts_of(cli: Cli, file: Path) -> dict[str, int]:
    counts: dict[str, int] = cli("status", file, "--json").json["counts"]
    return counts


# --- an object store ------------------------------------------------------------------------------


def test_results_in_an_object_store(tmp_path: Path, cli: Cli, s3: S3Server) -> None:
    output = f"{s3.make_bucket()}/some/where"
    file = write_ensemble(tmp_path, ROWS, output=output, control="control", max_attempts=2)

    assert cli("check", file).code == 0
    ended = cli("run", file)

    assert ended.code == 1, ended.err
    assert output in ended.out
    assert not (tmp_path / "output").exists()
    counts = counts_of(cli, file)
    assert (counts["complete"], counts["empty"], counts["failed"]) == (3, 1, 1)
    assert "no luck with bad" in cli("logs", "bad", "-f", file).out
    [product] = cli("show", "c", "-f", file, "--json").json["products"]
    assert product["size"] > 0

    assert cli("run", file, "--no-skip").code == 1
    newer = cli("show", "c", "-f", file, "--json").json["products"]
    assert newer[0]["path"] != product["path"]
    would = cli("gc", file, "--dry-run").out
    assert cli("gc", file).out == would.replace("would remove", "removed")
    # two products of the first generation, and all but the last of four logs of failures
    assert would.startswith("would remove 5 files")
    assert cli("gc", file).out.startswith("removed 0 files")
    assert cli("show", "c", "-f", file, "--json").json["products"] == newer


def test_pull_workers_and_collecting_over_an_object_store(
    tmp_path: Path, cli: Cli, s3: S3Server
) -> None:
    import xarray as xr

    file = write_ensemble(
        tmp_path,
        [{"id": f"s{x}", "x": x} for x in range(4)],
        model=FIELD_MODEL,
        output=s3.make_bucket(),
        control="control",
        logs="all",
    )
    assert cli("register", file).code == 0
    assert cli("pull-worker", file).code == 0
    assert "made of 3" in cli("logs", "s3", "-f", file).out

    assert cli("collect", file, "--to", tmp_path / "all.zarr").code == 0

    with xr.open_zarr(tmp_path / "all.zarr") as dataset:
        assert dataset["values"].isel(time=0).values.tolist() == [0, 1, 2, 3]


# --- what the table says of each simulation -------------------------------------------------------


def test_cores_time_limit_and_priority_of_a_row_are_heeded(tmp_path: Path, cli: Cli) -> None:
    model = """
        import time
        from pathlib import Path

        def simulate(run):
            with Path(run.params["trace"]).open("a") as file:
                file.write(f"{run.id} {run.cpus}\\n")
            time.sleep(run.params["sleep"])
            return {"values": None}
    """
    table = [
        "id,sleep,cores_per_task,time_limit,priority",
        "late,0,1,30,0",
        "wide,0,2,30,0",
        "slow,60,1,1,5",
        "early,0,1,30,10",
    ]
    file = write_ensemble(tmp_path, [], model=model, simulations="table.csv", max_attempts=1)
    (tmp_path / "table.csv").write_text("\n".join(table) + "\n")

    assert cli("run", file, "--set", "execution.n_workers=2", "--first", 4).code == 1

    cpus = dict(line.split() for line in (tmp_path / "trace").read_text().splitlines())
    assert cpus == {"late": "1", "wide": "2", "slow": "1", "early": "1"}
    order = [id for id in executions(tmp_path) if id != "wide"]
    assert order.index("early") < order.index("late")
    shown = cli("show", "slow", "-f", file, "--json").json
    assert (shown["reason"], shown["duration"] < 20) == ("timeout", True)


# --- a database -----------------------------------------------------------------------------------


def test_no_secret_reaches_a_file_a_log_or_a_command_line(
    tmp_path: Path,
    cli: Cli,
    s3: S3Server,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All say-so on, all logs kept, and a failure on top of it."""
    monkeypatch.setenv(INDEX_VARIABLE, postgres.new_database())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an-aws-secret")
    output = tmp_path / "output"
    rows = [{"id": "slow", "sleep": 2}, {"id": "bad", "what": "raise"}]
    file = write_ensemble(tmp_path, rows, index=f"env:{INDEX_VARIABLE}", logs="all", max_attempts=1)
    said = []
    for command in (
        "check",
        "run -vv",
        "status --json",
        "show bad",
        "reconcile -vv",
        "rebuild -vv",
    ):
        process = start(*command.split(), "-f", file)
        lines = watch_command_lines(process)
        said += [*process.communicate(timeout=60), *lines]
    assert counts_of(cli, file)["failed"] == 1

    everything = "\n".join(said)
    assert "push-worker" in everything
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.is_relative_to(output / ".ensemble" / "chunks") for path in written)
    for secret in (PASSWORD, "an-aws-secret"):
        assert secret not in everything
        assert [path for path, data in written.items() if secret.encode() in data] == []


def watch_command_lines(process: subprocess.Popen[str]) -> set[str]:
    """Return the command lines of a process and of all below it, until it ends."""
    seen = set()
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for one in (parent, *parent.children(recursive=True)):
                seen.add(" ".join(one.cmdline()))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.05)
    return seen


@pytest.mark.timeout(240)
def test_a_database_that_goes_away_stops_the_run_and_costs_nothing(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded retries, then an end without half a state; the next run goes on."""
    with PostgresServer() as server:
        monkeypatch.setenv(INDEX_VARIABLE, server.new_database())
        rows = [{"id": f"s{number}", "sleep": 0.3} for number in range(20)]
        file = write_ensemble(
            tmp_path, rows, index=f"env:{INDEX_VARIABLE}", execution={"n_workers": 1}
        )
        run = start("run", file)
        while len(executions(tmp_path)) < 3:
            assert run.poll() is None
            time.sleep(0.05)
        server.stop()
        begun = time.monotonic()
        _, err = run.communicate(timeout=120)
        assert run.returncode == 3, err
        assert time.monotonic() - begun < 90
        assert "ensemble: error: " in err
        assert f"127.0.0.1:{server.port}" in err
        assert PASSWORD not in err

        server.start()
        ended = cli("run", file)
        assert ended.code == 0, ended.err
        assert counts_of(cli, file)["complete"] == 20
    repeated = len(executions(tmp_path)) - len(rows)
    assert repeated <= 1, "only what ran when the run stopped may run again"


@pytest.mark.timeout(180)
def test_a_pull_worker_gives_up_when_the_database_stays_away(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is over then: what runs is stopped, because others may be running it already."""
    with PostgresServer() as server:
        location = server.new_database()
        monkeypatch.setenv(INDEX_VARIABLE, location)
        file = write_ensemble(
            tmp_path, [{"id": "slow", "sleep": 600}], index=f"env:{INDEX_VARIABLE}"
        )
        assert cli("register", file).code == 0
        command = [sys.executable, "-m", "airflow_ensemble.engine", "pull-worker"]
        worker = subprocess.Popen(
            [*command, "--name", "tests", "--lease", "5"],
            env={**os.environ, "ENSEMBLE_INDEX": location},
            stderr=subprocess.PIPE,
            text=True,
        )
        while not executions(tmp_path):
            assert worker.poll() is None
            time.sleep(0.05)
        family = psutil.Process(worker.pid).children(recursive=True)
        assert family
        server.stop()

        _, err = worker.communicate(timeout=90)

        assert worker.returncode == 3, err
        assert PASSWORD not in err
        assert "Traceback" not in err
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
