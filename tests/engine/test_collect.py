"""Collecting products: values come back where they belong, lazily, and misfits are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from airflow_ensemble.engine import collect, stacking
from airflow_ensemble.engine.collect import (
    ProductSummary,
    open_collection,
    open_tables,
    summarize,
    write_collection,
)
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index.interface import Result
from airflow_ensemble.engine.simulation import Product, ProductStatus
from airflow_ensemble.engine.stacking import CollectError
from airflow_ensemble.engine.storage import OutputRoot, open_root

EMPTY = Product("spectrum", ProductStatus.COMPLETE_EMPTY)


def spectrum(i: int, size: int = 4, units: str = "K") -> xr.Dataset:
    """A product with a shared axis, a second variable and a scalar."""
    return xr.Dataset(
        {
            "power": ("frequency", np.arange(size) + 10.0 * i, {"units": units}),
            "peaks": ((), i, {"long_name": "number of peaks"}),
        },
        coords={"frequency": np.arange(size) * 0.5},
        attrs={"source": "a model", "run": f"number {i}"},
    )


def footprint(release: str, hours: list[int], value: float, lon: float = 0.0) -> xr.Dataset:
    """A product whose times are its own, counted from its release."""
    times = pd.Timestamp(release) + pd.to_timedelta(hours, unit="h")
    values = np.full((len(hours), 2), value)
    foot = (("time", "lon"), values, {"units": "ppm", "grid_mapping": "crs", "empty_value": 0.0})
    dataset = xr.Dataset(
        {"foot": foot, "crs": ((), 0, {"grid_mapping_name": "latitude_longitude"})},
        coords={
            "time": ("time", times, {"stack_by": "hour"}),
            "hour": ("time", np.array(hours, "int32")),
            "lon": [lon, lon + 1],
        },
    )
    dataset["foot"].attrs["value"] = value
    return dataset


@pytest.fixture
def root(tmp_path: Path) -> OutputRoot:
    return open_root(str(tmp_path / "output"))


@pytest.fixture
def store(root: OutputRoot, tmp_path: Path) -> Callable[..., Result]:
    """Publish datasets as the products of a simulation; None is complete-empty."""

    def publish(id: str, params: Mapping[str, Any] | None = None, **products: Any) -> Result:
        records = []
        for name, value in products.items():
            if value is None:
                records.append(Product(name, ProductStatus.COMPLETE_EMPTY))
                continue
            is_table = isinstance(value, pd.DataFrame)
            file = tmp_path / f"{name}.{'parquet' if is_table else 'nc'}"
            value.to_parquet(file) if is_table else value.to_netcdf(file)
            path = f"{name}/{id}{file.suffix}"
            size, checksum = root.publish(file, path)
            records.append(Product(name, ProductStatus.COMPLETE, path, size, checksum))
        return Result(id, params or {}, 1, tuple(records))

    return publish


# --- stacking ---------------------------------------------------------------------------------


def test_products_with_equal_axes_stack_along_simulation(root: OutputRoot, store: Any) -> None:
    results = [store(f"s{i}", spectrum=spectrum(i)) for i in range(3)]

    dataset = open_collection(results, root)

    assert dataset["simulation"].values.tolist() == ["s0", "s1", "s2"]
    assert dataset["spectrum_power"].dims == ("simulation", "frequency")
    assert dataset["spectrum_power"].attrs["units"] == "K"
    assert dataset["frequency"].values.tolist() == [0, 0.5, 1, 1.5]
    np.testing.assert_array_equal(
        dataset["spectrum_power"], [np.arange(4) + 10 * i for i in range(3)]
    )
    assert dataset["spectrum_peaks"].values.tolist() == [0, 1, 2]
    assert dataset["spectrum_peaks"].dtype.kind == "i"
    assert dataset.attrs["source"] == "a model"
    assert "run" not in dataset.attrs


def test_empty_simulations_are_marked_and_filled(root: OutputRoot, store: Any) -> None:
    results = [
        store("a", spectrum=None, near=None),
        store("b", spectrum=spectrum(1), near=footprint("2026-01-01", [-2, -1], 3)),
        store("c", spectrum=None, near=footprint("2026-01-02", [-2, -1], 5)),
    ]

    dataset = open_collection(results, root)

    assert dataset["spectrum_empty"].values.tolist() == [True, False, True]
    assert dataset["near_empty"].values.tolist() == [True, False, False]
    assert np.isnan(dataset["spectrum_power"].sel(simulation=["a", "c"])).all()
    assert np.isnan(dataset["spectrum_peaks"].sel(simulation="a"))
    # A footprint says of itself that empty is no influence at all.
    assert (dataset["near"].sel(simulation="a") == 0).all()
    assert float(dataset["near"].sum()) == (3 + 5) * 4
    assert np.isnat(dataset["time"].sel(simulation="a").values).all()


def test_an_ensemble_of_empty_products_only_has_their_marks(root: OutputRoot, store: Any) -> None:
    dataset = open_collection([store("a", near=None), store("b", near=None)], root)
    assert dataset["near_empty"].values.tolist() == [True, True]
    assert list(dataset.data_vars) == ["near_empty"]


def test_nothing_at_all_is_an_empty_dataset(root: OutputRoot) -> None:
    assert open_collection([], root).sizes == {"simulation": 0}


def test_footprints_at_different_times_share_their_hours(root: OutputRoot, store: Any) -> None:
    releases = ["2026-01-01T06:00", "2026-03-05T18:00"]
    results = [
        store(f"r{i}", near=footprint(release, [-2, -1], i + 1.0))
        for i, release in enumerate(releases)
    ]

    dataset = open_collection(results, root)

    assert dataset["near"].dims == ("simulation", "hour", "lon")
    assert dataset["hour"].values.tolist() == [-2, -1]
    assert dataset["time"].dims == ("simulation", "hour")
    assert str(dataset["time"].values[1, 0]).startswith("2026-03-05T16:00")
    assert dataset["near"].values[:, 0, 0].tolist() == [1, 2]
    assert dataset["near"].attrs["grid_mapping"] == "crs"
    assert dataset["crs"].attrs["grid_mapping_name"] == "latitude_longitude"
    assert "value" not in dataset["near"].attrs  # it is another one in each file


def test_an_axis_of_equal_size_that_differs_becomes_a_position(
    root: OutputRoot, store: Any
) -> None:
    results = [store(f"s{i}", profile=_profile(i)) for i in range(3)]

    dataset = open_collection(results, root)

    assert dataset["profile"].dims == ("simulation", "height_step")
    assert "height_step" not in dataset.coords
    np.testing.assert_array_equal(dataset["height"], [np.arange(3.0) + i for i in range(3)])
    np.testing.assert_array_equal(dataset["profile"], np.arange(9).reshape(3, 3))


def _profile(i: int) -> xr.Dataset:
    wind = ("height", np.arange(3) + 3 * i)
    return xr.Dataset({"wind": wind}, coords={"height": np.arange(3.0) + i})


def test_other_axes_are_an_error_that_names_the_way_out(root: OutputRoot, store: Any) -> None:
    results = [
        store("first", spectrum=spectrum(1)),
        store("odd-one", spectrum=spectrum(2, size=6)),
        store("last", spectrum=spectrum(3)),
    ]
    with pytest.raises(
        CollectError, match=r"'odd-one' has 6 values along 'frequency', not 4.*align=\"outer\""
    ):
        open_collection(results, root)


def test_another_grid_in_the_middle_is_seen_like_one_at_the_end(
    root: OutputRoot, store: Any
) -> None:
    results = [
        store("a", near=footprint("2026-01-01", [-1], 1)),
        store("b", near=footprint("2026-01-02", [-1], 1, lon=7)),
        store("c", near=footprint("2026-01-03", [-1], 1)),
    ]
    dataset = open_collection(results, root)
    assert dataset["near"].dims == ("simulation", "hour", "lon_step")
    assert dataset["lon"].values.tolist() == [[0, 1], [7, 8], [0, 1]]


def test_other_units_in_the_middle_are_an_error(root: OutputRoot, store: Any) -> None:
    results = [store(f"s{i}", spectrum=spectrum(i, units="KmK"[i])) for i in range(3)]
    with pytest.raises(CollectError, match="'s1' has other units of 'power'"):
        open_collection(results, root)["spectrum_power"].load()


def test_outer_joins_axes_and_fills_what_a_file_does_not_have(root: OutputRoot, store: Any) -> None:
    results = [
        store("a", near=footprint("2026-01-01", [-2, -1], 1), spectrum=spectrum(1)),
        store("b", near=footprint("2026-01-02", [-3, -2, -1], 2), spectrum=spectrum(2, size=6)),
        store("c", near=footprint("2026-01-03", [-1], 4, lon=5), spectrum=spectrum(3)),
    ]

    dataset = open_collection(results, root, align="outer")

    assert dataset["hour"].values.tolist() == [-3, -2, -1]
    assert dataset["lon"].values.tolist() == [0, 1, 5, 6]
    assert dataset["near"].sum(("hour", "lon")).values.tolist() == [4, 12, 8]
    assert dataset["near"].sel(simulation="a", hour=-3).values.tolist() == [0, 0, 0, 0]
    assert dataset["spectrum_power"].sizes["frequency"] == 6
    assert np.isnan(dataset["spectrum_power"].sel(simulation="a").values[4:]).all()
    assert dataset["spectrum_power"].sel(simulation="b").values.tolist() == list(range(20, 26))
    assert np.isnat(dataset["time"].sel(simulation="a", hour=-3).values)


def test_products_on_different_grids_keep_one_each(root: OutputRoot, store: Any) -> None:
    results = [
        store(
            f"s{i}",
            near=footprint("2026-01-01", [-2, -1], 1),
            far=footprint("2026-01-01", [-2, -1], 2, lon=50),
        )
        for i in range(2)
    ]

    dataset = open_collection(results, root)

    assert dataset["near"].dims == ("simulation", "hour", "near_lon")
    assert dataset["far"].dims == ("simulation", "hour", "far_lon")
    assert dataset["far_lon"].values.tolist() == [50, 51]
    assert {"near_time", "far_time"} <= set(dataset.coords)
    assert dataset["far"].attrs["grid_mapping"] == "crs"  # the same for both


def test_text_in_products_survives_whatever_its_length(
    root: OutputRoot, store: Any, tmp_path: Path
) -> None:
    words = ["short", "a much longer word", ""]
    results = [store(f"s{i}", label=xr.Dataset({"word": ((), w)})) for i, w in enumerate(words)]
    results.append(store("empty", label=None))
    dataset = open_collection(results, root)
    assert dataset["label"].values.tolist() == [*words, ""]
    for target in ("c.zarr", "c.nc"):
        write_collection(dataset, str(tmp_path / target))
        with xr.open_dataset(tmp_path / target) as again:
            assert again["label"].values.tolist() == [*words, ""]


# --- laziness -----------------------------------------------------------------------------------


def test_opening_looks_at_all_files_and_values_are_read_when_they_are_asked_for(
    root: OutputRoot, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [store(f"s{i}", spectrum=spectrum(i)) for i in range(20)]
    fetched: list[str] = []
    fetch = root.fetch
    monkeypatch.setattr(root, "fetch", lambda name: fetched.append(name) or fetch(name))
    monkeypatch.setattr(stacking, "BLOCK_BYTES", 1)

    dataset = open_collection(results, root)
    assert sorted(fetched) == sorted(f"spectrum/s{i}.nc" for i in range(20))
    fetched.clear()
    assert dataset["spectrum_power"].chunks is not None
    dataset["spectrum_power"].sel(simulation="s7").load()
    assert fetched == ["spectrum/s7.nc"]


def test_many_simulations_are_read_in_blocks_and_by_many_threads(
    root: OutputRoot, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacking, "BLOCK_BYTES", 3 * 4 * 8)
    results = [store(f"s{i}", spectrum=spectrum(i)) for i in range(50)]
    dataset = open_collection(results, root)
    assert dataset["spectrum_power"].data.numblocks == (17, 1)
    for _ in range(3):
        loaded = dataset.compute(scheduler="threads", num_workers=8)
        assert loaded["spectrum_power"].values[:, 0].tolist() == [10.0 * i for i in range(50)]
        assert loaded["spectrum_peaks"].values.tolist() == list(range(50))


def test_a_file_that_is_gone_or_damaged_is_named(root: OutputRoot, store: Any) -> None:
    results = [store(f"s{i}", spectrum=spectrum(i)) for i in range(3)]
    dataset = open_collection(results, root)
    root.fetch("spectrum/s1.nc").write_bytes(b"garbage")
    with pytest.raises(CollectError, match=r"'s1' .* cannot be read"):
        dataset["spectrum_power"].load()
    root.delete("spectrum/s1.nc")
    with pytest.raises(FileNotFoundError, match=r"s1\.nc"):
        open_collection(results, root)["spectrum_power"].load()


def test_products_of_a_remote_root_are_read(store: Any, root: OutputRoot, tmp_path: Path) -> None:
    remote = open_root("memory://collected")
    results = []
    for i in range(3):
        local = store(f"s{i}", spectrum=spectrum(i))
        (record,) = local.products
        remote.publish(root.fetch(record.path or ""), record.path or "")
        results.append(local)
    dataset = open_collection(results, remote)
    assert dataset["spectrum_peaks"].values.tolist() == [0, 1, 2]
    target = write_collection(dataset, "memory://elsewhere/all.zarr")
    with xr.open_zarr(target) as again:
        assert again["spectrum_peaks"].values.tolist() == [0, 1, 2]


# --- parameters, tables, summaries -------------------------------------------------------------


def test_parameters_become_coordinates(root: OutputRoot, store: Any) -> None:
    results = [
        store("a", {"time": "2026-01-01", "latitude": 40, "gap": 1.5, "on": True, "box": [1, 2]},
              near=footprint("2026-01-01", [-1], 1)),
        store("b", {"time": "2026-01-02", "latitude": 41, "gap": None, "on": False, "box": [3]},
              near=footprint("2026-01-02", [-1], 1)),
    ]  # fmt: skip
    dataset = open_collection(results, root)
    assert dataset["latitude"].dims == ("simulation",)
    assert dataset["latitude"].dtype.kind == "i"
    assert np.isnan(dataset["gap"].values[1])
    assert dataset["on"].values.tolist() == [True, False]
    assert dataset["box"].values.tolist() == ["[1,2]", "[3]"]
    assert dataset["parameter_time"].values.tolist() == ["2026-01-01", "2026-01-02"]
    assert dataset["time"].dims == ("simulation", "hour")


def test_tables_are_read_one_by_one_with_their_simulation(root: OutputRoot, store: Any) -> None:
    tables = [pd.DataFrame({"x": [i, i + 1], "y": [0.5, 1.5]}) for i in range(3)]
    results = [store(f"s{i}", tracks=table) for i, table in enumerate(tables)]
    results.append(store("none", tracks=None))

    dataset = open_collection(results, root)
    found = list(open_tables(results, root, "tracks", columns=["x"]))

    assert dataset["tracks_file"].values.tolist() == [
        "tracks/s0.parquet", "tracks/s1.parquet", "tracks/s2.parquet", "",
    ]  # fmt: skip
    assert [table.column_names for table in found] == [["simulation", "x"]] * 3
    assert found[2].to_pydict() == {"simulation": ["s2", "s2"], "x": [2, 3]}


def test_tables_have_one_type_for_the_id_and_the_columns_asked_for(
    root: OutputRoot, store: Any
) -> None:
    whole = pd.DataFrame({"x": [1, 2], "y": [0.5, 1.5]})
    results = [store("none", tracks=whole.iloc[:0]), store("some", tracks=whole)]
    schemas = [table.schema.remove_metadata() for table in open_tables(results, root, "tracks")]
    assert schemas[0] == schemas[1]
    odd = [store("odd", tracks=whole.drop(columns="y"))]
    with pytest.raises(CollectError, match="'tracks' of 'odd' has no column 'y': there are 'x'"):
        list(open_tables(odd, root, "tracks", columns=["x", "y"]))
    own = [store("own", tracks=whole.assign(simulation="mine"))]
    with pytest.raises(CollectError, match="'own' has a column 'simulation', and the sim"):
        list(open_tables(own, root, "tracks"))
    (table,) = open_tables(own, root, "tracks", columns=["y"])
    assert table.column_names == ["simulation", "y"]


# --- names and parameters -----------------------------------------------------------------------


def test_two_things_for_one_name_are_an_error_that_names_both(root: OutputRoot, store: Any) -> None:
    two = xr.Dataset({"empty": 1.0, "other": 2.0})
    deep, wide = xr.Dataset({"b_c": 1.0, "b": 2.0}), xr.Dataset({"c": 1.0, "d": 2.0})
    line = xr.Dataset({"v": ("x", [1, 2])})
    for products, params, owners in [
        ({"a": two}, {}, "says where product 'a' is empty and the variable 'empty' of product 'a'"),
        ({"a": deep, "a_b": wide}, {}, "'b_c' of product 'a' and .* 'c' of product 'a_b'"),
        ({"x": line}, {}, "dimension 'x' and the variable 'v' of product 'x' would .* called 'x'"),
        ({"a": line}, {"a": 1, "parameter_a": 2}, "parameter 'a' and the parameter 'parameter_a'"),
        ({"a": line}, {"p/q": 1, "p_q": 2}, "the parameter 'p/q' and the parameter 'p_q'"),
    ]:
        with pytest.raises(CollectError, match=owners):
            open_collection([store("s0", params, **products)], root)
        for name in products:
            root.delete(f"{name}/s0.nc")


def test_axes_of_two_products_in_different_units_are_two(root: OutputRoot, store: Any) -> None:
    metres = xr.Dataset({"v": ("z", [1, 2])}, {"z": ("z", [0, 1], {"units": "m"})})
    kilometres = xr.Dataset({"v": ("z", [1, 2])}, {"z": ("z", [0, 1], {"units": "km"})})
    dataset = open_collection([store("s0", low=metres, high=kilometres)], root)
    assert dataset["low_z"].attrs["units"] == "m"
    assert dataset["high_z"].attrs["units"] == "km"


def test_axes_of_two_products_that_point_in_different_directions_are_two(
    root: OutputRoot, store: Any
) -> None:
    def profile(positive: str) -> xr.Dataset:
        level = ("z", [1.0, 2.0], {"units": "m", "positive": positive})
        return xr.Dataset({"v": ("z", [1.0, 2.0])}, coords={"z": level})

    dataset = open_collection([store("a", air=profile("up"), sea=profile("down"))], root)
    assert dataset["air"].dims == ("simulation", "air_z")
    assert dataset["sea_z"].attrs["positive"] == "down"


def test_a_parameter_with_a_slash_is_written_and_read(
    root: OutputRoot, store: Any, tmp_path: Path
) -> None:
    dataset = open_collection([store("s0", {"co2/ppm": 400, "$written": {"a": "1.0"}})], root)
    for name in ("all.nc", "all.zarr"):
        with xr.open_dataset(write_collection(dataset, str(tmp_path / name))) as again:
            assert again["co2_ppm"].values.tolist() == [400]
            assert again["co2_ppm"].attrs["long_name"] == "co2/ppm"
            assert set(again.coords) == {"co2_ppm", "simulation"}


def test_only_the_products_asked_for(root: OutputRoot, store: Any) -> None:
    results = [store("a", spectrum=spectrum(1), near=footprint("2026-01-01", [-1], 1))]
    dataset = open_collection(results, root, products=["near"])
    assert set(dataset.data_vars) == {"near", "near_empty"}
    with pytest.raises(
        UsageError, match=r"no complete simulation has a product 'naer'.*'spectrum'"
    ):
        open_collection(results, root, products=["naer"])
    with pytest.raises(UsageError, match="must be 'exact' or 'outer'"):
        open_collection(results, root, align="inner")


def test_the_summary_counts_and_adds_up(store: Any) -> None:
    one = store("a", spectrum=spectrum(1), near=None)
    two = store("b", spectrum=spectrum(1), near=None)
    size = sum(record.size or 0 for result in (one, two) for record in result.products)
    assert summarize([one, two], failed=3) == [
        ProductSummary("spectrum", 2, 0, 3, size),
        ProductSummary("near", 0, 2, 3, 0),
    ]


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["all.zarr", "all.nc"])
def test_what_is_written_is_read_back(
    name: str, root: OutputRoot, store: Any, tmp_path: Path
) -> None:
    results = [
        store("a", {"site": "n"}, near=footprint("2026-01-01", [-2, -1], 1), tracks=None),
        store("b", {"site": "s"}, near=None, tracks=None),
        store("c", {"site": "e"}, near=footprint("2026-01-03", [-2, -1], 3), tracks=None),
    ]
    dataset = open_collection(results, root)
    target = tmp_path / "collected" / name

    for _ in range(2):  # the second one replaces the first
        assert write_collection(dataset, str(target)) == str(target)

    with xr.open_dataset(target, decode_coords="all") as again:
        xr.testing.assert_equal(again.load(), dataset.load())
        assert again["near"].attrs["units"] == "ppm"
    assert [path.name for path in target.parent.iterdir()] == [name]


@pytest.mark.parametrize("format", ["zarr", "netcdf"])
def test_a_folder_of_other_things_is_never_replaced(
    format: str, root: OutputRoot, store: Any, tmp_path: Path
) -> None:
    dataset = open_collection([store("a", spectrum=spectrum(1))], root)
    with pytest.raises(UsageError, match="output is a folder that holds other things"):
        write_collection(dataset, str(tmp_path / "output"), format)
    assert root.exists("spectrum/a.nc")


def test_a_prefix_of_other_things_is_never_replaced(root: OutputRoot, store: Any) -> None:
    dataset = open_collection([store("a", spectrum=spectrum(1))], root)
    remote = open_root("memory://other-things/output")
    remote.write_text("segments/one.jsonl", "a result")
    with pytest.raises(UsageError, match="output is a folder that holds other things"):
        write_collection(dataset, "memory://other-things/output", "zarr")
    assert remote.read("segments/one.jsonl") == b"a result"
    for _ in range(2):  # the second one replaces the first
        write_collection(dataset, "memory://other-things/all.zarr")


def test_zarr_does_not_take_the_place_of_a_file(
    root: OutputRoot, store: Any, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    dataset = open_collection([store("a", spectrum=spectrum(1))], root)
    with pytest.raises(UsageError, match=r"note.txt is a file, and Zarr is a folder"):
        write_collection(dataset, str(tmp_path / "note.txt"), "zarr")
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_a_link_is_replaced_and_leaves_nothing_behind(
    root: OutputRoot, store: Any, tmp_path: Path
) -> None:
    dataset = open_collection([store("a", spectrum=spectrum(1))], root)
    folder = tmp_path / "collected"
    write_collection(dataset, str(folder / "old.zarr"))
    (folder / "new.zarr").symlink_to("old.zarr")
    write_collection(dataset, str(folder / "new.zarr"))
    assert sorted(path.name for path in folder.iterdir()) == ["new.zarr", "old.zarr"]


def test_a_failed_write_leaves_the_old_collection(
    root: OutputRoot, store: Any, tmp_path: Path
) -> None:
    good = open_collection([store("a", spectrum=spectrum(1))], root)
    target = tmp_path / "c" / "all.zarr"
    write_collection(good, str(target))
    results = [store(f"s{i}", spectrum=spectrum(i)) for i in range(3)]
    broken = open_collection(results, root)
    root.delete("spectrum/s1.nc")
    with pytest.raises(FileNotFoundError):
        write_collection(broken, str(target))
    with xr.open_zarr(target) as again:
        assert again["simulation"].values.tolist() == ["a"]
    assert [path.name for path in target.parent.iterdir()] == ["all.zarr"]


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"%cloud": 1}, "a variable of a netcdf dataset cannot be called '%cloud'.* write Zarr"),
        ({"note": "a\0b"}, "a text of 'note' holds the character NUL"),
    ],
)
def test_what_netcdf_cannot_hold_is_refused_by_name(
    params: dict[str, Any], why: str, root: OutputRoot, store: Any, tmp_path: Path
) -> None:
    dataset = open_collection([store("a", params)], root)
    with pytest.raises(CollectError, match=why):
        write_collection(dataset, str(tmp_path / "all.nc"))
    with xr.open_dataset(write_collection(dataset, str(tmp_path / "all.zarr"))) as again:
        assert {name: again[name].values[0] for name in params} == params


def test_the_format_follows_the_suffix_or_is_named(tmp_path: Path) -> None:
    assert collect.check_format("x/y.zarr/") == "zarr"
    assert collect.check_format("s3://b/y.nc") == "netcdf"
    assert collect.check_format("y", "zarr") == "zarr"
    for target, format in [("y.csv", None), ("y", None), ("y.nc", "csv")]:
        with pytest.raises(UsageError, match="cannot tell the format"):
            collect.check_format(target, format)
