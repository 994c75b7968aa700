"""Many files as one array: every value as it is in its file, whatever the order, or refused."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ensemble.engine.collect import open_collection, write_collection
from airflow_ensemble.engine.errors import CollectError
from airflow_ensemble.engine.index.interface import Result
from airflow_ensemble.engine.storage import OutputRoot, open_root
from tests.engine.product_files import Content, publish

NUMBERS = itertools.count()


@pytest.fixture
def collect(tmp_path: Path) -> Callable[..., xr.Dataset]:
    """Publish a product ``out`` for each content, and open the collection of them."""

    def open_them(*contents: Content, **options: Any) -> xr.Dataset:
        root = open_root(str(tmp_path / f"output-{next(NUMBERS)}"))
        results = [
            publish(root, tmp_path, f"s{i}", out=content) for i, content in enumerate(contents)
        ]
        return open_collection(results, root, **options)

    return open_them


def one(values: Any, name: str = "v", **attrs: Any) -> xr.Dataset:
    """A product with one variable over ``x``."""
    values = np.asarray(values)
    return xr.Dataset({name: ("x", values, attrs)}, coords={"x": np.arange(len(values))})


def rows(dataset: xr.Dataset, name: str = "out") -> list[Any]:
    return [row.tolist() for row in dataset[name].values]


def _place(content: xr.Dataset, contents: Sequence[xr.Dataset]) -> int:
    return next(place for place, other in enumerate(contents) if other is content)


# --- one type for all ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "dtype"),
    [
        (np.array([1, 2]), np.array([1.7, 2.9]), "float64"),
        (np.array([1, 2]), np.array([5.0, np.nan]), "float64"),
        (np.array([0.5, 1.5], "f4"), np.array([16777217.0, 1e300]), "float64"),
        (np.array([1, 2], "i1"), np.array([300, 40000], "i4"), "int32"),
        (np.array([1, 2], "u1"), np.array([-1, 2], "i1"), "int16"),
        (np.array([2**62, 2], "i8"), np.array([2**63 - 1, 2], "u8"), "int64"),
        (np.array([1, 2**31 - 1], "i4"), np.array([0.5, 1.5], "f4"), "float64"),
        (np.array([True, False]), np.array([2.5, 0.0]), "float64"),
        (np.array([1, 2], "m8[s]"), np.array([1500, 2500], "m8[ms]"), "timedelta64[ms]"),
        (np.array(["a", "b"]), np.array(["a long word", ""]), "object"),
        (np.array([b"a", b"b"]), np.array(["a long wörd", ""]), "object"),
    ],
)
def test_the_type_holds_the_values_of_all_files(
    first: Any, second: Any, dtype: str, collect: Any, tmp_path: Path
) -> None:
    for pair in ((first, second), (second, first)):
        dataset = collect(one(pair[0]), one(pair[1]))
        wanted = [[_plain(value) for value in values] for values in pair]
        assert dataset["out"].dtype == dtype
        _assert_same(dataset["out"].values, wanted)
        for name in ("all.nc", "all.zarr"):
            with xr.open_dataset(write_collection(dataset, str(tmp_path / name))) as again:
                _assert_same(again["out"].values, wanted)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _assert_same(found: Any, wanted: Any) -> None:
    for row, expected in zip(found, wanted):
        for value, other in zip(row, expected):
            assert value == other or (value != value and other != other), (found, wanted)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (np.array([2**53 + 1, 2]), np.array([0.5, 1.5]), r"9007199254740993 is not exactly"),
        (np.array([2**63 - 1, 2]), np.array([0.5, 1.5]), r"9223372036854775807 is not exactly"),
        (np.array([1, 2]), np.array([2**63, 2], "u8"), r"9223372036854775808 is not exactly"),
    ],
)
def test_a_value_that_no_type_holds_beside_the_others_is_refused_by_name(
    first: Any, second: Any, why: str, collect: Any
) -> None:
    for pair in ((first, second), (second, first)):
        dataset = collect(one(pair[0]), one(pair[1]))
        with pytest.raises(CollectError, match=rf"product 'out' of simulation 's\d'.*'v'.*{why}"):
            dataset["out"].load()


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ([1, 2], ["1", "2"], "has text in 'v', not numbers, unlike that of 's0'"),
        ([1, 2], np.array([1, 2], "m8[s]"), "has durations in 'v', not numbers"),
        (np.array([1, 2], "M8[s]"), np.array([1, 2], "m8[s]"), "has durations in 'v', not dates"),
        (np.array([1, 2], "M8[s]"), ["2026", ""], "has text in 'v', not dates"),
    ],
)
def test_values_of_different_kinds_are_refused(
    first: Any, second: Any, why: str, collect: Any
) -> None:
    with pytest.raises(CollectError, match=why):
        collect(one(first), one(second))


def test_whole_numbers_that_are_missing_somewhere_become_floats_or_are_refused(
    collect: Any,
) -> None:
    dataset = collect(one([1, 2]), None, one([2**53, -(2**53)]))
    assert dataset["out"].dtype == "float64"
    assert rows(dataset)[2] == [2**53, -(2**53)]
    with pytest.raises(CollectError, match=r"'s0'.*9007199254740993"):
        collect(one([2**53 + 1, 2]), None)["out"].load()


def test_masked_whole_numbers_beyond_float64_are_refused(collect: Any) -> None:
    def write(file: Any) -> None:
        file.createDimension("x", 2)
        variable = file.createVariable("v", "i8", ("x",), fill_value=-1)
        variable[:] = [2**53 + 1, -1]

    with pytest.raises(CollectError, match=r"'s1' .*missing values beside whole numbers .*'v'"):
        collect(one([1, 2]).drop_vars("x"), write)["out"].load()


def test_packed_values_are_joined_as_what_they_stand_for(collect: Any, tmp_path: Path) -> None:
    def packed(scale: float, offset: float) -> Callable[[Any], None]:
        def write(file: Any) -> None:
            file.createDimension("x", 2)
            variable = file.createVariable("v", "i2", ("x",), fill_value=-32768)
            variable.scale_factor, variable.add_offset = scale, offset
            variable.valid_max = np.int16(9999)
            variable[:] = np.ma.masked_array([280.15, 0], [False, True])

        return write

    exact = one([280.1234567, 1e9]).drop_vars("x")
    for contents in ((packed(0.01, 273.15), exact), (exact, packed(0.01, 273.15))):
        dataset = collect(*contents)
        assert "valid_max" not in collect(packed(0.01, 273.15))["out"].attrs
        for name in ("all.nc", "all.zarr"):
            with xr.open_dataset(write_collection(dataset, str(tmp_path / name))) as again:
                found = sorted(again["out"].values.tolist())
                assert found[0] == pytest.approx([280.1234567, 1e9], abs=0) or math.isnan(
                    found[0][1]
                )
                assert [280.1234567, 1e9] in found
                assert any(abs(row[0] - 280.15) < 1e-9 and math.isnan(row[1]) for row in found)


@pytest.mark.parametrize("attribute", [{"scale_factor": "0.1"}, {"coordinates": 1}])
def test_an_attribute_that_xarray_cannot_use_is_a_sentence(
    attribute: dict[str, Any], collect: Any
) -> None:
    def write(file: Any) -> None:
        file.createDimension("x", 2)
        variable = file.createVariable("v", "i2", ("x",))
        variable.set_auto_maskandscale(False)
        variable[:] = [1, 2]
        variable.setncatts(attribute)

    with pytest.raises(CollectError, match=r"product 'out' of simulation 's0' .* cannot be read: "):
        collect(write).load()


def test_numbers_without_a_sign_are_read_so(collect: Any) -> None:
    def write(file: Any) -> None:
        file.createDimension("x", 2)
        variable = file.createVariable("v", "i1", ("x",))
        variable._Unsigned = "true"
        variable.set_auto_maskandscale(False)
        variable[:] = [-1, 1]

    assert rows(collect(one([1000, -1]).drop_vars("x"), write)) == [[1000, -1], [255, 1]]


@pytest.mark.parametrize("unit", ["days since 1970-01-01", "hours since 2000-01-01 06:00"])
def test_dates_counted_from_different_days_are_the_same_dates(unit: str, collect: Any) -> None:
    dates = np.array(["2026-03-01T06", "2026-03-02T00"], "M8[ns]")
    other = one(dates)
    other["v"].encoding = {"units": unit, "dtype": "float64"}
    assert collect(one(dates), other)["out"].values.tolist() == [dates.tolist()] * 2


def test_dates_beyond_nanoseconds_have_a_unit_that_holds_them_all(
    collect: Any, tmp_path: Path
) -> None:
    near = np.array(["2026-01-01T00:00:00.250", "NaT"], "M8[ns]")
    far = np.array(["4737-11-28", "1700-01-01"], "M8[s]")
    for pair in ((near, far), (far, near)):
        dataset = collect(one(pair[0]), one(pair[1]))
        assert dataset["out"].dtype == "datetime64[ms]"
        with xr.open_dataset(
            write_collection(dataset, str(tmp_path / "all.nc")),
            decode_times=xr.coders.CFDatetimeCoder(time_unit="ms"),
        ) as again:
            for values, row in zip(pair, again["out"].values):
                np.testing.assert_array_equal(row, values.astype("M8[ms]"))


def test_dates_of_other_calendars_stay_apart(collect: Any, tmp_path: Path) -> None:
    def model_year(calendar: str) -> Callable[[Any], None]:
        def write(file: Any) -> None:
            file.createDimension("x", 2)
            variable = file.createVariable("v", "i4", ("x",))
            variable.units, variable.calendar = "days since 2000-02-28", calendar
            variable[:] = [0, 2]

        return write

    dataset = collect(model_year("noleap"), model_year("noleap"))
    assert [date.isoformat()[:10] for date in dataset["out"].values[0]] == [
        "2000-02-28", "2000-03-02",
    ]  # fmt: skip
    with pytest.raises(CollectError, match=r"'out' has dates of a calendar .* none for some"):
        write_collection(collect(model_year("noleap"), None), str(tmp_path / "all.nc"))
    for other in ("360_day", "standard"):
        with pytest.raises(CollectError, match=r"'s1' has dates.* in 'v', not dates of the cal"):
            collect(model_year("noleap"), model_year(other))


@pytest.mark.parametrize(
    ("units", "calendar"),
    [("days since 2000-01-01", "noleap"), ("days since 0001-01-01", "standard")],
)
def test_a_missing_date_of_a_calendar_is_refused_and_is_no_first_day(
    units: str, calendar: str, collect: Any
) -> None:
    def dated(file: Any) -> None:
        file.createDimension("x", 2)
        variable = file.createVariable("v", "f8", ("x",))
        variable.units, variable.calendar = units, calendar
        variable[:] = [1.0, np.nan]

    with pytest.raises(CollectError, match=r"'s0' .* has missing dates in 'v', and its cal"):
        collect(dated)


def test_far_dates_beside_missing_ones_are_read(collect: Any) -> None:
    values = np.array(["0001-01-01", "NaT"], "M8[s]")
    found = collect(one(values), one(np.array(["9999-12-31", "2000-01-01"], "M8[s]")))["out"].values
    np.testing.assert_array_equal(found[0], values)
    assert str(found[1][0]) == "9999-12-31T00:00:00"


def test_enumerations_say_what_their_numbers_mean_and_must_agree(collect: Any) -> None:
    def clouds(**names: int) -> Callable[[Any], None]:
        def write(file: Any) -> None:
            file.createDimension("x", 2)
            kind = file.createEnumType(np.uint8, "cloud", names)
            file.createVariable("v", kind, ("x",))[:] = [0, 1]

        return write

    dataset = collect(clouds(clear=0, cumulus=1), clouds(clear=0, cumulus=1))
    assert dataset["out"].attrs["flag_meanings"] == "clear cumulus"
    with pytest.raises(CollectError, match="'s1' has other flag_meanings of 'v'"):
        collect(clouds(clear=0, cumulus=1), clouds(cumulus=0, clear=1))


def test_records_and_lists_are_refused(collect: Any) -> None:
    def record(file: Any) -> None:
        file.createDimension("x", 1)
        kind = file.createCompoundType(np.dtype([("a", "f8"), ("b", "i4")]), "pair")
        file.createVariable("v", kind, ("x",))

    def lists(file: Any) -> None:
        file.createDimension("x", 1)
        file.createVariable("v", file.createVLType(np.int32, "some"), ("x",))

    for content in (record, lists):
        with pytest.raises(CollectError, match=r"'s0' .* has records or lists .* 'v'"):
            collect(content)


# --- variables, dimensions, axes ------------------------------------------------------------------


def test_a_variable_that_a_file_lacks_is_missing_there(collect: Any) -> None:
    whole = xr.Dataset(
        {
            "number": ("x", [1, 2]),
            "word": ("x", ["a", "b"]),
            "date": ("x", np.array(["2026-01-01", "2026-01-02"], "M8[ns]")),
            "common": ("x", [5, 6]),
        }
    )
    part = xr.Dataset({"common": ("x", [7, 8])})
    for contents in ((whole, part), (part, whole), (part, whole, part)):
        dataset = collect(*contents)
        at = _place(part, contents)
        assert np.isnan(dataset["out_number"].values[at]).all()
        assert np.isnat(dataset["out_date"].values[at]).all()
        assert dataset["out_word"].values[at].tolist() == ["", ""]
        assert dataset["out_common"].values[at].tolist() == [7, 8]
        assert dataset["out_common"].dtype.kind == "i"
        assert dataset["out_number"].values[_place(whole, contents)].tolist() == [1, 2]


def test_a_missing_variable_is_not_an_empty_product(collect: Any) -> None:
    with_both = xr.Dataset(
        {"v": ("x", [1.5], {"empty_value": 0.0}), "w": ("x", [1.5], {"empty_value": 0.0})}
    )
    dataset = collect(with_both, with_both.drop_vars("w"), None)
    assert np.isnan(dataset["out_w"].values[1, 0])
    assert dataset["out_w"].values[2, 0] == dataset["out_v"].values[2, 0] == 0


def test_an_empty_value_widens_the_type_where_it_must(collect: Any) -> None:
    dataset = collect(one([1, 2], empty_value=-0.5), None)
    assert rows(dataset) == [[1, 2], [-0.5, -0.5]]
    signed = collect(one(np.array([1, 2], "u1"), empty_value=-1), None)
    assert rows(signed) == [[1, 2], [-1, -1]]
    nan = collect(one([1, 2], empty_value=np.nan), None)
    assert np.isnan(nan["out"].values[1]).all()
    assert rows(collect(one(["a", "b"], empty_value="none"), None))[1] == ["none", "none"]
    kept = collect(one(np.array([1, 2], "i2"), empty_value=-1.0), None)
    assert kept["out"].dtype == "int16"
    assert rows(kept) == [[1, 2], [-1, -1]]
    with pytest.raises(CollectError, match=r"empty_value '0' at 'v': it must be a number"):
        collect(one([1, 2], empty_value="0"), None)


def test_dimensions_in_another_order_are_turned(collect: Any) -> None:
    straight = xr.Dataset({"v": (("x", "y"), [[1, 2, 3], [4, 5, 6]])})
    turned = straight.transpose("y", "x")
    for pair in ((straight, turned), (turned, straight)):
        dataset = collect(*pair)
        assert dataset["out"].dims == ("simulation", "x", "y")
        assert rows(dataset) == [[[1, 2, 3], [4, 5, 6]]] * 2


def test_other_dimensions_of_a_variable_are_refused(collect: Any) -> None:
    flat = xr.Dataset({"v": ("x", [1, 2]), "w": ("y", [1, 2])})
    other = xr.Dataset({"v": ("y", [1, 2]), "w": ("x", [1, 2])})
    with pytest.raises(CollectError, match=r"'s1' has 'v' over 'y', not over 'x', unlike .* 's0'"):
        collect(flat, other)
    with pytest.raises(CollectError, match="'s1' has 'v' over no dimension, not over 'x'"):
        collect(one([1, 2]), xr.Dataset({"v": 1.0, "w": ("x", [1, 2])}))


def test_a_dimension_that_only_some_files_have(collect: Any) -> None:
    with_y = xr.Dataset({"v": ("x", [1, 2]), "w": ("y", [1, 2, 3])})
    without = xr.Dataset({"v": ("x", [3, 4])})
    for contents in ((with_y, without), (without, with_y), (without, with_y, without)):
        at = _place(without, contents)
        with pytest.raises(
            CollectError, match=rf"'s{at}' has no dimension 'y', unlike .*: choose align=\"outer\""
        ):
            collect(*contents)
        dataset = collect(*contents, align="outer")
        assert dataset["out_v"].values[at].tolist() == [3, 4]
        assert np.isnan(dataset["out_w"].values[at]).all()


@pytest.mark.parametrize("where", ["dimension", "coordinate"])
def test_what_is_called_simulation_is_refused(where: str, collect: Any) -> None:
    content = (
        xr.Dataset({"v": ("simulation", [1, 2])})
        if where == "dimension"
        else xr.Dataset({"v": ("x", [1, 2])}, coords={"simulation": 7})
    )
    with pytest.raises(CollectError, match=rf"'s0' .* has a {where} 'simulation'.*something else"):
        collect(content)


def test_an_axis_in_other_units_is_refused(collect: Any) -> None:
    metres, kilometres = one([1, 2]), one([1, 2])
    metres["x"].attrs["units"], kilometres["x"].attrs["units"] = "m", "km"
    with pytest.raises(CollectError, match="'s1' has other units of 'x', 'km' and not 'm'"):
        collect(metres, kilometres)
    with pytest.raises(CollectError, match="'s1' has other units of 'x', none and not 'm'"):
        collect(metres, one([1, 2]))


def test_an_axis_that_differs_in_the_middle_alone_is_seen(collect: Any) -> None:
    shifted = one([5, 6]).assign_coords(x=[7, 8])
    dataset = collect(one([1, 2]), shifted, one([3, 4]))
    assert dataset["out"].dims == ("simulation", "x_step")
    assert rows(dataset, "x") == [[0, 1], [7, 8], [0, 1]]
    joined = collect(one([1, 2]), shifted, one([3, 4]), align="outer")
    assert joined["x"].values.tolist() == [0, 1, 7, 8]
    assert joined["out"].values[1, 2:].tolist() == [5, 6]


def test_equal_axes_of_different_types_are_equal(collect: Any) -> None:
    floats = one([3, 4]).assign_coords(x=[0.0, 1.0])
    dataset = collect(one([1, 2]), floats)
    assert dataset["out"].dims == ("simulation", "x")
    assert dataset["x"].dtype == "float64"


@pytest.mark.parametrize("axis", [[2, 1], [1, 3, 2], [1, 1, 2], [1, np.nan]])
def test_any_axis_that_all_files_share_stays_as_it_is(axis: list[float], collect: Any) -> None:
    content = one(range(len(axis))).assign_coords(x=axis)
    for align in ("exact", "outer"):
        dataset = collect(content, content, align=align)
        np.testing.assert_array_equal(dataset["x"], axis)
        assert rows(dataset) == [list(range(len(axis)))] * 2


def test_axes_that_run_downward_are_joined_downward(collect: Any) -> None:
    high, low = one([9, 8]).assign_coords(x=[9, 8]), one([8, 1]).assign_coords(x=[8, 1])
    dataset = collect(high, low, align="outer")
    assert dataset["x"].values.tolist() == [9, 8, 1]
    assert dataset["out"].values[0, :2].tolist() == [9, 8]
    assert dataset["out"].values[1, 1:].tolist() == [8, 1]
    mixed = collect(high, low.isel(x=[1, 0]), align="outer")
    assert mixed["x"].values.tolist() == [1, 8, 9]
    assert mixed["out"].values[0, 1:].tolist() == [8, 9]


@pytest.mark.parametrize(
    ("axis", "why"), [([1, 1], "a value twice on it"), ([1, np.nan], "a missing value on it")]
)
def test_an_axis_with_values_that_have_no_place_is_not_joined(
    axis: list[float], why: str, collect: Any
) -> None:
    odd = one([1, 2]).assign_coords(x=axis)
    for contents in ((one([1, 2]), odd), (odd, one([1, 2]))):
        with pytest.raises(
            CollectError, match=rf"'s{_place(odd, contents)}' .* has {why}, the axis 'x'"
        ):
            collect(*contents, align="outer")


def test_a_dimension_without_coordinate_cannot_be_joined(collect: Any) -> None:
    bare = one([1, 2]).drop_vars("x")
    with pytest.raises(CollectError, match=r"'s1' has 3 values along 'x', not 2 \(and no coord"):
        collect(bare, one([1, 2, 3]).drop_vars("x"), align="outer")
    with pytest.raises(CollectError, match="'s1' has no coordinate 'x' to be joined by"):
        collect(one([1, 2]), bare, align="outer")
    dataset = collect(one([1, 2]), bare)
    assert dataset["out"].dims == ("simulation", "x_step")
    assert np.isnan(dataset["x"].values[1]).all()


def test_a_taken_name_of_positions_is_refused(collect: Any) -> None:
    content = one([1, 2]).assign(x_step=("x", [3, 4]))
    with pytest.raises(CollectError, match="has 'x_step' beside 'x'"):
        collect(content, content.assign_coords(x=[5, 6]))


def test_another_grid_mapping_is_refused(collect: Any) -> None:
    def mapped(longitude: float) -> xr.Dataset:
        crs = ((), 0, {"grid_mapping_name": "lambert", "longitude": longitude})
        return one([1, 2], grid_mapping="crs").assign(crs=crs)

    assert collect(mapped(1.0), mapped(1.0))["crs"].attrs["longitude"] == 1.0
    with pytest.raises(CollectError, match=r"'s2' has another grid mapping 'crs', unlike .*'s0'"):
        collect(mapped(1.0), mapped(1.0), mapped(2.0))


def test_attributes_that_are_lists_or_not_a_number_are_attributes(collect: Any) -> None:
    attrs = {"flag_meanings": ["clear", "cloud"], "limits": np.array([1.5, np.nan])}
    kept = collect(one([1, 2], **attrs), one([3, 4], **attrs))["out"].attrs
    assert kept["flag_meanings"] == ["clear", "cloud"]
    np.testing.assert_array_equal(kept["limits"], attrs["limits"])
    with pytest.raises(CollectError, match="'s1' has other flag_meanings of 'v'"):
        collect(one([1, 2], **attrs), one([3, 4], flag_meanings=["cloud", "clear"]))


def test_a_stack_by_that_names_nothing_counts_nothing(collect: Any) -> None:
    content = one([1, 2])
    content["x"].attrs["stack_by"] = [1, 2]
    assert collect(content, content)["out"].dims == ("simulation", "x")


def test_only_attributes_of_all_files_are_kept(collect: Any) -> None:
    contents = [one([1, 2], note=note, of="all") for note in ("a", "b", "a")]
    contents[1].attrs["source"] = "m"
    dataset = collect(*contents)
    assert dataset["out"].attrs == {"of": "all"}
    assert "source" not in dataset.attrs


# --- groups ---------------------------------------------------------------------------------------


def grouped(file: Any) -> None:
    file.createDimension("x", 2)
    file.createVariable("x", "i4", ("x",))[:] = [1, 2]
    file.createVariable("v", "i4", ("x",))[:] = [1, 2]
    ocean = file.createGroup("ocean")
    ocean.createDimension("x", 3)
    ocean.createVariable("x", "f8", ("x",))[:] = [0.5, 1.5, 2.5]
    ocean.createVariable("v", "f8", ("x",))[:] = [5, 6, 7]
    deep = ocean.createGroup("deep")
    deep.createVariable("v", "f8", ("x",))[:] = [8, 9, 10]
    deep.note = "below"


def test_groups_are_kept_under_their_names(collect: Any) -> None:
    dataset = collect(grouped, grouped)
    assert rows(dataset, "out_v") == [[1, 2]] * 2
    assert rows(dataset, "out_ocean_v") == [[5, 6, 7]] * 2
    assert rows(dataset, "out_ocean_deep_v") == [[8, 9, 10]] * 2
    assert dataset["out_ocean_deep_v"].dims == ("simulation", "ocean_x")
    assert dataset["ocean_x"].values.tolist() == [0.5, 1.5, 2.5]
    assert dataset.attrs["ocean_deep_note"] == "below"


def test_two_variables_for_one_flat_name_are_refused(collect: Any) -> None:
    def clash(file: Any) -> None:
        file.createVariable("ocean_v", "i4", ())
        file.createGroup("ocean").createVariable("v", "i4", ())

    with pytest.raises(
        CollectError, match=r"two variables .* 'ocean_v', '/ocean_v' and '/ocean/v'"
    ):
        collect(clash)


# --- any files, in any order ----------------------------------------------------------------------

VALUES = {
    "int8": st.integers(-128, 127),
    "uint8": st.integers(0, 255),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float32": st.floats(width=32, allow_infinity=True),
    "float64": st.floats(),
    "bool": st.booleans(),
    "U": st.text("abü", max_size=4),
    "datetime64[ns]": st.integers(-(10**18), 10**18),
    "timedelta64[ms]": st.integers(-(10**12), 10**12),
}


@st.composite
def files(draw: st.DrawFn) -> list[xr.Dataset]:
    """A few files, alike enough that many of them fit together."""
    dtypes = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=2))
    axes = draw(st.lists(st.sampled_from([(0, 1), (1, 2), (2, 1), (0.5, 1)]), min_size=1))
    found = []
    for _ in range(draw(st.integers(1, 4))):
        names = draw(st.sets(st.sampled_from("vw"), min_size=1))
        variables = {}
        for name in sorted(names):
            dtype = draw(st.sampled_from(dtypes))
            values = draw(st.lists(VALUES[dtype], min_size=2, max_size=2))
            variables[name] = ("x", np.array(values, dtype))
        found.append(xr.Dataset(variables, coords={"x": list(draw(st.sampled_from(axes)))}))
    return found


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(contents=files(), align=st.sampled_from(["exact", "outer"]), seed=st.integers(0, 99))
def test_every_value_comes_as_it_was_whatever_the_order(
    contents: list[xr.Dataset], align: str, seed: int, tmp_path: Path
) -> None:
    root = open_root(str(tmp_path / f"output-{next(NUMBERS)}"))
    results = [publish(root, tmp_path, f"s{i}", out=part) for i, part in enumerate(contents)]
    shuffled = results.copy()
    random.Random(seed).shuffle(shuffled)
    first, second = _collected(results, root, align), _collected(shuffled, root, align)

    if first is None or second is None:
        assert first is second
        return
    xr.testing.assert_identical(first, second.sel(simulation=first["simulation"]))
    _assert_values(first, contents)
    for name in ("all.nc", "all.zarr"):
        with xr.open_dataset(write_collection(first, str(tmp_path / name))) as again:
            _assert_values(again, contents)
            assert _number_types(again) == _number_types(first)


def _number_types(dataset: xr.Dataset) -> dict[str, str]:
    found = {str(name): variable.dtype for name, variable in dataset.data_vars.items()}
    return {name: dtype.name for name, dtype in found.items() if dtype.kind in "biuf"}


def _collected(results: Sequence[Result], root: OutputRoot, align: str) -> xr.Dataset | None:
    """Return the collection, loaded, without what tells one from the other; None if refused."""
    try:
        dataset = open_collection(results, root, align=align).load()
    except CollectError:
        return None
    dataset.attrs.clear()
    return dataset


def _assert_values(dataset: xr.Dataset, contents: Sequence[xr.Dataset]) -> None:
    names = {str(name) for content in contents for name in content.data_vars}
    for index, content in enumerate(contents):
        for name in names:
            joined = dataset["out" if len(names) == 1 else f"out_{name}"][index]
            if name not in content:
                assert all(value in ("",) or value != value for value in joined.values)
                continue
            for place, value in enumerate(content[name].values):
                at = {"x": content["x"].values[place]} if "x" in joined.dims else {}
                found = joined.sel(at) if at else joined[place]
                assert found.values[()] == value or (value != value and found.values != found), (
                    name, value, found,
                )  # fmt: skip
