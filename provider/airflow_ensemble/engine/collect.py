"""All products of an ensemble as one lazily loaded dataset.

:func:`open_collection` gives an xarray dataset over the dimension ``simulation``:

* a NetCDF product with one data variable is a variable of the product's name; one with several is
  ``<product>_<variable>`` for each. How their dimensions come together is said in
  :mod:`airflow_ensemble.engine.stacking`; a coordinate that two products define differently gets
  the product's name in front; two things for one name are an error that names both;
* any other product is ``<product>_file(simulation)``, names below the output root; Parquet ones are
  read with :func:`open_tables`;
* ``<product>_empty(simulation)`` is true where the product is complete-empty;
* the parameters of the table of simulations are coordinates on ``simulation``.

Opening looks at every file once, and reads no values but axes and dates. Standard library only at
import time.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from airflow_ensemble.engine.errors import CollectError, UsageError
from airflow_ensemble.engine.parameter_columns import parameter_column
from airflow_ensemble.engine.parameters import take_apart
from airflow_ensemble.engine.simulation import Product, ProductStatus
from airflow_ensemble.engine.stacking import OUTER_OPTION, SIMULATION, Stack, check_align
from airflow_ensemble.engine.storage import local_path, uri_scheme
from airflow_ensemble.engine.survey import CHECKED_ATTRIBUTES, common_attributes, digest

if TYPE_CHECKING:
    import pyarrow
    import xarray as xr

    from airflow_ensemble.engine.index.interface import Result
    from airflow_ensemble.engine.storage import OutputRoot

NETCDF = frozenset({".nc", ".nc4", ".cdf"})
#: Names that NetCDF does not take.
_NO_NAME = re.compile(r"^[^A-Za-z0-9_\x80-\U0010ffff]|[\x00-\x1f\x7f/]|\s$")
FORMATS = ("zarr", "netcdf")
#: Files by which a folder is known to be a Zarr hierarchy.
ZARR_MARKS = frozenset({".zgroup", ".zarray", "zarr.json"})


@dataclass(frozen=True)
class ProductSummary:
    """One row of the table of products.

    :param product: its name.
    :param complete: simulations with a file.
    :param empty: simulations for which it is complete-empty.
    :param failed: simulations that failed.
    :param bytes: size of all files.
    """

    product: str
    complete: int
    empty: int
    failed: int
    bytes: int


def summarize(results: Iterable[Result], failed: int = 0) -> list[ProductSummary]:
    """Count products by status.

    :param results: read once, in any number.
    :param failed: how many simulations failed: they have no product of any name.
    """
    complete: Counter[str] = Counter()
    empty: Counter[str] = Counter()
    size: Counter[str] = Counter()
    names: dict[str, None] = {}
    for result in results:
        for product in result.products:
            names.setdefault(product.name)
            complete[product.name] += product.status is ProductStatus.COMPLETE
            empty[product.name] += product.status is ProductStatus.COMPLETE_EMPTY
            size[product.name] += product.size or 0
    return [ProductSummary(n, complete[n], empty[n], failed, size[n]) for n in names]


# --- reading ------------------------------------------------------------------------------------


def open_collection(
    results: Iterable[Result],
    root: OutputRoot,
    products: Sequence[str] | None = None,
    *,
    align: str = "exact",
    outer_option: str = OUTER_OPTION,
) -> xr.Dataset:
    """Open all products as one dataset; values are read when they are used.

    All files are looked at, by several processes where they are many, and none is kept open.

    :param results: the newest complete results, in the order that ``simulation`` is to have.
    :param root: the output root that holds them.
    :param products: only these.
    :param align: ``exact``: all files of a product have axes of the same sizes; ``outer``: join
        different ones.
    :param outer_option: what an error calls that last option, in the words of who reads it.
    :raises UsageError: on a product that no simulation has.
    :raises CollectError: when files do not fit together, here or when values are read.
    """
    import xarray as xr

    check_align(align)
    found = list(results)
    names = _product_names(found, products)
    ids = [result.id for result in found]
    taken = Names()
    taken.claim(SIMULATION, "the dimension of the simulations")
    stacks, variables = [], {}
    for name in names:
        records = [_record(result, name) for result in found]
        variables[taken.claim(f"{name}_empty", f"what says where product {name!r} is empty")] = (
            _empty_variable(name, records)
        )
        files = [record.path if record else None for record in records]
        if _is_netcdf(files):
            stacks.append(Stack(name, ids, files, root, align, outer_option))
        elif any(files):
            variables[taken.claim(f"{name}_file", f"the file names of product {name!r}")] = (
                _file_variable(name, files)
            )
    dataset = xr.Dataset(variables, attrs=_attributes(stacks, len(found)))
    dataset = dataset.assign_coords({SIMULATION: _ids(found)})
    for stack, renames in zip(stacks, clashing_names(stacks)):
        dataset = _with_stack(dataset, stack, renames, taken)
    return _with_parameters(dataset, found, taken)


class Names:
    """Who has which name in a dataset: none has two owners."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._owners

    def claim(self, name: str, owner: str) -> str:
        """Give a name to what is to have it, and return it.

        :param owner: said to the user; the same one may claim again.
        :raises CollectError: when it is another's, naming both.
        """
        other = self._owners.setdefault(name, owner)
        if other != owner:
            raise CollectError(
                f"{other} and {owner} would both be called {name!r} in the dataset: call one of "
                "them something else, or collect products one by one"
            )
        return name


