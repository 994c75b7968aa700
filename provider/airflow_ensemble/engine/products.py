"""Products of one simulation: judged against what was declared, written, and published.

Standard library only; xarray and pandas values are recognised without importing either.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.recipe import ProductSpec
from airflow_ensemble.engine.simulation import Product, ProductStatus, Reason

#: Publishes a finished file as the product of this name and suffix: (path, size, checksum).
Publish = Callable[[str, Path, str], "tuple[str, int, str]"]

_COMPRESSIONS = frozenset({".gz", ".bz2", ".xz", ".zst"})


class Failure(Exception):
    """The simulation has failed, for a known reason.

    :param reason: of the closed list.
    :param detail: one line for people.
    :param signal: the signal that ended the model's own process, if one did.
    """

    def __init__(self, reason: Reason, detail: str, signal: int | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.signal = signal


def collect_products(
    values: Mapping[str, Any], specs: Sequence[ProductSpec], workdir: Path, publish: Publish
) -> tuple[Product, ...]:
    """Write and publish what a model returned; nothing is published unless all of it is good.

    :param values: product values by name: an xarray Dataset or DataArray, a pandas DataFrame, a
        path, or None for complete-empty.
    :param specs: the declared products.
    :param workdir: where files are written before they are published.
    :param publish: brings a finished file under its final name.
    :return: one record per declared product.
    :raises Failure: on an unknown name, a missing product, or a value of another type.
    """
    check_names(values, specs)
    files: dict[str, Path] = {}
    for spec in specs:
        value = values.get(spec.name)
        if value is None:
            continue
        file = write_value(spec.name, value, workdir)
        files[spec.name] = _copy(spec.name, file, workdir) if file in files.values() else file
    return tuple(_published(spec.name, files.get(spec.name), publish) for spec in specs)


def check_names(values: Mapping[str, Any], specs: Sequence[ProductSpec]) -> None:
    """Compare the names that a model returned with the declared ones.

    :raises Failure: naming the unknown or missing products.
    """
    declared = [spec.name for spec in specs]
    unknown = sorted(str(name) for name in values if name not in declared)
    if unknown:
        raise Failure(
            Reason.ERROR,
            f"the model returned {_listed(unknown)}, which 'products' of the ensemble file does "
            f"not name: it names {_listed(declared) or 'none'}",
        )
    missing = [spec.name for spec in specs if spec.name not in values and not spec.optional]
    if missing:
        raise Failure(
            Reason.MISSING_PRODUCT,
            f"the model did not return {_listed(missing)}: return None for a product that is "
            "empty, or declare it optional",
        )


def write_value(name: str, value: Any, workdir: Path) -> Path:
    """Return a file with the product's value that may be moved away.

    :raises Failure: when the value is none that can be written, or its file does not exist.
    """
    kind = type(value).__module__.partition(".")[0]
    if kind == "xarray" and hasattr(value, "to_netcdf"):
        path = workdir / f".product-{name}.nc"
        value.to_netcdf(path)
        return path
    if kind == "pandas" and hasattr(value, "to_parquet"):
        path = workdir / f".product-{name}.parquet"
        value.to_parquet(path)
        return path
    if isinstance(value, (str, os.PathLike)):
        return _own_file(name, workdir / os.fspath(value), workdir)
    raise Failure(
        Reason.ERROR,
        f"product {name!r} is a {type(value).__name__}: it must be an xarray Dataset or "
        "DataArray, a pandas DataFrame, a path, or None",
    )


def match_file(spec: ProductSpec, workdir: Path) -> Path | None:
    """Return the one file that a product's glob matches, None when there is none.

    :raises Failure: when several match.
    """
    matches = sorted(path for path in workdir.glob(spec.glob or "") if path.is_file())
    if len(matches) > 1:
        names = [path.relative_to(workdir).as_posix() for path in matches[:5]]
        raise Failure(
            Reason.ERROR,
            f"product {spec.name!r}: {len(matches)} files match {spec.glob!r} ({_listed(names)}): "
            "exactly one must",
        )
    return matches[0] if matches else None


def suffix_of(path: Path) -> str:
    """Return the suffix that a product keeps, such as ``.nc`` or ``.tar.gz``."""
    suffixes = path.suffixes
    if len(suffixes) > 1 and suffixes[-1] in _COMPRESSIONS:
        return "".join(suffixes[-2:])
    return path.suffix


def _own_file(name: str, path: Path, workdir: Path) -> Path:
    if path.is_dir():
        raise Failure(
            Reason.ERROR, f"product {name!r}: {path} is a directory: pack it into one file"
        )
    if not path.is_file():
        raise Failure(Reason.MISSING_PRODUCT, f"product {name!r}: {path} does not exist")
    if path.is_symlink() or workdir.resolve() not in path.resolve().parents:
        return _copy(name, path, workdir)  # only the simulation's own file may be moved away
    return path


def _copy(name: str, path: Path, workdir: Path) -> Path:
    return Path(shutil.copyfile(path, workdir / f".product-{name}{suffix_of(path)}"))


def _published(name: str, file: Path | None, publish: Publish) -> Product:
    if file is None:
        return Product(name, ProductStatus.COMPLETE_EMPTY)
    path, size, checksum = publish(name, file, suffix_of(file))
    return Product(name, ProductStatus.COMPLETE, path, size, checksum)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
