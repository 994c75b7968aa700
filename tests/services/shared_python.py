"""Interpreters for another account of this machine, wherever ours are kept."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

#: Parts of an installation that no worker needs. What is compiled comes along: the account cannot
#: write it, and would compile the standard library with every start, four times as slow.
LEFT_OUT = ("test", "site-packages", "idlelib", "config-3*", "ensurepip", "tkinter")


def share_python(python: str, folder: Path, *, packages: Path | None = None) -> str:
    """Copy an interpreter and return the command that starts the copy.

    :param python: an interpreter that we can run.
    :param folder: where the copy goes; made.
    :param packages: a folder of packages that it shall find.
    """
    prefix, version = _describe(python)
    _copy(prefix / "lib" / f"python{version}", folder / "lib" / f"python{version}")
    for library in sorted(prefix.glob("lib/libpython*.so*")):
        shutil.copy2(library, folder / "lib", follow_symlinks=False)
    (folder / "bin").mkdir()
    program = folder / "bin" / f"python{version}"
    shutil.copy2((prefix / "bin" / f"python{version}").resolve(), program)
    # An interpreter that was built shared looks for its library where it was built.
    variables = {"LD_LIBRARY_PATH": str(folder / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    if packages is not None:
        variables["PYTHONPATH"] = str(packages)
    return str(_write_wrapper(folder / "python", program, variables))


def share_packages(folder: Path, user: str | None) -> Path:
    """Return the packages that we run with, as a folder that ``user`` can read.

    :param folder: where a copy goes if the account cannot read the original; made then.
    """
    packages = Path(sysconfig.get_path("purelib"))
    probe = ["test", "-r", str(packages), "-a", "-x", str(packages)]
    if subprocess.run(probe, user=user, cwd="/", check=False).returncode == 0:
        return packages
    _copy(packages, folder)
    return folder


def _describe(python: str) -> tuple[Path, str]:
    text = "import sys; print(sys.base_prefix); print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", text], capture_output=True, text=True, check=True)
    prefix, version = done.stdout.splitlines()
    return Path(prefix), version


def _copy(source: Path, target: Path) -> None:
    ignore = shutil.ignore_patterns(*LEFT_OUT) if target.name.startswith("python3") else None
    shutil.copytree(source, target, symlinks=True, ignore=ignore, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
    return target


def _write_wrapper(path: Path, program: Path, variables: Mapping[str, str]) -> Path:
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    path.write_text("\n".join(["#!/bin/sh", *lines, f'exec {shlex.quote(str(program))} "$@"', ""]))
    path.chmod(0o755)
    return path


def our_python() -> str:
    """Return the interpreter behind the environment that we run in."""
    return sys.executable
