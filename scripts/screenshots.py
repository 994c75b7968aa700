"""Take the documentation's pictures of Airflow's user interface, from a real run of the demo's DAG.

Not part of any build: run it when the pictures are out of date. It needs Chromium and, in .venv,
the package ``playwright`` (which is told to use that Chromium)::

    .venv/bin/uv pip install --python .venv/bin/python playwright
    .venv/bin/python scripts/screenshots.py /srv/footprints
    .venv/bin/python scripts/screenshots.py stack

The second form takes those of the stack of containers, which must be up and have run the DAG
``footprints_slurm``. The folder of the first one is made, is seen in the pictures, and is removed
in the end. So is the path of the interpreter: start the script through a symbolic link to the
checkout to show another one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local_airflow import Client, LocalAirflow, exit_on_signals
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
DAG, TASK = "footprints", "footprints.run_chunk"
SIZE: Any = {"width": 1360, "height": 760}
#: Milliseconds that the page has to fetch and draw.
PATIENCE = 30_000


def main() -> int:
    """Run the DAG in a throw-away Airflow and photograph it."""
    exit_on_signals()
    if sys.argv[1] == "stack":
        photograph_stack()
        return 0
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True)
    try:
        with started(folder) as airflow, airflow.client() as client:
            client.await_dag(DAG)
            client.unpause(DAG)
            photograph(airflow, client, [run(client) for _ in range(3)])
    finally:
        shutil.rmtree(folder)
    return 0


def started(folder: Path) -> LocalAirflow:
    """Return an Airflow whose files, DAGs and results all lie in one folder."""
    dags = Path(shutil.copytree(ROOT / "dags", folder / "dags"))
    environment = {"ENSEMBLE_HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    return LocalAirflow(folder / "airflow", dags, environment=environment)


def run(client: Client) -> str:
    """Run the DAG to its end, in four chunks."""
    id = client.trigger(DAG, {"n_workers": 4})
    state = client.await_run(DAG, id, 600)
    if state != "success":
        raise SystemExit(f"the run ended as {state}")
    return id


def photograph(airflow: LocalAirflow, client: Client, runs: list[str]) -> None:
    """Take all pictures."""
    with opened(airflow.url, client) as page:
        of_run = f"{airflow.url}/dags/{DAG}/runs/{runs[0]}"
        page.goto(f"{of_run}/tasks/{TASK}/mapped")
        page.get_by_label("Expand all task groups").click()
        widen_grid(page)
        snap(page, "chunk 0003", "grid.png")
        log = f"{of_run}/tasks/{TASK}/mapped/0"
        take(page, log, "ran in this try", "task-log.png")
        page.goto(f"{airflow.url}/dags/{DAG}")
        page.set_viewport_size({"width": 1360, "height": 1560})
        page.get_by_role("button", name="Trigger").first.click()
        snap(page, "Model parameters", "trigger-form.png")


def photograph_stack() -> None:
    """Take the pictures of the last successful run on the stack's Slurm cluster."""
    url = f"http://127.0.0.1:{os.environ.get('AIRFLOW_PORT', '8080')}"
    password = os.environ.get("STACK_PASSWORD", "onemachine")
    dag = "footprints_slurm"
    with Client(url, "admin", password) as client, opened(url, client) as page:
        found = client.call("GET", f"/dags/{dag}/dagRuns", params={"state": "success"})
        of_run = f"{url}/dags/{dag}/runs/{found['dag_runs'][-1]['dag_run_id']}"
        page.goto(f"{of_run}/tasks/footprints.wait_for_chunk/mapped")
        page.get_by_label("Expand all task groups").click()
        widen_grid(page)
        snap(page, "chunk 0003", "stack-run.png")
        take(page, f"{of_run}/tasks/footprints.submit", "files and logs in", "stack-submit.png")
        take(page, f"{of_run}/tasks/footprints.collect", "unfinished of", "stack-collect.png")


@contextlib.contextmanager
def opened(url: str, client: Client) -> Iterator[Page]:
    """Open a browser that is logged in."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        context = browser.new_context(viewport=SIZE, color_scheme="light")
        context.add_cookies([{"name": "_token", "value": client.token, "url": url}])
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def widen_grid(page: Page) -> None:
    """Drag the border between grid and details, so that names and runs are both seen."""
    border = page.locator("[data-panel-resize-handle-id], [role=separator]").first.bounding_box()
    if border is None:
        return
    x, y = border["x"] + border["width"] / 2, border["y"] + border["height"] * 0.8
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 170, y, steps=10)
    page.mouse.up()


def take(page: Page, url: str, text: str, name: str) -> None:
    """Open a page, wait for a text on it, and save the picture."""
    page.goto(url)
    snap(page, text, name)


def snap(page: Page, text: str, name: str) -> None:
    """Wait for a text on the open page, and save the picture."""
    page.get_by_text(text).first.wait_for()
    page.wait_for_timeout(5000)
    page.screenshot(path=IMAGES / name)
    print(IMAGES / name, (IMAGES / name).stat().st_size)


def find_chromium() -> str:
    """Return the browser's path."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise SystemExit("no Chromium was found: install it, for example 'apt-get install chromium'")


if __name__ == "__main__":
    sys.exit(main())
