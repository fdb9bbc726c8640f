"""The spectrum of features: which directions carry energy, and into which quantization noise falls.

X = features (N, D) of full precision, X_q of the quantized model on the same samples. Everything is accumulated in
float64 batch by batch (a fp32 Gram matrix is wrong by 11 %), so memory does not grow with N. Directions are the right
singular vectors of X: eigenvectors of the Gram matrix `X^T X`, strongest first. **Uncentred by default**: the first
direction of CLIP-like features is then close to their mean. `eigen(center=True)` takes the covariance instead. Features
are taken as given; normalise them before if that is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import subspace_angles as _subspace_angles

from benchmark.errors import InputError, UndefinedMetric
from benchmark.metrics.arrays import Floats, as_matrix, as_vector, require_positive
from benchmark.metrics.classification import accuracy

BATCH = 4096
BANDS: tuple[tuple[int, int | None], ...] = ((0, 8), (8, 64), (64, None))
"""The study's rank bands: [low, high), None for the last direction."""


@dataclass(frozen=True)
class EigenBasis:
    """Directions by falling strength.

    vectors (D, D): orthonormal columns v_k; singular_values (D,): `||(X - mean) v_k||`, falling, >= 0; mean (D,):
    what was subtracted (zeros when uncentred); count: N.
    """

    vectors: Floats
    singular_values: Floats
    mean: Floats
    count: int

    def band(self, low: int, high: int | None = None) -> Floats:
        """(D, high - low) columns of the rank band [low, high)."""
        dimension = self.vectors.shape[1]
        stop = dimension if high is None else high
        if not 0 <= low < stop <= dimension:
            raise InputError(f"rank band: expected 0 <= low < high <= {dimension}, got {low} to {stop}.")
        return np.asarray(self.vectors[:, low:stop], dtype=np.float64)


class GramAccumulator:
    """Streaming `X^T X`, sum and count of features of dimension D, in float64; memory D x D."""

    def __init__(self, dimension: int) -> None:
        self.dimension = require_positive(dimension, "dimension")
        self.gram: Floats = np.zeros((dimension, dimension))
        self.sum: Floats = np.zeros(dimension)
        self.count = 0

    @classmethod
    def from_moments(cls, gram: npt.ArrayLike, total: npt.ArrayLike, count: int) -> GramAccumulator:
        """From a stored Gram matrix (D, D), column sums (D,) and N, as a bank's per-block tap keeps them."""
        matrix, column_sum = as_matrix(gram, "Gram matrix"), as_vector(total, "column sums")
        if matrix.shape != (len(column_sum), len(column_sum)):
            raise InputError(f"Gram matrix of shape {matrix.shape} does not fit {len(column_sum)} column sums.")
        result = cls(len(column_sum))
        result.gram, result.sum, result.count = matrix.copy(), column_sum.copy(), require_positive(count, "count")
        return result

    def update(self, features: npt.ArrayLike) -> None:
        """Add a batch (n, D) of any float type."""
        batch = as_matrix(features, "features")
        if batch.shape[1] != self.dimension:
            raise InputError(f"features: expected {self.dimension} dimensions, got {batch.shape[1]}.")
        self.gram += batch.T @ batch
        self.sum += batch.sum(axis=0)
        self.count += len(batch)

    def merge(self, other: GramAccumulator) -> None:
        """Add what another accumulator of the same dimension has seen."""
        if other.dimension != self.dimension:
            raise InputError(f"cannot merge accumulators of {self.dimension} and {other.dimension} dimensions.")
        self.gram += other.gram
        self.sum += other.sum
        self.count += other.count

    @property
    def mean(self) -> Floats:
        """(D,) mean feature; UndefinedMetric before the first batch."""
        if self.count == 0:
            raise UndefinedMetric("spectrum: no features were given.")
        return np.asarray(self.sum / self.count, dtype=np.float64)

    def eigen(self, center: bool = False) -> EigenBasis:
        """Directions and singular values of the features seen so far, of `X` or with `center` of `X - mean`."""
        mean = self.mean if center else np.zeros_like(self.mean)
        values, vectors = np.linalg.eigh(self.gram - self.count * np.outer(mean, mean))
        singular = np.sqrt(values[::-1].clip(min=0.0))
        return EigenBasis(np.ascontiguousarray(vectors[:, ::-1]), singular, mean, self.count)


def batches(*features: npt.ArrayLike, size: int = BATCH) -> Iterator[tuple[Floats, ...]]:
    """Float64 batches of equally long arrays, for memory-mapped features that should not be converted whole."""
    arrays = [np.asarray(array) for array in features]
    if len({len(array) for array in arrays}) != 1:
        raise InputError(f"features of different length: {', '.join(str(len(a)) for a in arrays)}.")
    for start in range(0, len(arrays[0]), size):
        yield tuple(as_matrix(array[start : start + size], "features") for array in arrays)


def eigen_basis(features: npt.ArrayLike, center: bool = False) -> EigenBasis:
    """`GramAccumulator.eigen` of one (N, D) array, taken batch by batch."""
    array = np.asarray(features)
    if array.ndim != 2 or array.size == 0:
        raise UndefinedMetric(f"spectrum: expected (N, D) features, got shape {array.shape}.")
    gram = GramAccumulator(array.shape[1])
    for (batch,) in batches(array):
        gram.update(batch)
    return gram.eigen(center)


