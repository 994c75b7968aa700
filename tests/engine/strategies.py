"""Hypothesis strategies for the engine's records."""

from __future__ import annotations

from hypothesis import strategies as st

from airflow_ensemble.engine.chunk import Assignment, Chunk
from airflow_ensemble.engine.recipe import ProductSpec, Recipe, Settings
from airflow_ensemble.engine.segment import Finished, Header, Started
from airflow_ensemble.engine.simulation import (
    Limits,
    Outcome,
    Product,
    ProductStatus,
    Reason,
    Resources,
    Simulation,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
params = st.dictionaries(st.text(min_size=1, max_size=8), values, max_size=4)
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_+=@,:~-]{0,40}", fullmatch=True)
tokens = st.from_regex(r"[0-9a-f]{12}", fullmatch=True)
times = st.integers(0, 4_000_000_000).map(lambda ms: ms / 1000)

resources = st.builds(
    Resources,
    nodes=st.integers(1, 4),
    tasks=st.integers(1, 64),
    cores_per_task=st.integers(1, 64),
    gpus_per_task=st.integers(0, 8),
    memory=st.none() | st.integers(1, 10**6),
    disk=st.none() | st.integers(1, 10**6),
    walltime=st.none() | st.integers(1, 10**6),
)
simulations = st.builds(
    Simulation, id=ids, params=params, resources=resources, time_limit=st.none() | times
)
products = st.builds(
    Product,
    name=ids,
    status=st.sampled_from(ProductStatus),
    path=st.none() | st.text(min_size=1, max_size=30),
    size=st.none() | st.integers(0, 2**40),
    checksum=st.none() | st.just("sha256:" + "0" * 64),
)
outcomes = st.builds(
    Outcome,
    id=ids,
    attempt=st.integers(1, 1000),
    token=tokens,
    reason=st.none() | st.sampled_from(Reason),
    detail=st.text(max_size=60),
    products=st.lists(products, max_size=3).map(tuple),
    started=times,
    duration=times,
    host=st.text(max_size=12),
    log=st.none() | st.text(min_size=1, max_size=30),
)
headers = st.builds(
    Header,
    ensemble=ids,
    settings_hash=tokens,
    index=tokens,
    writer=ids,
    token=tokens,
    host=st.text(max_size=12),
    pid=st.integers(1, 2**22),
)
started = st.builds(
    Started, id=ids, attempt=st.integers(1, 99), token=tokens, time=times, host=st.text(max_size=9)
)
finished = st.builds(Finished, outcome=outcomes, generation=st.integers(1, 99), params=params)
records = headers | started | finished

settings_of_ensembles = st.builds(
    Settings,
    model=st.none() | st.just("pkg.mod:simulate"),
    command=st.lists(st.text(max_size=9), max_size=3).map(tuple),
    model_version=st.text(max_size=5),
    parameters=params,
    products=st.lists(
        st.builds(ProductSpec, ids, st.none() | st.just("*.nc"), st.booleans()), max_size=3
    ).map(tuple),
    seed=st.integers(0, 2**31),
)
recipes = st.builds(
    Recipe,
    ensemble=ids,
    settings=settings_of_ensembles,
    output=st.just("/out"),
    limits=st.builds(Limits, st.integers(1, 9), st.integers(1, 99)),
    time_limit=st.none() | times,
    logs=st.sampled_from(["failed", "all"]),
    code=st.lists(st.just("/code"), max_size=2).map(tuple),
)
chunks = st.builds(
    Chunk,
    index=tokens,
    batch=tokens,
    id=ids,
    submission=st.integers(1, 99),
    recipe=recipes,
    assignments=st.lists(
        st.builds(Assignment, simulations, st.integers(1, 99), st.integers(1, 9)), max_size=5
    ).map(tuple),
)
