"""Kubernetes through its own command, ``kubectl``: whoever may use that may run ensembles.

What ``kubectl`` says is judged by one closed table; what it prints is JSON of the API.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_ensemble.cli.kubernetes.errors import (
    AlreadyThere,
    KubernetesError,
    NotThere,
    Refused,
    Unreachable,
)

#: Seconds for one request, and for the command around it.
REQUEST_LIMIT = 20
COMMAND_LIMIT = 60.0

_INSTALL = "install kubectl and let it reach the cluster, or run the ensemble from Airflow"
_ACCESS = "ask for the role 'ensemble-run' that `ensemble manifests --kind rbac` prints"
_CONTEXT = "`kubectl config get-contexts` lists what there is"
_NAMESPACE = "`kubectl create namespace` makes one; execution.kubernetes.namespace names another"
#: What kubectl's words mean, the first that is found: the error, and what to do.
_MEANINGS: Sequence[tuple[str, type[KubernetesError], str]] = (
    (r"\(AlreadyExists\)", AlreadyThere, ""),
    (r"namespaces? \S+ not found", Refused, _NAMESPACE),
    (r"\(NotFound\)", NotThere, ""),
    (r"\(Forbidden\)", Refused, _ACCESS),
    (r"\(Unauthorized\)|must be logged in|provide credentials", Refused, "log in to it again"),
    (r"context was not found|context .* does not exist|no configuration", Refused, _CONTEXT),
    (r"\(Invalid\)|\(BadRequest\)|error validating", Refused, "change execution.kubernetes"),
    (r"x509|certificate", Refused, "the kubeconfig does not fit this cluster"),
    (r"connection to the server .* was refused|i/o timeout|no such host|Unable to connect",
     Unreachable, "see `kubectl cluster-info`, and repeat the command"),
    (r"timed? ?out|\(ServerTimeout\)|\(TooManyRequests\)|\(ServiceUnavailable\)|EOF",
     Unreachable, "repeat the command"),
)  # fmt: skip


@dataclass(frozen=True)
class Kubectl:
    """One namespace of one cluster.

    :param context: of the kubeconfig; None is the current one.
    :param namespace: None is that of the context.
    """

    context: str | None = None
    namespace: str | None = None

    @property
    def place(self) -> str:
        """Return where this is, in words."""
        namespace = f"namespace {self.namespace}" if self.namespace else "the context's namespace"
        return f"{namespace} of {self.context}" if self.context else namespace

    def release(self) -> tuple[int, int]:
        """Return the release of the API server, such as (1, 31)."""
        return parse_release(self._run(["version", "-o", "json"]))

    def describe(self) -> str:
        """Return which release answers where, on one line."""
        major, minor = self.release()
        return f"Kubernetes {major}.{minor}, {self.place}"

    def create(self, manifest: Mapping[str, Any], *, dry: bool = False) -> None:
        """Create an object.

        :param dry: let the server judge it, and create nothing.
        :raises AlreadyThere: when there is one of its name.
        """
        options = ["--dry-run=server"] if dry else []
        self._run(["create", *options, "-f", "-"], json.dumps(manifest))

    def list(self, kind: str, selector: str) -> list[dict[str, Any]]:
        """Return the objects of a kind that labels select.

        :param kind: ``jobs`` or ``pods``.
        """
        return list(json.loads(self._run(["get", kind, "-l", selector, "-o", "json"]))["items"])

    def last_words(self, pod: str) -> str:
        """Return the last line that a pod printed, as far as it can be had."""
        try:
            said = self._run(["logs", pod, "--tail=1"])
        except KubernetesError as error:
            return str(error)
        return " ".join(said.split()) or "it said nothing"

    def delete_job(self, name: str) -> None:
        """Delete a Job and, in the background, its pods; one that is gone already is fine."""
        options = ["--cascade=background", "--wait=false", "--ignore-not-found"]
        self._run(["delete", "job", name, *options])

    def _run(self, arguments: Sequence[str], text: str = "") -> str:
        command = ["kubectl", f"--request-timeout={REQUEST_LIMIT}s"]
        command += [f"--context={self.context}"] if self.context else []
        command += [f"--namespace={self.namespace}"] if self.namespace else []
        try:
            done = subprocess.run(
                [*command, *arguments],
                input=text,
                capture_output=True,
                text=True,
                timeout=COMMAND_LIMIT,
                check=False,
            )
        except FileNotFoundError as error:
            raise Refused(f"there is no command kubectl on PATH: {_INSTALL}") from error
        except subprocess.TimeoutExpired as error:
            raise Unreachable(
                f"kubectl {arguments[0]} did not end within {COMMAND_LIMIT:g} s: see "
                "`kubectl cluster-info`, and repeat the command"
            ) from error
        if done.returncode != 0:
            raise judge(f"kubectl {arguments[0]} in {self.place}", done.stderr)
        return done.stdout


def judge(what: str, said: str) -> KubernetesError:
    """Return the error that kubectl's words come to.

    :param what: was tried.
    :param said: what it wrote to standard error.
    """
    lines = [line for line in said.splitlines() if line.strip()]
    text = " ".join((lines or ["it said nothing"])[-1].split())
    for pattern, kind, advice in _MEANINGS:
        if re.search(pattern, said):
            return kind(f"{what}: {text}{f'; {advice}' if advice else ''}")
    return Refused(f"{what}: {text}")


def parse_release(text: str) -> tuple[int, int]:
    """Return major and minor number from what ``kubectl version -o json`` prints.

    Some vendors write the minor one as ``31+``.
    """
    server = json.loads(text).get("serverVersion") or {}
    numbers = [re.match(r"[0-9]+", str(server.get(part, ""))) for part in ("major", "minor")]
    if not all(numbers):
        raise Unreachable("the API server did not say which release it is: repeat the command")
    major, minor = (int(number[0]) for number in numbers if number)
    return major, minor
