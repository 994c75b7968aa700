"""What Airflow must not be given: secrets in what it stores, work when it reads DAG files."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.airflow.conftest import ROOT
from tests.airflow.live import RUN_CHUNK, Live
from tests.ensembles import write_ensemble
from tests.services.postgres import PASSWORD


def test_a_connections_password_reaches_no_log_no_xcom_and_no_chunk(
    airflow: Live, tmp_path: Path
) -> None:
    rows = [{"id": "good"}, {"id": "bad", "what": "raise"}]
    path = write_ensemble(
        tmp_path, rows, index="conn:ensemble_index", name="secretive", max_failed=1, logs="all"
    )
    run = airflow.run(path, n_workers=1)

    logs = [run.log(task) for task in ("group.register", "group.dispatch", "group.collect")]
    logs.append(run.log(RUN_CHUNK, 0))
    stored = json.dumps([run.registration(), dict(run.event())])
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert all(logs)
    assert any("chunks" in file.parts for file in written)
    assert PASSWORD not in "".join(logs) + stored
    assert [file for file in written if PASSWORD.encode() in file.read_bytes()] == []


def test_reading_the_dags_opens_no_ensemble_and_starts_nothing() -> None:
    """Airflow reads DAG files every few seconds: what that costs, a scheduler pays all day."""
    script = """
        import json, sys
        from airflow.sdk import DAG

        DAG("any", schedule="@daily")  # what Airflow itself loads for a DAG is not ours
        seen = []

        def note(event, arguments):
            if event in ("subprocess.Popen", "sqlite3.connect", "socket.connect", "os.fork"):
                seen.append(event)
            if event == "open" and str(arguments[0]).endswith((".yaml", ".csv", ".sqlite")):
                seen.append(f"open {arguments[0]}")

        sys.addaudithook(note)
        sys.path.insert(0, sys.argv[1])
        import footprints
        import footprints_slurm
        print(json.dumps(seen))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(ROOT / "dags")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout.splitlines()[-1]) == []