def open_tables(
    results: Iterable[Result],
    root: OutputRoot,
    product: str,
    columns: Sequence[str] | None = None,
) -> Iterator[pyarrow.Table]:
    """Yield a Parquet product simulation by simulation, with its id as the column ``simulation``.

    :param columns: read only these; all when None.
    :return: one pyarrow table per simulation that has a file, read when it is asked for.
    :raises CollectError: on a table that has not all of these columns, or one that is called
        ``simulation`` itself.
    """
    import pyarrow
    import pyarrow.parquet

    for result in results:
        record = _record(result, product)
        if record is None or record.path is None:
            continue
        with pyarrow.parquet.ParquetFile(root.fetch(record.path)) as file:
            _check_columns(file.schema_arrow.names, columns, f"{product!r} of {result.id!r}")
            table = file.read(columns=None if columns is None else list(columns))
        ids = pyarrow.array([result.id] * table.num_rows, pyarrow.string()).dictionary_encode()
        yield table.add_column(0, SIMULATION, ids)


def _check_columns(found: Sequence[str], wanted: Sequence[str] | None, table: str) -> None:
    """Raise on a table without the wanted columns, or with one that is to hold the id."""
    missing = [n for n in wanted or () if not {n, n.partition(".")[0]} & set(found)]
    if missing:
        raise CollectError(
            f"product {table} has no column {', '.join(map(repr, missing))}: there are "
            f"{', '.join(map(repr, found))}"
        )
    if SIMULATION in (found if wanted is None else wanted):
        raise CollectError(
            f"product {table} has a column {SIMULATION!r}, and the simulation's id is a column of "
            "that name too: name the columns that you want, without it"
        )


def _product_names(results: Sequence[Result], wanted: Sequence[str] | None) -> list[str]:
    """Return the products to open, in the order of the ensemble."""
    known = list(dict.fromkeys(product.name for result in results for product in result.products))
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise UsageError(
            f"no complete simulation has a product {', '.join(map(repr, unknown))}: there are "
            f"{', '.join(map(repr, known)) or 'none'}"
        )
    return [name for name in known if wanted is None or name in wanted]


def _record(result: Result, product: str) -> Product | None:
    return next((record for record in result.products if record.name == product), None)


def _is_netcdf(files: Sequence[str | None]) -> bool:
    suffixes = {PurePosixPath(name).suffix for name in files if name is not None}
    return bool(suffixes) and suffixes <= NETCDF


