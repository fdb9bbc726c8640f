"""The spectrum of features: which directions carry energy. What quantization does along them: `benchmark.metrics.gain`.

X = features (N, D). Everything is accumulated in
float64 batch by batch (a fp32 Gram matrix is wrong by 11 %), so memory does not grow with N. Directions are the right
singular vectors of X: eigenvectors of the Gram matrix `X^T X`, strongest first. **Uncentred**: the first direction of
CLIP-like features is close to their mean. Features are taken as given; normalise them before if that is meant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError, UndefinedMetric
from benchmark.metrics.arrays import Floats, as_matrix, as_vector, require_positive

BANDS: tuple[tuple[int, int | None], ...] = ((0, 8), (8, 64), (64, None))
"""The study's rank bands: [low, high), None for the last direction."""


@dataclass(frozen=True)
class EigenBasis:
    """Directions by falling strength.

    vectors (D, D): orthonormal columns v_k; singular_values (D,): `||X v_k||`, falling, >= 0; count: N.
    """

    vectors: Floats
    singular_values: Floats
    count: int

    def band(self, low: int, high: int | None = None) -> Floats:
        """(D, high - low) columns of the rank band [low, high)."""
        dimension = self.vectors.shape[1]
        stop = dimension if high is None else high
        if not 0 <= low < stop <= dimension:
            raise InputError(f"rank band: expected 0 <= low < high <= {dimension}, got {low} to {stop}.")
        return np.asarray(self.vectors[:, low:stop], dtype=np.float64)


def numerical_rank(basis: EigenBasis) -> int:
    """Directions that stand above rounding of float32 features, sigma_k > sqrt(D) 2^-23 sigma_0."""
    sigma = basis.singular_values
    return int(np.sum(sigma > sigma[0] * np.sqrt(len(sigma)) * np.finfo(np.float32).eps))


class GramAccumulator:
    """Streaming `X^T X` and count of features of dimension D, in float64; memory D x D."""

    def __init__(self, dimension: int) -> None:
        self.dimension = require_positive(dimension, "dimension")
        self.gram: Floats = np.zeros((dimension, dimension))
        self.count = 0

    def update(self, features: npt.ArrayLike) -> None:
        """Add a batch (n, D) of any float type."""
        batch = as_matrix(features, "features")
        if batch.shape[1] != self.dimension:
            raise InputError(f"features: expected {self.dimension} dimensions, got {batch.shape[1]}.")
        self.gram += batch.T @ batch
        self.count += len(batch)

    def eigen(self) -> EigenBasis:
        """Directions and singular values of the features seen so far; UndefinedMetric before the first batch."""
        if self.count == 0:
            raise UndefinedMetric("spectrum: no features were given.")
        values, vectors = np.linalg.eigh(self.gram)
        singular = np.sqrt(values[::-1].clip(min=0.0))
        return EigenBasis(np.ascontiguousarray(vectors[:, ::-1]), singular, self.count)


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
    from scipy.linalg import subspace_angles as subspace_angles_of  # late: reading a study needs none

    a, b = as_matrix(first, "first basis"), as_matrix(second, "second basis")
    if a.shape[0] != b.shape[0]:
        raise InputError(f"bases of {a.shape[0]} and {b.shape[0]} dimensions.")
    return np.asarray(subspace_angles_of(a, b)[::-1], dtype=np.float64)
