"""A private PostgreSQL server for tests and benchmarks: its own cluster, port and socket."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import pytest

from tests.services.daemons import descendants, pods_host

INSTALL_HINT = (
    "PostgreSQL's server binaries (initdb, postgres) were not found: install them, for example "
    "with `apt-get install postgresql`; the tests of the output index run against a real server"
)
PASSWORD = "s3cret-never-shown"
_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "128MB",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer:
    """A running server.

    :param durable: keep fsync on, as for benchmarks.
    :param settings: the server's own, such as ``max_connections``.
    """

    def __init__(self, *, durable: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self._bin = find_binaries()
        self._root = Path(tempfile.mkdtemp(prefix="ensemble-pg-"))
        self._data = self._root / "data"
        self._user = _unprivileged_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {**_SETTINGS, **({} if durable else _NOT_DURABLE), **(settings or {})}
        self.port = _free_port()
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(self._root, account.pw_uid, account.pw_gid)
        self._init()
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = {
            **self._settings,
            "port": str(self.port),
            "listen_addresses": ",".join(filter(None, ("127.0.0.1", pods_host()))),
            "unix_socket_directories": str(self._root),
        }
        command = [str(self._bin / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self._root / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, cwd=self._root
            )
        self._wait_until_ready()

    def stop(self, *, crash: bool = False) -> None:
        """Stop the server: connections are cut; with ``crash`` without any farewell."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def is_stopped(self) -> bool:
        return self._process is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def pause(self) -> None:
        """Freeze it: connections are neither answered nor broken."""
        for process in (self.pid, *descendants(self.pid)):
            os.kill(process, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        for process in (self.pid, *descendants(self.pid)):
            os.kill(process, signal.SIGCONT)

    def dsn(self, database: str = "postgres", *, password: str = PASSWORD) -> str:
        """Return the address of a database."""
        return f"postgresql://ensemble:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database and return its address."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return self.dsn(name)

    def make_reader(self, location: str) -> str:
        """Make a role that may only read the index at an address; return the address for it.

        The role goes with the server.
        """
        database = location.rsplit("/", 1)[1]
        role = f"reader_{database}"
        for text in (
            f"CREATE ROLE {role} LOGIN PASSWORD 'r'",
            f"GRANT USAGE ON SCHEMA airflow_ensemble TO {role}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA airflow_ensemble TO {role}",
        ):
            self.execute(text, database)
        return f"postgresql://{role}:r@127.0.0.1:{self.port}/{database}"

    def execute(self, text: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement as the owner."""
        import psycopg

        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Stop the server and remove its cluster."""
        self.stop()
        shutil.rmtree(self._root, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _init(self) -> None:
        secret = self._root / "password"
        secret.write_text(PASSWORD)
        if self._user:
            os.chown(secret, pwd.getpwnam(self._user).pw_uid, -1)
        command = [str(self._bin / "initdb"), "-D", str(self._data), "-U", "ensemble"]
        command += ["-A", "scram-sha-256", "--pwfile", str(secret), "-E", "UTF8", "--no-locale"]
        command += ["--no-sync"]
        done = subprocess.run(
            command, capture_output=True, text=True, user=self._user, cwd=self._root, check=False
        )
        assert done.returncode == 0, f"initdb failed:\n{done.stdout}\n{done.stderr}"
        if pods_host():
            with (self._data / "pg_hba.conf").open("a") as access:
                access.write("host all all samenet scram-sha-256\n")

    def _wait_until_ready(self) -> None:
        import psycopg

        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.dsn(), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._root / "server.log").read_text()[-2000:]
                    raise AssertionError(f"PostgreSQL did not start:\n{log}") from None
                time.sleep(0.05)
            else:
                return


def find_binaries() -> Path:
    """Return the folder of the server's binaries; fail with how to install them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if versions:
        return versions[-1].parent
    raise AssertionError(INSTALL_HINT)


def _unprivileged_user() -> str | None:
    """Return whom to run as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise AssertionError("PostgreSQL cannot run as root, and there is no user postgres or nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole session."""
    with PostgresServer() as server:
        yield server
