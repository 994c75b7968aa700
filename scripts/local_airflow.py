"""Start and stop a whole Airflow on this machine, and talk to it.

Used by the demo, by ``make ui`` and by the tests. Not ``airflow standalone``: that cannot be given
the settings that SQLite needs, and it does not end when it is asked to from a script.

Everything that the Airflow writes lies in one folder, its ``AIRFLOW_HOME``; it listens on the
loopback interface alone. A small guard process ends it when the process that started it is gone,
however that died.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import httpx
import psutil

COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
USER = "admin"
#: Seconds that processes have between SIGTERM and SIGKILL.
STOP_GRACE = 15.0
FINISHED = frozenset({"success", "failed"})


class AirflowError(RuntimeError):
    """The local Airflow did not start, died, or did not do in time what it was asked."""


# --- the processes ------------------------------------------------------------------------------


@dataclass
class LocalAirflow:
    """A whole Airflow: API server, scheduler, DAG processor, triggerer, each its own session.

    A context manager: entering starts it, leaving ends every process of it.

    :param home: its ``AIRFLOW_HOME``; kept, so that the next start finds runs and login again.
    :param dags: the folder of DAG files.
    :param dsn: SQLAlchemy URL of a PostgreSQL database; None takes SQLite in ``home``.
    :param environment: further environment variables of all its processes.
    :param parallelism: tasks that run at once; more than 2 locks SQLite up.
    :param start_timeout: seconds until all components must be healthy.
    """

    home: Path
    dags: Path
    dsn: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    parallelism: int = 2
    start_timeout: float = 240.0

    def __post_init__(self) -> None:
        self.home = self.home.resolve()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> LocalAirflow:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Return the address of the user interface."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def password(self) -> str:
        """Return the password of the user ``admin``, made once per home."""
        return str(_json_once(self._password_file, {USER: secrets.token_urlsafe(12)})[USER])

    def client(self) -> Client:
        """Return a client of the REST API, to be closed by the caller."""
        return Client(self.url, USER, self.password)

    def start(self) -> None:
        """Bring the database up to date, start all components and wait until they are healthy.

        :raises AirflowError: with the end of the right log when one of them dies or is too slow.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        end_leftovers(self.home)
        self._port = free_port()
        _ = self.password
        self._guard = _start_guard(self.home)
        self._migrate()
        for component in COMPONENTS:
            self._start_component(component)
        self._await_health()

    def stop(self) -> None:
        """End every process of this Airflow and of its tasks."""
        with _uninterrupted():
            end_leftovers(self.home)
            for process in self._processes.values():
                process.wait()
            self._processes.clear()
            if self._guard is not None and self._guard.stdin is not None:
                self._guard.stdin.close()
                self._guard.wait()
                self._guard = None

    def check(self) -> None:
        """Raise when a component has died.

        :raises AirflowError: naming it, with the end of its log.
        """
        for component, process in self._processes.items():
            if (code := process.poll()) is not None:
                raise AirflowError(
                    f"Airflow's {component} ended with code {code}:\n{self._tail(component)}"
                )

    def run(self, *arguments: str, timeout: float = 120.0) -> str:
        """Run an ``airflow`` command beside the components and return what it printed.

        :raises AirflowError: when it fails.
        """
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self.variables(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise AirflowError(f"airflow {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
        return done.stdout

    def variables(self) -> dict[str, str]:
        """Return the environment of the components: nothing of another Airflow's gets in."""
        inherited = {key: os.environ[key] for key in os.environ if not key.startswith("AIRFLOW")}
        return {**inherited, **self._settings(), **self.environment}

    def _settings(self) -> dict[str, str]:
        secret = _json_once(self.home / "jwt_secret.json", {"secret": secrets.token_hex(40)})
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags.resolve()),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": str(self.parallelism),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._password_file),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self._database(),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self._port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__DEFAULT_WRAP": "True",
            "AIRFLOW__API_AUTH__JWT_SECRET": str(secret["secret"]),
            # The default of 5 s is not enough on a busy machine.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            # A DAG with pods imports the Kubernetes client: seconds, on a busy machine many.
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "240",
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "300",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5" if self.dsn is None else "0.1",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }

    def _database(self) -> str:
        # Without the long lock time-out SQLite's "database is locked" kills components.
        return self.dsn or f"sqlite:///{self.home}/airflow.db?timeout=60"

    @property
    def _password_file(self) -> Path:
        return self.home / "passwords.json"

    def _log_file(self, component: str) -> Path:
        return self.home / "logs" / "components" / f"{component}.log"

    def _tail(self, component: str) -> str:
        file = self._log_file(component)
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        return "\n".join([f"--- the end of {file}", *lines[-25:]])

    def _migrate(self) -> None:
        process = self._spawn("migrate", ["db", "migrate"])
        try:
            code = process.wait(self.start_timeout)
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            raise AirflowError(
                f"'airflow db migrate' failed (code {code}):\n{self._tail('migrate')}"
            )
        _pid_file(self.home, "migrate").unlink()

    def _start_component(self, component: str) -> None:
        # Task logs are read from the disk: log servers would listen on every interface.
        quiet = ["--skip-serve-logs"] if component in ("scheduler", "triggerer") else []
        self._processes[component] = self._spawn(component, [component, *quiet])

    def _spawn(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        file = self._log_file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *arguments],
                env=self.variables(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _write_pid(_pid_file(self.home, name), process.pid)
        return process

    def _await_health(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        unhealthy: Sequence[str] = COMPONENTS
        while time.monotonic() < deadline:
            self.check()
            unhealthy = self._unhealthy()
            if not unhealthy:
                return
            time.sleep(0.5)
        tails = "\n".join(self._tail(component) for component in unhealthy)
        raise AirflowError(
            f"Airflow was not up after {self.start_timeout:.0f} s; not healthy: "
            f"{', '.join(unhealthy)}\n{tails}"
        )

    def _unhealthy(self) -> list[str]:
        try:
            health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=10).json()
        except (httpx.HTTPError, ValueError):
            return ["api-server"]
        states = {c: health.get(c.replace("-", "_"), {}).get("status") for c in COMPONENTS[1:]}
        return [component for component, state in states.items() if state != "healthy"]


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- ending processes ---------------------------------------------------------------------------


def end_leftovers(home: Path) -> None:
    """End all processes whose pid files lie in ``home``, their sessions and descendants."""
    files = sorted((home / "run").glob("*.pid"))
    leaders = [leader for leader in map(_read_pid, files) if leader is not None]
    if leaders:
        _end(_families(leaders))
    for file in files:
        file.unlink(missing_ok=True)


def _families(leaders: list[psutil.Process]) -> list[psutil.Process]:
    """Return the leaders with their sessions and descendants, which may have left the session."""
    sessions = {leader.pid for leader in leaders}
    members = {process for process in psutil.process_iter() if _session(process.pid) in sessions}
    members.update(leaders)
    for member in list(members):
        with contextlib.suppress(psutil.Error):
            members.update(member.children(recursive=True))
    return [member for member in members if member.pid != os.getpid()]


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=STOP_GRACE)
    # What they started in the meantime must not get away.
    for process in _families(alive) if alive else []:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=STOP_GRACE)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _pid_file(home: Path, component: str) -> Path:
    return home / "run" / f"{component}.pid"


