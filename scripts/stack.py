"""``make stack`` and ``make stack-check``: say what ``docker compose up`` would miss.

``stack.py`` checks, starts the stack of ``docker-compose.yaml`` and prints its address and login;
``stack.py --check`` only checks. Each thing that is in the way is one line that says what to do.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: The first ones that know `start_interval` of health checks, which the file uses.
OLDEST_ENGINE, OLDEST_COMPOSE = (25, 0), (2, 20, 2)
#: What images, their build cache and volumes come to, in bytes.
NEEDED = 8 * 10**9
BASE = "debian:bookworm-slim"
#: Services of the file that listen on this machine: variable, default, port in the container.
PORTS = {
    "airflow": ("AIRFLOW_PORT", 8080, 8080),
    "postgres": ("POSTGRES_PORT", 5432, 5432),
    "s3": ("S3_PORT", 9000, 9000),
}
SECONDS = 300


@dataclass(frozen=True)
class Answer:
    """What a command said.

    :param code: its exit status; 127 when there is no such command.
    :param text: what it printed.
    """

    code: int
    text: str


@dataclass(frozen=True)
class Facts:
    """What there is on this machine.

    :param engine: Docker's answer to the question for the engine's version.
    :param compose: Compose's answer, likewise.
    :param base: name of the image that all others begin with.
    :param pull: what pulling it said; None where it is here already.
    :param taken: variables of ports on which somebody else listens, with the ports.
    :param free: bytes free where the engine keeps images; None where that cannot be seen.
    """

    engine: Answer
    compose: Answer
    base: str = BASE
    pull: Answer | None = None
    taken: tuple[tuple[str, int], ...] = ()
    free: int | None = None


def main() -> int:
    """Check, and unless told otherwise start the stack; return the exit code."""
    parser = argparse.ArgumentParser(description="Start the stack of docker-compose.yaml.")
    parser.add_argument("--check", action="store_true", help="only say what is in the way")
    only_check = parser.parse_args().check
    found = problems(gather())
    for line in found:
        print(f"stack: {line}", file=sys.stderr)
    if found or only_check:
        return 1 if found else 0
    started = subprocess.call(["docker", "compose", "up", "--build", "--wait"], cwd=ROOT)
    if started == 0:
        print("\n".join(greeting(os.environ)))
    return started


# --- deciding -----------------------------------------------------------------------------------


def problems(facts: Facts) -> list[str]:
    """Return what is in the way of the stack, one line each that says what to do.

    Without an engine nothing else can be known, so that it is then the only line.
    """
    if (problem := engine_problem(facts.engine)) is not None:
        return [problem]
    others = (
        compose_problem(facts.compose),
        base_problem(facts.base, facts.pull),
        *(port_problem(variable, port) for variable, port in facts.taken),
        space_problem(facts.free),
    )
    return [line for line in others if line is not None]


def engine_problem(answer: Answer) -> str | None:
    """Say why no engine of Docker can be used, if so."""
    if answer.code == 127:
        return (
            "there is no 'docker' command: install Docker Engine with its Compose plugin, on "
            "Debian 13 with 'apt-get install docker.io docker-cli docker-buildx docker-compose'"
        )
    if answer.code != 0:
        return (
            f"no Docker engine answers ({last_line(answer.text)}): start it ('systemctl start "
            "docker', or 'dockerd'), and be root or in the group 'docker'"
        )
    return old_problem("Docker Engine", answer.text, OLDEST_ENGINE)


def compose_problem(answer: Answer) -> str | None:
    """Say why Compose cannot be used, if so."""
    if answer.code != 0:
        return (
            "'docker compose' does not run: install the Compose plugin (package "
            "docker-compose-plugin or docker-compose); the program 'docker-compose' 1.x is too old"
        )
    return old_problem("Docker Compose", answer.text, OLDEST_COMPOSE)


def old_problem(name: str, text: str, oldest: tuple[int, ...]) -> str | None:
    """Say that a program is older than what the file needs, if it is."""
    version = parse_version(text)
    if version >= oldest:
        return None
    wanted = ".".join(map(str, oldest))
    return f"{name} {text.strip() or '?'} is too old: {wanted} or newer is needed, so upgrade it"


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: ``v2.26.1-4`` is (2, 26, 1)."""
    numbers = []
    for part in text.strip().lstrip("v").split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def base_problem(name: str, pull: Answer | None) -> str | None:
    """Say that the base image is not to be had, if so."""
    if pull is None or pull.code == 0:
        return None
    return (
        f"the base image {name} is not here and cannot be pulled ({last_line(pull.text)}): name "
        "one that can with BASE=…, or make one with 'debootstrap' and 'docker import'"
    )


def port_problem(variable: str, port: int) -> str:
    """Say that somebody listens on a port."""
    return f"port {port} is taken: free it, or choose another one with {variable}=…"


def space_problem(free: int | None) -> str | None:
    """Say that the disk is too full, if so."""
    if free is None or free >= NEEDED:
        return None
    return (
        f"{free / 1e9:.1f} GB are free where Docker keeps its images, and {NEEDED / 1e9:.0f} GB "
        "are needed: make room, for instance with 'docker system prune'"
    )


def last_line(text: str) -> str:
    """Return the last line of a command's answer that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def greeting(environment: os._Environ[str] | dict[str, str]) -> list[str]:
    """Return what a user must know of the running stack."""
    port = environment.get("AIRFLOW_PORT", str(PORTS["airflow"][1]))
    password = environment.get("STACK_PASSWORD", "onemachine")
    return [
        "",
        f"  open      http://127.0.0.1:{port}",
        "  user      admin",
        f"  password  {password}",
        "",
        "  docker compose exec airflow airflow dags trigger footprints_slurm",
        "  docker compose down       stops it; with -v nothing is left",
    ]


# --- looking ------------------------------------------------------------------------------------


def gather() -> Facts:
    """Look at this machine; pulls the base image where it is missing."""
    engine = ask("docker", "version", "--format", "{{.Server.Version}}")
    compose = ask("docker", "compose", "version", "--short")
    if engine.code != 0:
        return Facts(engine, compose)
    base = os.environ.get("BASE", BASE)
    here = ask("docker", "image", "inspect", base).code == 0
    return Facts(
        engine=engine,
        compose=compose,
        base=base,
        pull=None if here else ask("docker", "pull", "--quiet", base),
        taken=tuple(taken_ports()),
        free=free_space(),
    )


def taken_ports() -> list[tuple[str, int]]:
    """Return the ports of the stack on which something listens that is not the stack."""
    address = os.environ.get("STACK_ADDRESS", "127.0.0.1")
    found = []
    for service, (variable, default, inside) in PORTS.items():
        port = int(os.environ.get(variable, default))
        own = ask("docker", "compose", "port", service, str(inside))
        if is_taken(address, port) and not own.text.strip().endswith(f":{port}"):
            found.append((variable, port))
    return found


def is_taken(address: str, port: int) -> bool:
    """Return whether nobody else can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return True
    return False


def free_space() -> int | None:
    """Return the bytes that are free where the engine keeps its images, if that is here."""
    folder = Path(ask("docker", "info", "--format", "{{.DockerRootDir}}").text.strip() or "-")
    return shutil.disk_usage(folder).free if folder.is_dir() else None


def ask(*command: str) -> Answer:
    """Run a command; what it has to say is an answer, too, when it fails."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError:
        return Answer(127, "")
    except subprocess.TimeoutExpired:
        return Answer(124, f"no answer after {SECONDS} s")
    return Answer(done.returncode, done.stdout if done.returncode == 0 else done.stderr)


if __name__ == "__main__":
    sys.exit(main())
