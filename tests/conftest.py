"""Fixtures that several packages of tests share, each in a module of its own."""

pytest_plugins = ["tests.hrrr", "tests.leftovers", "tests.services.postgres", "tests.services.s3"]
