"""Results as JSON Lines: what a collection on another machine needs to know of the index.

Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index.interface import Result
from airflow_ensemble.engine.simulation import Product, canonical_json


def render_results(results: Iterable[Result]) -> Iterator[str]:
    """Yield the line of each result, line end included."""
    for result in results:
        record = {
            "id": result.id,
            "params": dict(result.params),
            "generation": result.generation,
            "products": [product.as_dict() for product in result.products],
        }
        yield canonical_json(record) + "\n"


def parse_results(lines: Iterable[str], source: str = "results") -> Iterator[Result]:
    """Yield the results of lines that :func:`render_results` wrote.

    :param source: where they come from, for messages.
    :raises UsageError: naming the line that is no result.
    """
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            products = tuple(Product.from_dict(product) for product in record["products"])
            result = Result(record["id"], dict(record["params"]), record["generation"], products)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{source}, line {number} is no result of a simulation ({error!r})"
            ) from error
        yield result


def read_results(path: Path) -> list[Result]:
    """Read a file of results.

    :raises UsageError: naming the file and what is wrong with it.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            return list(parse_results(lines, str(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"results {path} cannot be read: {error}") from error
