"""Checks at the door of every metric: shape, type and range, with one clear line when they fail."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError, NonFiniteError, UndefinedMetric

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]


def require_finite(values: npt.ArrayLike, name: str) -> Floats:
    """`values` as float64; NonFiniteError names the array and its first bad position when there is NaN or infinity."""
    array = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        count = int(array.size - np.count_nonzero(finite))
        place = f" at index {first[0] if len(first) == 1 else first}" if first else ""
        raise NonFiniteError(f"{name}: {count} of {array.size} values are NaN or infinite, the first{place}.")
    return array


def as_vector(values: npt.ArrayLike, name: str) -> Floats:
    """A non-empty, finite (N,) float64 array."""
    array = require_finite(values, name)
    if array.ndim != 1:
        raise InputError(f"{name}: expected one dimension, got shape {array.shape}.")
    if array.size == 0:
        raise UndefinedMetric(f"{name}: empty, there is nothing to measure.")
    return array


def as_matrix(values: npt.ArrayLike, name: str) -> Floats:
    """A finite (N, K) float64 array with N >= 1 and K >= 1."""
    array = require_finite(values, name)
    if array.ndim != 2:
        raise InputError(f"{name}: expected two dimensions, got shape {array.shape}.")
    if array.size == 0:
        raise UndefinedMetric(f"{name}: empty (shape {array.shape}), there is nothing to measure.")
    return array


def as_bools(values: npt.ArrayLike, name: str) -> Bools:
    """A non-empty (N,) boolean array from booleans or zeros and ones."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"{name}: expected one dimension, got shape {array.shape}.")
    if array.size == 0:
        raise UndefinedMetric(f"{name}: empty, there is nothing to measure.")
    return zero_one(array, name)


def zero_one(array: npt.NDArray[np.generic], name: str) -> Bools:
    """A boolean array of the same shape; InputError when anything but 0, 1, False, True is in it."""
    if array.dtype == np.bool_:
        return np.asarray(array, dtype=np.bool_)
    if not np.isin(array, (0, 1)).all():
        raise InputError(f"{name}: expected true/false or 0/1, got other values.")
    return np.asarray(array, dtype=np.bool_)


def as_labels(values: npt.ArrayLike, samples: int, classes: int, name: str = "labels") -> Ints:
    """(N,) int64 labels in 0..C-1 for `samples` rows."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name}: expected integers, got {array.dtype}.")
    if array.shape != (samples,):
        raise InputError(f"{name}: expected shape ({samples},), got {array.shape}.")
    if samples and not (int(array.min()) >= 0 and int(array.max()) < classes):
        bad = int(np.flatnonzero((array < 0) | (array >= classes))[0])
        raise InputError(f"{name}: {array[bad]} at index {bad} is outside the {classes} classes 0..{classes - 1}.")
    return array.astype(np.int64, copy=False)


def require_same_length(**arrays: npt.NDArray[np.generic]) -> int:
    """The common first dimension of the named arrays."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        listing = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"arrays of different length: {listing}; they must be paired sample by sample.")
    return next(iter(lengths.values()))


def require_positive(value: int, name: str) -> int:
    """`value` when it is an integer >= 1."""
    if value < 1:
        raise InputError(f"{name}: expected at least 1, got {value}.")
    return int(value)


def require_fraction(value: float, name: str) -> float:
    """`value` when 0 < value < 1."""
    if not 0.0 < value < 1.0:
        raise InputError(f"{name}: expected a fraction between 0 and 1, got {value}.")
    return float(value)