def _ids(results: Sequence[Result]) -> xr.Variable:
    import numpy as np
    import xarray as xr

    ids = np.array([result.id for result in results], dtype=object)
    return xr.Variable(SIMULATION, ids, {"long_name": "simulation id", "cf_role": "timeseries_id"})


def _empty_variable(name: str, records: Sequence[Product | None]) -> Any:
    empty = [record is None or record.status is not ProductStatus.COMPLETE for record in records]
    return SIMULATION, empty, {"long_name": f"whether {name} is complete-empty"}


def _file_variable(name: str, files: Sequence[str | None]) -> Any:
    import numpy as np

    values = np.array([file or "" for file in files], dtype=object)
    return SIMULATION, values, {"long_name": f"file of {name} below the output root"}


def _attributes(stacks: Sequence[Stack], count: int) -> dict[str, Any]:
    """Return the attributes on which all products agree, and what this dataset is."""
    attrs: dict[str, Any] = dict(stacks[0].layout.attrs) if stacks else {}
    for stack in stacks[1:]:
        attrs = common_attributes(attrs, stack.layout.attrs)
    attrs.pop("title", None)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "Conventions": "CF-1.10",
        "title": f"{count} simulations of an ensemble",
        **attrs,
        "history": f"{now} collected by airflow-provider-ensemble",
    }


def clashing_names(stacks: Sequence[Stack]) -> list[dict[str, str]]:
    """Return, for each product, the new names of what another product defines differently.

    Axes and fixed variables with equal values are shared. Coordinates with a value per simulation
    cannot be compared without reading them, so two products that both have one get one each.
    """
    users: dict[str, list[Any]] = {}
    for stack in stacks:
        for name, meaning in _meanings(stack).items():
            users.setdefault(name, []).append(meaning)
    clashes = {name for name, all_of_it in users.items() if not _agree(all_of_it)}
    return [
        {name: f"{stack.product}_{name}" for name in _meanings(stack) if name in clashes}
        for stack in stacks
    ]


def _meanings(stack: Stack) -> dict[str, Any]:
    """Return what each shared name means in a product; None for what cannot be compared."""
    layout = stack.layout
    lengths = {dim: size for dim, size in layout.sizes.items() if dim not in layout.axes}
    coordinates = {name: None for name in layout.stacked if name not in layout.data}
    fixed = {
        name: digest(v.values) + repr(sorted(map(str, v.attrs.items())))
        for name, v in layout.fixed.items()
    }
    axes = {
        dim: digest(values) + repr([layout.axis_attrs[dim].get(key) for key in CHECKED_ATTRIBUTES])
        for dim, values in layout.axes.items()
    }
    return {**lengths, **fixed, **coordinates, **axes}


def _agree(meanings: Sequence[Any]) -> bool:
    first = meanings[0]
    return len(meanings) == 1 or (
        first is not None and all(other == first for other in meanings[1:])
    )


def _with_stack(
    dataset: xr.Dataset, stack: Stack, renames: Mapping[str, str], taken: Names
) -> xr.Dataset:
    """Add one product's variables and coordinates."""
    import xarray as xr

    layout = stack.layout
    new = {name: renames.get(name, name) for name in _meanings(stack)}
    for name, renamed in new.items():
        of = f" of product {stack.product!r}" if name in renames else ""
        taken.claim(renamed, f"the coordinate or dimension {name!r}{of}")
    coords: dict[str, Any] = {}
    for dim, values in layout.axes.items():
        attrs = layout.axis_attrs[dim]
        if new[dim] in dataset.coords:
            attrs = common_attributes(attrs, dataset[new[dim]].attrs)
        coords[new[dim]] = xr.Variable(new[dim], values, attrs)
    for name, fixed in layout.fixed.items():
        coords[new[name]] = fixed
    variables: dict[str, Any] = {}
    for name, variable in layout.stacked.items():
        dims = (SIMULATION, *(new[dim] for dim in variable.dims))
        value = xr.Variable(dims, stack.array(name), _references(variable.attrs, new))
        if name in layout.data:
            only = len(layout.data) == 1
            full = stack.product if only else f"{stack.product}_{name}"
            owner = f"the variable {name!r} of product {stack.product!r}"
            variables[taken.claim(full, owner)] = value
        else:
            coords[new[name]] = value
    return dataset.assign_coords(coords).assign(variables)


