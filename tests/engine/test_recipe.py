from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given

from airflow_ensemble.engine.recipe import ProductSpec, Recipe, Settings
from tests.engine import strategies


@given(strategies.recipes)
def test_recipe_survives_json(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


SETTINGS = Settings(model="m:f", parameters={"a": 1}, products=(ProductSpec("x"),), seed=1)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "m:g"},
        {"model": None, "command": ("run",)},
        {"model_version": "2"},
        {"parameters": {"a": 2}},
        {"products": (ProductSpec("y"),)},
        {"products": (ProductSpec("x", optional=True),)},
        {"seed": 2},
    ],
)
def test_each_setting_changes_the_hash(change):
    assert dataclasses.replace(SETTINGS, **change).hash != SETTINGS.hash


def test_how_and_where_it_runs_does_not_change_the_hash():
    here = Recipe("e", SETTINGS, "/a", time_limit=1.0)
    there = Recipe("e", SETTINGS, "s3://b", logs="all", code=("/c",))
    assert here.hash8 == there.hash8 == SETTINGS.hash[:8]
