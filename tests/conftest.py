"""Fixtures that several packages of tests share, each in a module of its own."""

from __future__ import annotations

pytest_plugins = [
    "tests.hrrr",
    "tests.leftovers",
    "tests.logging_baseline",
    "tests.services.kubernetes",
    "tests.services.postgres",
    "tests.services.s3",
    "tests.services.slurm",
    "tests.services.sshd",
]
