"""Run every benchmark of this folder, one after the other, and print their tables.

    .venv/bin/python benchmarks/run.py            all of them
    .venv/bin/python benchmarks/run.py register   those whose name holds the word
    .venv/bin/python benchmarks/run.py --small    options are passed on to each script

Writes nothing. Figures mean something on an idle machine only: the load is printed first.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
#: Scripts that others run.
HELPERS = ("run.py", "peers.py", "queue_peer.py", "slurm_peers.py")


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that the words among the arguments select.

    :return: 0, 1 when one of them ended with an error, 2 when no name fits.
    """
    words = [argument for argument in arguments if not argument.startswith("-")]
    options = [argument for argument in arguments if argument.startswith("-")]
    print(describe_machine(), flush=True)
    scripts = [script for script in find_scripts() if matches(script, words)]
    if not scripts:
        print(
            f"no benchmark is called like that; there are: {', '.join(map(label, find_scripts()))}"
        )
        return 2
    failed = [label(script) for script in scripts if not run(script, options)]
    if failed:
        print(f"\nended with an error: {', '.join(failed)}")
    return 1 if failed else 0


def find_scripts() -> list[Path]:
    """Return the scripts of this folder that can be run by themselves."""
    return sorted(
        path
        for path in FOLDER.glob("*.py")
        if path.name not in HELPERS and '__name__ == "__main__"' in path.read_text()
    )


def matches(script: Path, words: Sequence[str]) -> bool:
    """Return whether a script's name holds one of the words; no words mean all."""
    return not words or any(word in label(script) for word in words)


def label(script: Path) -> str:
    """Return what a benchmark is called."""
    return script.stem.replace("bench_", "")


def describe_machine() -> str:
    """Return one line about the machine and how busy it is."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load {load}"
    )


def run(script: Path, options: Sequence[str] = ()) -> bool:
    """Run one script; return whether it ended well."""
    print(f"\n=== {label(script)}", flush=True)
    started = time.monotonic()
    code = subprocess.run([sys.executable, str(script), *options], check=False).returncode
    print(f"--- {time.monotonic() - started:.0f} s, exit code {code}", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
