"""The command line as a user of a cluster has it: on a login node, under an account of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import airflow_ensemble
from tests.cli.conftest import Ended
from tests.ensembles import write_ensemble
from tests.services.slurm import SlurmCluster

#: Runs the command line from a copy of the package, which the account can read wherever ours is.
_MAIN = (
    "import sys; sys.path.insert(0, {!r}); from airflow_ensemble.cli import main; sys.exit(main())"
)


class LoginNode:
    """Runs ``ensemble`` as the cluster's account.

    :param cluster: whose account, and whose Slurm.
    :param environment: variables of the account's shell over the usual ones.
    """

    def __init__(self, cluster: SlurmCluster, environment: Mapping[str, str] | None = None) -> None:
        self.cluster = cluster
        self.environment = dict(environment or {})
        self.shared = cluster.shared
        package = cluster.root / "login" / "airflow_ensemble"
        if package.exists():
            shutil.rmtree(package)
        # Compiled modules, too, as an installation has them: the account cannot write any here.
        shutil.copytree(Path(airflow_ensemble.__file__).parent, package)
        self.program = [cluster.python_with_models, "-c", _MAIN.format(str(package.parent))]

    def __call__(self, *arguments: object, timeout: float = 120, path: str | None = None) -> Ended:
        """Run a command to its end.

        :param timeout: seconds that it may take.
        :param path: in place of the account's PATH.
        """
        process = self.start(*arguments, path=path)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{arguments} took longer than {timeout} s: {out}{err}") from None
        return Ended(process.returncode, out, err)

    def start(self, *arguments: object, path: str | None = None) -> subprocess.Popen[str]:
        """Start a command, with its output in pipes."""
        as_root = os.geteuid() == 0
        options: dict[str, Any] = {"user": self.cluster.user, "extra_groups": []} if as_root else {}
        if as_root:
            options["group"] = self.cluster.user
        return subprocess.Popen(
            [*self.program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.shared,
            env={**self._environment(), **({"PATH": path} if path else {})},
            **options,
        )

    def inside(self, launcher: str, *arguments: object, timeout: float = 120) -> str:
        """Run a command inside an allocation, and return what Slurm's launcher printed.

        :param launcher: such as ``salloc -n 3``: what stands before the command.
        :param timeout: seconds that it may take.
        """
        words = [f"HOME={self.shared}", launcher, shlex.join([*self.program, *map(str, arguments)])]
        done = self.cluster.run(" ".join(words), timeout=timeout)
        assert done.returncode == 0, f"{launcher}: {done.stdout}{done.stderr}"
        return done.stdout

    def write(self, name: str, rows: Sequence[Mapping[str, Any]], **keys: Any) -> Path:
        """Write an ensemble in the shared folder, as the account's own.

        :param name: of its folder.
        :param rows: of its table.
        :param keys: of the ensemble file; ``execution`` is completed with backend and interpreter.
        """
        execution = {
            **{"backend": "slurm", "python": self.cluster.python},
            **keys.pop("execution", {}),
        }
        file = write_ensemble(self.shared / name, rows, execution=execution, **keys)
        self.own(file.parent)
        return file

    def own(self, folder: Path) -> None:
        """Give a folder, and all in it, to the account."""
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", f"{self.cluster.user}:", str(folder)], check=True)

    def states(self) -> list[str]:
        """Return Slurm's words for the elements that have not ended."""
        return self.cluster.admin("squeue", "-h", "-r", "-o", "%T").split()

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key.startswith("ENSEMBLE_TEST")}
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self.shared),
            **kept,
            **self.cluster.environment,
            **self.environment,
        }


def python_version(program: str) -> str:
    """Return ``3.x`` of an interpreter."""
    text = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([program, "-c", text], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


def tools_without_slurm(cluster: SlurmCluster) -> Path:
    """Return a folder, for PATH, that holds what a shell needs and nothing of Slurm."""
    folder = cluster.root / "tools"
    folder.mkdir(exist_ok=True)
    for name in ("sh", "bash", "env", "date", "sed", "cat", "mkdir", "timeout"):
        link = folder / name
        if not link.exists():
            link.symlink_to(str(shutil.which(name)))
    return folder