def _write_pid(file: Path, pid: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"pid": pid, "started": psutil.Process(pid).create_time()}))


def _read_pid(file: Path) -> psutil.Process | None:
    """Return the process that a pid file names, unless it is gone and another has its number."""
    try:
        record = json.loads(file.read_text())
        process = psutil.Process(record["pid"])
        return process if abs(process.create_time() - record["started"]) < 2 else None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let nothing break the ending of processes: a second Ctrl-C is not needed, it is bounded."""
    try:
        before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signals do not arrive
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_guard(home: Path) -> subprocess.Popen[bytes]:
    # Its standard input ends with this process, whatever kills it.
    return subprocess.Popen(
        [sys.executable, __file__, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _guard(home: Path) -> None:
    sys.stdin.buffer.read()
    end_leftovers(home)


def exit_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into the exception of Ctrl-C, so that everything is left in order."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)


def _json_once(file: Path, value: dict[str, str]) -> dict[str, Any]:
    """Return the JSON object in ``file``, which is written first, readable by nobody else."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(json.dumps(value))
    return dict(json.loads(file.read_text()))


# --- the REST API -------------------------------------------------------------------------------

#: The server gives no more at a time, whatever it is asked for.
PAGE = 100


class Client:
    """The few calls of Airflow's REST API that starting and watching a run need.

    A context manager: leaving it closes the connection. The command line would cost 5 s a call.

    :param url: the API server's address.
    :param user: login.
    :param password: its password.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)
        token = self._http.post("/auth/token", json={"username": user, "password": password})
        token.raise_for_status()
        self.token: str = token.json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {self.token}"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Call ``/api/v2`` and return the decoded answer; None when it has no body.

        :raises AirflowError: with the server's own words when it refuses.
        """
        answer = self._http.request(method, f"/api/v2{path}", **options)
        if answer.is_error:
            raise AirflowError(f"{method} {path}: {answer.status_code} {answer.text[:1000]}")
        return answer.json() if answer.content else None

    def await_dag(self, dag: str, timeout: float = 120.0) -> None:
        """Wait until a DAG has been read from its file.

        :raises AirflowError: with the import errors, when it has not in time.
        """
        try:
            wait_until(lambda: self._knows(dag), timeout, f"DAG {dag} to be read")
        except AirflowError as error:
            raise AirflowError(f"{error}; import errors: {self.import_errors()}") from None

    def import_errors(self) -> list[str]:
        """Return what went wrong in reading DAG files."""
        answer = self.call("GET", "/importErrors")
        return [f"{e['filename']}: {e['stack_trace']}" for e in answer["import_errors"]]

    def unpause(self, dag: str) -> None:
        """Let a DAG run."""
        self.call("PATCH", f"/dags/{dag}", json={"is_paused": False})

    def pause(self, dag: str) -> None:
        """Keep a DAG from being scheduled."""
        self.call("PATCH", f"/dags/{dag}", json={"is_paused": True})

    def trigger(self, dag: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of a DAG and return its id."""
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self.call("POST", f"/dags/{dag}/dagRuns", json=body)["dag_run_id"])

    def run_state(self, dag: str, run: str) -> str:
        """Return queued, running, success or failed."""
        return str(self.call("GET", f"/dags/{dag}/dagRuns/{run}")["state"])

    def await_run(self, dag: str, run: str, timeout: float = 300.0) -> str:
        """Wait for the end of a run and return its state.

        :raises AirflowError: with the states of its tasks, when it has not ended in time.
        """
        try:
            wait_until(lambda: self.run_state(dag, run) in FINISHED, timeout, f"run {run} of {dag}")
        except AirflowError as error:
            states = [(t["task_id"], t["map_index"], t["state"]) for t in self.tasks(dag, run)]
            raise AirflowError(f"{error}; its tasks: {states}") from None
        return self.run_state(dag, run)

    def tasks(self, dag: str, run: str, task: str | None = None) -> list[dict[str, Any]]:
        """Return the task instances of a run, of one task if it is given, by map index."""
        path, found, total = f"/dags/{dag}/dagRuns/{run}/taskInstances", [], 1
        while len(found) < total:
            page = {"limit": PAGE, "offset": len(found), "order_by": "id"}
            answer = self.call("GET", path, params=page)
            total = answer["total_entries"] if answer["task_instances"] else 0
            found += answer["task_instances"]
        chosen = [t for t in found if task in (None, t["task_id"])]
        return sorted(chosen, key=lambda t: (t["task_id"], t["map_index"]))

    def log(self, dag: str, run: str, task: str, map_index: int = -1, attempt: int = 1) -> str:
        """Return the log of one try of a task, one message a line."""
        answer = self.call(
            "GET",
            f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{attempt}",
            params={"map_index": map_index, "full_content": True},
            headers={"Accept": "application/json"},
        )
        lines = [m if isinstance(m, str) else _log_line(m) for m in answer["content"]]
        return "\n".join(lines)

    def xcom(self, dag: str, run: str, task: str, key: str = "return_value") -> Any:
        """Return a value that a task has pushed."""
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/{key}"
        return self.call("GET", path, params={"deserialize": True})["value"]

    def clear(self, dag: str, run: str, tasks: Sequence[str | tuple[str, int]]) -> None:
        """Clear tasks of a run, or (task, map index) pairs, so that they run again."""
        body = {
            "dry_run": False,
            "only_failed": False,
            "dag_run_id": run,
            "task_ids": [list(task) if isinstance(task, tuple) else task for task in tasks],
        }
        self.call("POST", f"/dags/{dag}/clearTaskInstances", json=body)

    def set_state(self, dag: str, run: str, task: str, map_index: int, state: str) -> None:
        """Mark one mapped task instance as success or failed."""
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/{map_index}"
        self.call("PATCH", path, json={"new_state": state})

    def asset_events(self, dag: str, run: str) -> list[dict[str, Any]]:
        """Return the asset events that a run has emitted."""
        params = {"source_dag_id": dag, "source_run_id": run}
        return list(self.call("GET", "/assets/events", params=params)["asset_events"])

    def _knows(self, dag: str) -> bool:
        return self._http.get(f"/api/v2/dags/{dag}").status_code == httpx.codes.OK


def wait_until(happened: Callable[[], bool], timeout: float, what: str) -> None:
    """Wait for something to become true.

    :raises AirflowError: when it has not after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not happened():
        if time.monotonic() > deadline:
            raise AirflowError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(0.5)


def _log_line(message: Mapping[str, Any]) -> str:
    details = message.get("error_detail")
    return str(message.get("event", "")) + (f" {json.dumps(details)}" if details else "")


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