class SqnrAccumulator:
    """Streaming signal and noise energy along the directions of a basis; memory D x D.

    From the Gram matrices of X and of X_q - X: a Gram matrix costs half of a projection on all directions.
    """

    def __init__(self, basis: EigenBasis) -> None:
        self.basis = basis
        self._signal, self._noise = (GramAccumulator(len(basis.vectors)) for _ in range(2))

    def update(self, reference: npt.ArrayLike, quantized: npt.ArrayLike) -> None:
        """Add a batch: X (n, D) and X_q (n, D) of the same samples."""
        x, q = as_matrix(reference, "reference features"), as_matrix(quantized, "quantized features")
        if x.shape != q.shape:
            raise InputError(f"reference features {x.shape} and quantized features {q.shape} are not paired.")
        self._signal.update(x - self.basis.mean if self.basis.mean.any() else x)
        self._noise.update(q - x)

    @property
    def signal(self) -> Floats:
        """(D,) `||(X - mean) v_k||^2`."""
        return _along(self._signal.gram, self.basis)

    @property
    def noise(self) -> Floats:
        """(D,) `||(X_q - X) v_k||^2`."""
        return _along(self._noise.gram, self.basis)

    def decibels(self) -> Floats:
        """(D,) `10 log10(signal / noise)`; see `sqnr_db`."""
        return _decibels(self.signal, self.noise)


def _along(gram: Floats, basis: EigenBasis) -> Floats:
    """(D,) v_k^T G v_k; what is negative by rounding is zero."""
    return np.asarray(np.einsum("dk,dk->k", basis.vectors, gram @ basis.vectors).clip(min=0.0))


def _decibels(signal: Floats, noise: Floats) -> Floats:
    if not signal.any():
        raise UndefinedMetric("SQNR: the reference features have no energy.")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(noise > 0.0, 10.0 * np.log10(signal / noise), np.inf)


def sqnr_db(reference: npt.ArrayLike, quantized: npt.ArrayLike, basis: EigenBasis) -> Floats:
    """`10 log10(||X v_k||^2 / ||(X_q - X) v_k||^2)` in dB for each direction of full precision, (D,).

    +inf where no noise falls (an unchanged model), -inf where noise falls on a direction without signal.
    Args: reference, quantized (N, D), read batch by batch; basis from `eigen_basis(reference)`; a centred basis
    centres the signal.
    """
    result = SqnrAccumulator(basis)
    for x, q in batches(reference, quantized):
        result.update(x, q)
    return result.decibels()


def sqnr_db_from_moments(signal_gram: npt.ArrayLike, noise_gram: npt.ArrayLike, basis: EigenBasis) -> Floats:
    """`sqnr_db` from `X^T X` and `(X_q - X)^T (X_q - X)`, for blocks of which only second moments are kept."""
    grams = as_matrix(signal_gram, "signal Gram matrix"), as_matrix(noise_gram, "noise Gram matrix")
    signal, noise = (_along(gram, basis) for gram in grams)
    signal = signal - basis.count * np.square(basis.mean @ basis.vectors)
    return _decibels(signal.clip(min=0.0), noise)


def energy_spectrum(singular_values: npt.ArrayLike) -> Floats:
    """Share of the energy in each direction, `sigma_k^2 / sum sigma^2`; sums to 1."""
    squared = np.square(_singular(singular_values))
    return np.asarray(squared / squared.sum(), dtype=np.float64)


def effective_rank(singular_values: npt.ArrayLike) -> float:
    """`exp(H(sigma / sum sigma))` with the entropy H in nats (Roy & Vetterli 2007), in [1, D]."""
    sigma = _singular(singular_values)
    share = sigma[sigma > 0] / sigma.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def _singular(values: npt.ArrayLike) -> Floats:
    sigma = as_vector(values, "singular values")
    if sigma.min() < 0.0:
        raise InputError("singular values: negative.")
    if sigma.max() == 0.0:
        raise UndefinedMetric("spectrum: all singular values are zero.")
    return np.asarray(sigma / sigma.max(), dtype=np.float64)


def subspace_angles(first: npt.ArrayLike, second: npt.ArrayLike) -> Floats:
    """Principal angles in radians between two column spaces, rising, in [0, pi / 2] (Knyazev & Argentati 2002).

    Args: (D, k) and (D, l), for example `basis.band(0, 8)` of two models. Returns (min(k, l),).
    """
    a, b = as_matrix(first, "first basis"), as_matrix(second, "second basis")
    if a.shape[0] != b.shape[0]:
        raise InputError(f"bases of {a.shape[0]} and {b.shape[0]} dimensions.")
    return np.asarray(_subspace_angles(a, b)[::-1], dtype=np.float64)


def project_band(features: npt.ArrayLike, basis: EigenBasis, low: int, high: int | None = None) -> Floats:
    """Features within a rank band, `(X - mean) V V^T` with V the columns [low, high) of the basis; (N, D) float64."""
    columns = basis.band(low, high)
    return np.asarray((as_matrix(features, "features") - basis.mean) @ columns @ columns.T, dtype=np.float64)


def subspace_accuracy(
    features: npt.ArrayLike,
    text: npt.ArrayLike,
    labels: npt.ArrayLike,
    basis: EigenBasis,
    bands: tuple[tuple[int, int | None], ...] = BANDS,
) -> dict[tuple[int, int | None], float]:
    """Zero-shot accuracy of the features within each rank band, with the same basis for every model compared.

    Args: features (N, D), text (C, D) class weights, labels (N,). Bands that start beyond D are left out, and a band
    that ends beyond D ends there. Normalising the projected features would not change which class is highest.
    """
    dimension, weights = basis.vectors.shape[1], as_matrix(text, "text features")
    centred = as_matrix(features, "features") - basis.mean
    result = {}
    for low, high in bands:
        if low < dimension:
            columns = basis.band(low, None if high is None else min(high, dimension))
            result[low, high] = accuracy((centred @ columns) @ (weights @ columns).T, labels)
    return result
