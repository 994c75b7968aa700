"""A real S3 server of its own for the tests, and one that fails now and then."""

from __future__ import annotations

import http.client
import itertools
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.services.daemons import pods_host

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class S3Server:
    """A running S3 server; the environment of this process and its children points to it."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_bucket(self) -> str:
        """Make a bucket and return its URI."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("PUT", f"/{name}")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        connection.close()
        return f"s3://{name}"


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start the server; nothing points to it yet."""
    port = free_port()
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("moto_server")),
                "-H",
                "0.0.0.0" if pods_host() else "127.0.0.1",
                "-p",
                str(port),
            ],
            stdout=stream,
            stderr=stream,
        )
    try:
        wait_for_port(port, process)
        yield S3Server(port)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Return the server, with the environment pointing to it."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_process.endpoint)
    return s3_process


@pytest.fixture
def flaky_s3(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Return the same store behind a front that answers every tenth PUT with 500."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with front(s3.port, fail_every=10) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        yield s3


@contextmanager
def front(port: int, fail_every: int) -> Iterator[int]:
    """Forward HTTP requests to a port, but refuse every n-th PUT; yields the front's own port."""
    count = itertools.count(1)

    class Forward(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "PUT" and next(count) % fail_every == 0:
                self.answer(500, b"<Error><Code>InternalError</Code></Error>", {})
                return
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            self.answer(response.status, response.read(), dict(response.headers))
            connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward  # noqa: N815

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            kept = {k: v for k, v in headers.items() if k.lower() not in SKIPPED}
            if self.command == "HEAD" and "Content-Length" in headers:
                kept["Content-Length"] = headers["Content-Length"]
            else:
                kept["Content-Length"] = str(len(body))
            for name, value in kept.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


SKIPPED = frozenset({"content-length", "transfer-encoding", "connection", "date", "server"})


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Wait until a process answers on its port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"{process.args!r} does not answer on port {port}")
