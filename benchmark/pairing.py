"""Two outcomes of one evaluation, paired sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError
from benchmark.plugins import Outcome


def paired(quantized: Outcome, reference: Outcome) -> tuple[Outcome, Outcome]:
    """Both outcomes with their rows in the order of the sample ids, so that row i is the same image in both.

    The order is that of the ids and not of the data: what follows from it (random draws too) does not depend on the
    order in which images were read.

    Raises:
        DataError: the two hold other images, an id stands twice, or a set of samples is missing in one of them.
    """
    expected, found = _ids(reference), _ids(quantized)
    if expected.keys() != found.keys():
        odd = sorted(expected.keys() ^ found.keys())[0].removesuffix(".sample_id")
        raise DataError(f"the two evaluations cannot be paired: only one of them has samples of '{odd}'")
    first = {name: np.argsort(ids, kind="stable") for name, ids in found.items()}
    second = {name: np.argsort(ids, kind="stable") for name, ids in expected.items()}
    for name in expected:
        _require_same(expected[name][second[name]], found[name][first[name]], name)
    return _sorted(quantized, first), _sorted(reference, second)


def _ids(outcome: Outcome) -> dict[str, NDArray[Any]]:
    """Columns of sample ids: `sample_id`, and `<column>.sample_id` of columns with samples of their own."""
    return {name: ids for name, ids in outcome.samples.items() if name.split(".")[-1] == "sample_id"}


def _require_same(reference: NDArray[Any], quantized: NDArray[Any], name: str) -> None:
    """Sorted ids must be equal and unique."""
    what = "the samples" if name == "sample_id" else f"the samples of '{name.removesuffix('.sample_id')}'"
    if len(np.unique(reference)) != len(reference):
        raise DataError(f"{what} cannot be paired: an id stands twice")
    if not np.array_equal(reference, quantized):
        only = np.setxor1d(reference, quantized)
        example = f"'{only[0]}' is in one of them only" if len(only) else "an id stands twice"
        raise DataError(
            f"{what} cannot be paired: full precision has {len(reference)}, the quantized model {len(quantized)}, and "
            f"{example}; evaluate both on the same data (the same --limit and --skip-broken)"
        )


def _sorted(outcome: Outcome, orders: Mapping[str, NDArray[np.int64]]) -> Outcome:
    samples = {}
    for name, column in outcome.samples.items():
        ids = name if name in orders else f"{name}.sample_id"
        samples[name] = column[orders.get(ids, orders["sample_id"])]
    return replace(outcome, samples=samples)
