"""Controls for the claim that quantization works as a spectral filter: noise that is like it, and truncation.

Noise of the same size injected into features does not reproduce the study's gains; whoever claims a spectral
mechanism must show that these do not do as well. Features are (N, D) float64 in and out, **not** normalised again
(cosines normalise). Randomness depends on the seed and the shape only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import Floats, as_matrix
from benchmark.metrics.spectrum import EigenBasis, project_band


def _pair(reference: npt.ArrayLike, quantized: npt.ArrayLike) -> tuple[Floats, Floats]:
    x, q = as_matrix(reference, "reference features"), as_matrix(quantized, "quantized features")
    if x.shape != q.shape:
        raise InputError(f"reference features {x.shape} and quantized features {q.shape} are not paired.")
    return x, q - x


def isotropic_noise_like(reference: npt.ArrayLike, quantized: npt.ArrayLike, seed: int = 0) -> Floats:
    """X plus Gaussian noise in random directions, each sample's as long as its own `X_q - X`."""
    x, error = _pair(reference, quantized)
    noise = np.random.default_rng(seed).standard_normal(x.shape)
    length = np.linalg.norm(error, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.asarray(x + noise * length, dtype=np.float64)


def shaped_noise_like(reference: npt.ArrayLike, quantized: npt.ArrayLike, basis: EigenBasis, seed: int = 0) -> Floats:
    """X plus Gaussian noise with the energy of `X_q - X` along each direction of the full-precision basis.

    The noise along v_k is independent of the sample, with standard deviation `sqrt(mean(((X_q - X) v_k)^2))`.
    """
    x, error = _pair(reference, quantized)
    deviation = np.sqrt(np.square(error @ basis.vectors).mean(axis=0))
    noise = np.random.default_rng(seed).standard_normal(x.shape) * deviation
    return np.asarray(x + noise @ basis.vectors.T, dtype=np.float64)


def truncate_rank(features: npt.ArrayLike, basis: EigenBasis, k: int) -> Floats:
    """Features with only the k strongest directions left (and the mean of a centred basis), (N, D)."""
    return np.asarray(project_band(features, basis, 0, k) + basis.mean, dtype=np.float64)
