"""Make ``.venv`` and install the project into it, with the versions of ``constraints.txt``.

Run by the Makefile with whatever Python 3 is there. Standard library and old syntax only: it must
get as far as saying clearly that this Python is too old.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"

EXTRAS = "airflow,postgres,s3,stilt"
GROUPS = {"run": (), "test": ("test", "docs"), "bench": ("test", "docs", "bench")}

#: What pip is told through its environment, under the names by which uv knows it.
UV_NAMES = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_DEFAULT_TIMEOUT": "UV_HTTP_TIMEOUT",
    "PIP_CERT": "SSL_CERT_FILE",
}


def main() -> None:
    """Make the environment named on the command line and stamp it."""
    parser = argparse.ArgumentParser(description="make .venv and install the project into it")
    parser.add_argument("purpose", choices=sorted(GROUPS), help="what the environment is for")
    purpose = parser.parse_args().purpose
    if not is_usable(VENV_PYTHON):
        make_venv(find_python())
    say(f"installing into .venv (for '{purpose}'); the first time takes a minute or two")
    install(purpose)
    stamp = VENV / "stamps" / purpose
    stamp.parent.mkdir(exist_ok=True)
    stamp.touch()


def find_python() -> str:
    """Return the first interpreter that all of the project's parts run on.

    The STILT model needs at least 3.11; versions after NEWEST have not been tested.
    """
    names = ["python3", *(f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1))]
    for candidate in (sys.executable, *map(shutil.which, names)):
        if candidate and is_usable(candidate):
            return candidate
    oldest, newest, here = ("{}.{}".format(*v) for v in (OLDEST, NEWEST, sys.version_info))
    raise SystemExit(
        f"no Python between {oldest} and {newest} was found ({sys.executable} is {here}). Install "
        "one, for example with 'apt-get install python3.11 python3.11-venv', or name the one to "
        "use: make PYTHON=/path/to/python"
    )


def is_usable(python: str | Path) -> bool:
    """Return whether an interpreter starts and has a version that the project runs on."""
    command = [str(python), "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return done.returncode == 0 and OLDEST <= tuple(map(int, done.stdout.split())) <= NEWEST


def make_venv(python: str) -> None:
    """Make an empty virtual environment with pip in it."""
    shutil.rmtree(VENV, ignore_errors=True)
    if subprocess.call([python, "-c", "import ensurepip"], stderr=subprocess.DEVNULL):
        install_venv_package(python)
    if subprocess.call([python, "-m", "venv", str(VENV)]):
        raise SystemExit(f"'{python} -m venv {VENV}' failed: see above")


def install_venv_package(python: str) -> None:
    """Get what Debian leaves out of its Python, or say how."""
    name = "import sys; print('python{}.{}-venv'.format(*sys.version_info))"
    package = subprocess.check_output([python, "-c", name]).decode().strip()
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"{python} cannot make virtual environments: installing {package}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.call(["apt-get", "-qq", "update"], env=environment)
        if subprocess.call(["apt-get", "-qq", "-y", "install", package], env=environment) == 0:
            return
    raise SystemExit(
        f"{python} cannot make virtual environments (it has no ensurepip): install its venv "
        f"package, on Debian and Ubuntu with 'sudo apt-get install {package}', and try again"
    )


def install(purpose: str) -> None:
    """Install the project, editable, with all that the purpose needs: by uv, else by pip."""
    if install_uv() and run_uv(purpose) == 0:
        return
    say("uv did not work here: installing with pip, which takes some minutes longer")
    pip = [str(VENV_PYTHON), "-m", "pip", "install", "-qq"]
    for arguments in (["--upgrade", "pip>=25.1"], project_arguments(purpose)):
        if subprocess.call([*pip, *arguments], cwd=ROOT):
            raise SystemExit("installing failed: see pip's message above")


def install_uv() -> bool:
    """Return whether uv is in the environment, after trying to put it there."""
    if (VENV / "bin" / "uv").exists():
        return True
    pip = [str(VENV_PYTHON), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    return subprocess.call([*pip, "uv"]) == 0


def run_uv(purpose: str) -> int:
    """Install with uv; return its exit status."""
    command = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(VENV_PYTHON)]
    command += project_arguments(purpose)
    return subprocess.call(command, cwd=ROOT, env=uv_environment(os.environ))


def project_arguments(purpose: str) -> list[str]:
    """Return what to install, in words that both installers understand."""
    groups = [word for group in GROUPS[purpose] for word in ("--group", group)]
    return ["--constraint", "constraints.txt", "--editable", f".[{EXTRAS}]", *groups]


def uv_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with pip's settings under uv's names, where uv has none of its own."""
    result = dict(environment)
    for theirs, ours in UV_NAMES.items():
        if environment.get(theirs):
            result.setdefault(ours, environment[theirs])
    if environment.get("PIP_EXTRA_INDEX_URL"):
        # pip takes the best version of all indexes; uv, unasked, the first index that has any.
        result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return result


def say(message: str) -> None:
    """Tell the user what takes time."""
    print(f"[bootstrap] {message}", flush=True)


if __name__ == "__main__":
    main()
