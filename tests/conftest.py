"""Fixtures that several packages of tests share, each in a module of its own."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

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

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("anywhere", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", parent=settings.get_profile("anywhere"), max_examples=10_000)
settings.load_profile("anywhere")
