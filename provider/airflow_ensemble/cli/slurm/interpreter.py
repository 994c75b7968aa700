"""The workers' interpreter on a login node, started as a batch script starts it."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from airflow_ensemble.cli.text import last_line
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.site import SHELL_LEFT, interpreter

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble

#: Seconds that set-up lines and the interpreter's start may take.
START_LIMIT = 120.0
_VERSION = (
    "import sys; print('%d.%d.%d' % sys.version_info[:3]); sys.exit(sys.version_info < (3, 9))"
)


def find_python(ensemble: Ensemble) -> str:
    """Return the version of the workers' interpreter on this node, after the set-up lines.

    :raises UsageError: when it cannot be run, or is older than 3.9.
    """
    name = interpreter(ensemble.execution)
    done = _run(worker_shell(ensemble, ["-S", "-c", _VERSION]))
    # A profile may have printed something before.
    version = (done.stdout.split() or [""])[-1]
    is_answer = re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version)
    if done.returncode == 0 and is_answer:
        return version
    if done.returncode == 0:
        raise UsageError(SHELL_LEFT.format(place="this node"))
    if done.returncode == 1 and is_answer:
        raise UsageError(f"execution.python: {name} is Python {version}: workers need 3.9")
    raise UsageError(
        f"execution.python: {name} cannot be run on this node: {last_line(done.stderr)}; name an "
        "interpreter of at least Python 3.9, or load it with a line of execution.setup"
    )


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=START_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"execution.python: the login shell, the set-up lines and {command[0]} did not end "
            f"within {START_LIMIT:g} s on this node: run the lines of execution.setup by hand"
        ) from None
    except OSError as error:
        raise UsageError(f"workers are started with bash, which this node lacks: {error}") from None


def worker_shell(ensemble: Ensemble, arguments: Sequence[str]) -> list[str]:
    """Return the argument list that runs the workers' interpreter as a batch script would.

    :param ensemble: whose set-up lines come first.
    :param arguments: of the interpreter.
    """
    lines = []
    for line in ensemble.execution.get("setup", ()):
        complaint = shlex.quote(f"set-up line failed: {line}")
        lines += [line, f"[ $? -eq 0 ] || {{ echo {complaint} >&2; exit 2; }}"]
    lines.append(f"exec {shlex.join([interpreter(ensemble.execution), *arguments])}")
    return ["bash", "-l", "-c", "\n".join(lines)]


@contextmanager
def model_check_command(ensemble: Ensemble) -> Iterator[list[str]]:
    """Give the argument list that loads the model as a worker on the cluster will.

    The interpreter there has nothing of this package: it gets the worker bundle, as workers do.
    """
    from airflow_ensemble.cli import model_check
    from airflow_ensemble.engine.bundle import write_bundle

    with TemporaryDirectory(prefix="ensemble-check-") as folder:
        bundle = str(write_bundle(Path(folder)))
        code = (
            f"import runpy, sys; sys.path.insert(0, {bundle!r}); "
            f"runpy.run_path({model_check.__file__!r}, run_name='__main__')"
        )
        yield worker_shell(ensemble, ["-c", code])