def _references(attrs: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    """Return attributes whose grid mapping is called as it is in the dataset."""
    mapping = attrs.get("grid_mapping")
    if not mapping:
        return dict(attrs)
    renamed = re.sub(r"[^\s:]+", lambda word: new.get(word.group(), word.group()), str(mapping))
    return {**attrs, "grid_mapping": renamed}


def _with_parameters(dataset: xr.Dataset, results: Sequence[Result], taken: Names) -> xr.Dataset:
    """Add the simulations' own parameters as coordinates."""
    params = [take_apart(result.params).values for result in results]
    # A slash would be a group of NetCDF, a folder of Zarr.
    plain = {name: name.replace("/", "_") for values in params for name in values}
    new = {name: f"parameter_{text}" if text in taken else text for name, text in plain.items()}
    coords = {}
    for name, called in new.items():
        values = parameter_column([own.get(name) for own in params])
        attrs = {"long_name": name} if "/" in name else {}
        coords[taken.claim(called, f"the parameter {name!r}")] = (SIMULATION, values, attrs)
    return dataset.assign_coords(coords)


# --- writing ------------------------------------------------------------------------------------


def write_collection(dataset: xr.Dataset, target: str, format: str | None = None) -> str:
    """Write a collection as Zarr or NetCDF, in blocks, replacing an older one in one step.

    On a file system it is written aside and renamed, so that readers see the old one or the new
    one. In an object store a Zarr hierarchy is written in place, its metadata last.

    :param dataset: from :func:`open_collection`, or derived from it.
    :param target: a path or URI.
    :param format: ``zarr`` or ``netcdf``; None takes it from the suffix ``.zarr`` or ``.nc``.
    :return: the target as an absolute path or URI.
    :raises UsageError: on an unknown format.
    :raises CollectError: on what the format cannot hold.
    """
    format = check_format(target, format)
    is_local = uri_scheme(target) in ("", "file")
    if is_local:
        _check_place(local_path(target), format)
    elif format == "zarr":
        _check_prefix(target)
    ready = _storable(dataset, format)
    if is_local:
        return str(_write_local(ready, local_path(target), format))
    _write_remote(ready, target, format)
    return target


def check_format(target: str, format: str | None = None) -> str:
    """Return ``zarr`` or ``netcdf``, given or by the target's suffix.

    :raises UsageError: when it is neither.
    """
    suffix = PurePosixPath(target.rstrip("/")).suffix
    if format is None:
        format = "zarr" if suffix == ".zarr" else "netcdf" if suffix in NETCDF else suffix
    if format not in FORMATS:
        raise UsageError(
            f"cannot tell the format of {target!r} (format {format!r}): name a target that ends in "
            f".zarr or .nc, or a format, one of {', '.join(FORMATS)}"
        )
    return format


def check_packages(format: str) -> None:
    """Refuse a Python that cannot read products and write a dataset.

    :param format: of the dataset: ``zarr`` or ``netcdf``.
    :raises UsageError: naming the interpreter and the packages that it lacks.
    """
    needed = ["xarray", "dask", "netCDF4", *(["zarr"] if format == "zarr" else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{sys.executable} cannot collect products: it has no {', '.join(missing)}. Install "
            f"them there (pip install {' '.join(missing)}), or fetch the products and collect "
            "where they are installed"
        )


def _storable(dataset: xr.Dataset, format: str) -> xr.Dataset:
    """Bring text into memory: both formats must know what it is before they write it."""
    for name in dataset.variables:
        if not name or (format == "netcdf" and _NO_NAME.search(str(name))):
            raise CollectError(
                f"a variable of a {format} dataset cannot be called {name!r}: call it something "
                "else" + (", or write Zarr" if name else "")
            )
    text = {name: dataset[name].load() for name in dataset.variables if _is_text(dataset[name])}
    for name, variable in text.items():
        _check_texts(str(name), variable.values.ravel().tolist(), format)
    data = {name: value for name, value in text.items() if name in dataset.data_vars}
    coords = {name: value for name, value in text.items() if name not in data}
    return dataset.assign_coords(coords).assign(data)


def _check_texts(name: str, values: Sequence[Any], format: str) -> None:
    """Raise on texts, or dates of a calendar, that would not be read back as they are."""
    if any(value is None for value in values):
        raise CollectError(
            f"{name!r} has dates of a calendar of their own, and none for some simulations: "
            f"{format} has no missing date of such a calendar, so leave the product out"
        )
    if format == "netcdf" and any("\0" in value for value in values if isinstance(value, str)):
        raise CollectError(
            f"a text of {name!r} holds the character NUL, at which NetCDF ends a text: write Zarr"
        )


def _is_text(variable: xr.DataArray) -> bool:
    return variable.dtype.kind == "O"


def _write_local(dataset: xr.Dataset, target: Path, format: str) -> Path:
    _make_folder(target)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
    try:
        _write(dataset, str(aside), format)
        _replace(aside, target)
    finally:
        _remove(aside)
    return target


def _check_place(target: Path, format: str) -> None:
    """Refuse to write over a folder of other things, such as the output root.

    :raises UsageError: when something is there that is no dataset.
    """
    if format == "zarr" and target.is_file():
        raise UsageError(f"{target} is a file, and Zarr is a folder: name another place")
    if target.is_dir():
        names = {path.name for path in target.iterdir()}
        _refuse_other_things(str(target), names, ZARR_MARKS if format == "zarr" else frozenset())


def _check_prefix(target: str) -> None:
    """Refuse to write over a prefix of an object store that holds other things.

    :raises UsageError: when something is there that is no Zarr dataset.
    """
    import fsspec

    system, path = fsspec.core.url_to_fs(target)
    if system.isdir(path):
        names = {PurePosixPath(name).name for name in system.ls(path, detail=False)}
        _refuse_other_things(target, names - {PurePosixPath(path).name}, ZARR_MARKS)


def _refuse_other_things(target: str, names: Set[str], marks: Set[str]) -> None:
    if names and not names & marks:
        raise UsageError(
            f"{target} is a folder that holds other things, and would be replaced: name another "
            "place"
        )


def _make_folder(target: Path) -> None:
    """Make the folder of a dataset.

    :raises UsageError: when nothing can be written there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written ({error.strerror}): name a place that can be, or change "
            "the rights of its folder"
        ) from error


def _replace(aside: Path, target: Path) -> None:
    """Put a finished file or folder in the place of an older one."""
    if not target.is_dir():
        aside.replace(target)
        return
    # A folder cannot be renamed onto a full one: for a moment there is none.
    old = target.with_name(f"{aside.name}.old")
    target.rename(old)
    aside.rename(target)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_remote(dataset: xr.Dataset, target: str, format: str) -> None:
    if format == "zarr":
        _write(dataset, target, format)
        return
    import fsspec

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "collection.nc"
        _write(dataset, str(file), format)
        system, path = fsspec.core.url_to_fs(target)
        system.put_file(str(file), path)


def _write(dataset: xr.Dataset, target: str, format: str) -> None:
    if format == "zarr":
        # Version 2: its text and consolidated metadata are specified and read everywhere.
        dataset.to_zarr(target, mode="w", consolidated=True, zarr_format=2)
        return
    packed = {
        name: {"zlib": True, "complevel": 4}
        for name, variable in dataset.data_vars.items()
        if variable.dtype.kind in "fiu" and variable.ndim > 1
    }
    dataset.to_netcdf(target, engine="netcdf4", encoding=packed)
