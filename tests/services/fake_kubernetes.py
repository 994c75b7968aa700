"""A fake Kubernetes for tests: it speaks the pod API over HTTP, and runs pods as local processes.

It knows what KubernetesPodOperator and pull workers need: namespaces, pods, logs, events, secrets,
config maps and service accounts. What it does not know it refuses with 501.
``tests/kubernetes/test_protocol.py`` holds it to what a real API server does.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.services.daemons import free_ports
from tests.services.kube_api import Api, Rules, authorize, new_namespace, parse_call
from tests.services.kube_objects import Object, Refused
from tests.services.kube_pods import Node
from tests.services.kube_store import Store

VERSION = {"major": "1", "minor": "20", "gitVersion": "v1.20.2-fake", "platform": "linux/amd64"}


class FakeKubernetes:
    """A running server and its one node.

    :param rules: what Airflow's identity may do, as in a Role; the admin may do everything.
    :param address: the address of this machine at which it listens.
    """

    def __init__(self, rules: Rules, address: str = "127.0.0.1") -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ensemble-kube-"))
        self.root.chmod(0o755)
        self.store = Store()
        self.node = Node(self.store, self.root)
        self.rules = rules
        self.address = address
        self.requests: list[tuple[str, str]] = []
        self.refusals: list[Refused] = []
        self.port = free_ports(1)[0]
        self._server: _Server | None = None
        new_namespace(self.store, "default")
        self.start()

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def kubeconfig(self, token: str, namespace: str) -> Path:
        """Write a kubeconfig of an identity, and return its path."""
        path = self.root / f"{token}.kubeconfig"
        context = {"cluster": "fake", "user": "user", "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "fake", "context": context}],
        }
        path.write_text(json.dumps(content))
        path.chmod(0o600)
        return path

    def start(self) -> None:
        """Answer requests, on the same port as before."""
        self._server = _Server((self.address, self.port), self)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Answer nobody, and cut every connection; pods go on."""
        server, self._server = self._server, None
        if server:
            server.close()

    def close(self) -> None:
        """Kill all pods, stop, and remove every file."""
        self.node.close()
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def refuse(self, count: int, code: int, reason: str, message: str = "on request") -> None:
        """Refuse the next requests, whatever they ask."""
        self.refusals += [Refused(code, reason, message)] * count

    def oom(self, namespace: str, name: str) -> None:
        """Kill a pod as the kernel does when it has taken too much memory."""
        self.node.pod(namespace, name).kill("OOMKilled")

    def evict(self, namespace: str, name: str, reason: str = "Evicted") -> None:
        """Let the node give a pod up."""
        message = "The node was low on resource: memory. "
        self.node.pod(namespace, name).fail(reason, message)
        self.node.pod(namespace, name).event(reason, message, "Warning")

    def __enter__(self) -> FakeKubernetes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], fake: FakeKubernetes) -> None:
        self.fake = fake
        self.closing = False
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def close(self) -> None:
        self.closing = True
        self.shutdown()
        self.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients come and go."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answer(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        fake = self.server.fake
        fake.requests.append((self.command, self.path))
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        try:
            if fake.refusals:
                raise fake.refusals.pop(0)
            if url.path in ("/version", "/version/"):
                self._send(200, VERSION)
                return
            call = parse_call(self.command, unquote(url.path), query, self._content(body))
            authorize(call, self.headers.get("Authorization", ""), fake.rules)
            answer = Api(fake.store, fake.node).answer(call)
            if isinstance(answer, Iterator):
                self._stream(answer, "text/plain" if call.part == "log" else "application/json")
            else:
                self._send(201 if self.command == "POST" else 200, answer)
        except Refused as error:
            self._send(error.code, error.status())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _content(self, body: bytes) -> Any:
        if "json-patch+json" in self.headers.get("Content-Type", ""):
            raise Refused(
                415, "UnsupportedMediaType", "the fake Kubernetes knows merge patches alone"
            )
        try:
            return json.loads(body) if body else {}
        except ValueError as error:
            raise Refused(400, "BadRequest", str(error)) from None

    def _send(self, code: int, thing: Object) -> None:
        data = json.dumps(thing).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, pieces: Iterator[bytes], kind: str) -> None:
        first = next(pieces, b"")  # before the headers: it may be a refusal
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in itertools.chain((first,), pieces):
            if self.server.closing:
                return
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")
