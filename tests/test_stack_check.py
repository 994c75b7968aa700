"""What `make stack-check` says of a machine: its decisions, without Docker."""

from __future__ import annotations

import importlib.util
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stack_script", ROOT / "scripts/stack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["stack_script"] = module
    spec.loader.exec_module(module)
    return module


stack = load_script()
GOOD: dict[str, Any] = {
    "engine": stack.Answer(0, "26.1.5+dfsg1\n"),
    "compose": stack.Answer(0, "2.26.1-4\n"),
    "free": 50 * 10**9,
}


def problems(**facts: Any) -> list[str]:
    found: list[str] = stack.problems(stack.Facts(**{**GOOD, **facts}))
    return found


def test_a_machine_with_all_that_is_needed_has_no_problem() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"engine": stack.Answer(127, "")}, ["no 'docker' command", "install"]),
        (
            {"engine": stack.Answer(1, "x\nCannot connect to the Docker daemon\n")},
            ["Cannot connect to the Docker daemon", "start it"],
        ),
        ({"engine": stack.Answer(0, "20.10.24\n")}, ["20.10.24 is too old", "25.0"]),
        ({"compose": stack.Answer(125, "unknown command")}, ["install the Compose plugin"]),
        ({"compose": stack.Answer(0, "v2.17.3")}, ["v2.17.3 is too old", "2.20.2"]),
        ({"compose": stack.Answer(0, "")}, ["? is too old"]),
        (
            {"base": "python:3.11-slim", "pull": stack.Answer(1, "no such host")},
            ["python:3.11-slim", "no such host", "BASE="],
        ),
        ({"taken": (("AIRFLOW_PORT", 8080),)}, ["port 8080 is taken", "AIRFLOW_PORT="]),
        ({"free": 10**9}, ["1.0 GB are free", "8 GB", "make room"]),
    ],
)
def test_each_problem_is_one_line_that_says_what_to_do(
    facts: dict[str, Any], said: list[str]
) -> None:
    (line,) = problems(**facts)
    assert "\n" not in line
    for words in said:
        assert words in line


def test_all_problems_are_said_at_once() -> None:
    taken = (("AIRFLOW_PORT", 8080), ("S3_PORT", 9000))
    assert len(problems(compose=stack.Answer(1, ""), taken=taken, free=0)) == 4


def test_without_an_engine_that_is_the_only_line() -> None:
    assert len(problems(engine=stack.Answer(1, "down"), compose=stack.Answer(1, ""), free=0)) == 1


@given(st.lists(st.integers(0, 999), min_size=1, max_size=4), st.sampled_from(["", "-4", "+dfsg1"]))
def test_versions_are_read_as_numbers(numbers: list[int], suffix: str) -> None:
    text = ".".join(map(str, numbers))
    assert stack.parse_version(f"v{text}{suffix}\n") == tuple(numbers)


@given(st.text(max_size=30))
def test_a_version_is_read_from_any_text(text: str) -> None:
    assert all(number >= 0 for number in stack.parse_version(text))


def test_a_port_is_taken_while_somebody_listens() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert stack.is_taken("127.0.0.1", port)
    assert not stack.is_taken("127.0.0.1", port)


def test_the_check_knows_the_ports_of_the_compose_file() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    published = {name: one["ports"][0] for name, one in services.items() if "ports" in one}
    address = "${STACK_ADDRESS:-127.0.0.1}"
    assert published == {
        name: f"{address}:${{{variable}:-{default}}}:{inside}"
        for name, (variable, default, inside) in stack.PORTS.items()
    }


def test_every_service_is_limited_checked_and_started_again() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    running = {name: one for name, one in services.items() if "profiles" not in one}
    assert set(running) == {"airflow", "postgres", "s3", "slurm"}
    for name, service in running.items():
        assert service["restart"] == "unless-stopped", name
        assert service["mem_limit"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["healthcheck"]["test"], name


def test_no_image_needs_a_registry_beyond_its_base() -> None:
    for file in sorted((ROOT / "docker").glob("*/Dockerfile")):
        lines = file.read_text().splitlines()
        stages = [line.split()[1:] for line in lines if line.startswith("FROM ")]
        images = {words[0] for words in stages} - {words[-1] for words in stages if words[1:]}
        begins = {"$BASE": "ARG BASE=debian:bookworm-slim", "$WORKER": "ARG WORKER=ensemble-worker"}
        assert images, file
        assert all(begins[image] in lines for image in images), file
        assert not any(line.startswith("# syntax=") for line in lines), file
