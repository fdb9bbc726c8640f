"""Zero-shot OOD scores of CLIP-like models, all higher in distribution.

s = cosines (N, C); L = `scale * s + bias` with the model's own logit scale and bias. Every score is (N,) float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError, UndefinedMetric
from benchmark.metrics.arrays import Floats, as_matrix, require_finite, require_positive
from benchmark.metrics.scores import log_softmax, logits, logsumexp, normalise

_CHUNK_VALUES = 1 << 22


def msp(cos: npt.ArrayLike, scale: float, bias: float = 0.0) -> Floats:
    """Maximum softmax probability `max softmax(L)`, in [1/C, 1] (Hendrycks & Gimpel 2017)."""
    return np.asarray(np.exp(log_softmax(logits(as_matrix(cos, "cosines"), scale, bias)).max(axis=1)))


def mcm(cos: npt.ArrayLike, tau: float = 1.0) -> Floats:
    """Maximum concept matching `max softmax(s / tau)`, in [1/C, 1] (Ming et al. 2022); tau = 1 as in the paper."""
    return msp(cos, 1.0 / _temperature(tau))


def max_logit(cos: npt.ArrayLike) -> Floats:
    """Highest cosine `max s`, in [-1, 1]; scale and bias would not change the ranking (Hendrycks et al. 2022)."""
    return np.asarray(as_matrix(cos, "cosines").max(axis=1), dtype=np.float64)


def energy(cos: npt.ArrayLike, scale: float, bias: float = 0.0) -> Floats:
    """Negative free energy `logsumexp(L)` at temperature 1 (Liu et al. 2020)."""
    return np.asarray(logsumexp(logits(as_matrix(cos, "cosines"), scale, bias), axis=1), dtype=np.float64)


def negative_entropy(cos: npt.ArrayLike, scale: float, bias: float = 0.0) -> Floats:
    """`sum p log p` of `p = softmax(L)` in nats, in [-log C, 0]."""
    log_p = log_softmax(logits(as_matrix(cos, "cosines"), scale, bias))
    return np.asarray((np.exp(log_p) * log_p).sum(axis=1), dtype=np.float64)


def _mcm_without_scale(cos: npt.ArrayLike, scale: float, bias: float) -> Floats:
    return mcm(cos)


def _max_logit_without_scale(cos: npt.ArrayLike, scale: float, bias: float) -> Floats:
    return max_logit(cos)


SCORES: Mapping[str, Callable[[npt.ArrayLike, float, float], Floats]] = MappingProxyType(
    {
        "msp": msp,
        "mcm": _mcm_without_scale,
        "max_logit": _max_logit_without_scale,
        "energy": energy,
        "negative_entropy": negative_entropy,
    }
)
"""The scores that need pooled features only: name -> f(cos (N, C), scale, bias) -> (N,)."""


def _temperature(tau: float) -> float:
    if not tau > 0.0:
        raise InputError(f"temperature tau: expected a positive number, got {tau}.")
    return float(tau)


def local_mcm(local: npt.ArrayLike, text: npt.ArrayLike, tau: float = 1.0) -> Floats:
    """Highest softmax probability of any patch and class, `max_{p, c} softmax_c(local_p . text_c / tau)` (L-MCM).

    Args: local (N, P, D) patch features projected into the joint space, text (C, D). Rows are normalised here. Works
    through the samples in chunks, so memory does not grow with N x P x C.
    """
    patches = np.asarray(local)
    weights = normalise(as_matrix(text, "text features"), "text features")
    if patches.ndim != 3 or patches.shape[2] != weights.shape[1]:
        raise InputError(f"local features: expected shape (N, P, {weights.shape[1]}), got {patches.shape}.")
    if patches.size == 0:
        raise UndefinedMetric(f"local features: empty (shape {patches.shape}), there is nothing to measure.")
    inverse = 1.0 / _temperature(tau)
    step = max(1, _CHUNK_VALUES // (patches.shape[1] * len(weights)))
    result = np.empty(len(patches))
    for start in range(0, len(patches), step):
        block = normalise(patches[start : start + step], "local features") @ weights.T * inverse
        result[start : start + step] = np.exp(block.max(axis=2) - logsumexp(block, axis=2)).max(axis=1)
    return result


def gl_mcm(
    cos: npt.ArrayLike, local: npt.ArrayLike, text: npt.ArrayLike, *, weight: float = 1.0, tau: float = 1.0
) -> Floats:
    """Global plus local maximum concept matching, `mcm + weight * local_mcm` (Miyai et al. 2023); weight = 1 there.

    Args: cos (N, C) of the pooled features; local (N, P, D); text (C, D).
    """
    whole, parts = mcm(cos, tau), local_mcm(local, text, tau)
    if len(whole) != len(parts):
        raise InputError(f"{len(whole)} pooled but {len(parts)} local features; they must be paired.")
    return np.asarray(whole + weight * parts, dtype=np.float64)


def neg_label(
    image: npt.ArrayLike,
    text: npt.ArrayLike,
    negative_text: npt.ArrayLike,
    scale: float,
    *,
    groups: int = 100,
    seed: int = 0,
) -> Floats:
    """Share of the softmax mass on the real classes among negative labels, in (0, 1) (NegLabel, Jiang et al. 2024).

    The negative labels are shuffled (seeded) and split into equal groups; the remainder is left out, as its authors
    do. For each group the share of `exp(scale * s)` on the C classes is taken, then the mean over the groups.
    Its authors use 10,000 labels, 100 groups and scale 100; here the scale is the model's own.

    Args: image (N, D), text (C, D), negative_text (K, D) with K >= groups. Works through the samples in chunks.
    """
    features = normalise(as_matrix(image, "image features"), "image features")
    classes = normalise(as_matrix(text, "text features"), "text features")
    negatives = normalise(as_matrix(negative_text, "negative text features"), "negative text features")
    if not features.shape[1] == classes.shape[1] == negatives.shape[1]:
        shapes = f"{features.shape[1]}, {classes.shape[1]} and {negatives.shape[1]}"
        raise InputError(f"image, text and negative text features have {shapes} dimensions.")
    size = len(negatives) // require_positive(groups, "groups")
    if size == 0:
        raise InputError(f"{groups} groups need at least as many negative labels, got {len(negatives)}.")
    chosen = negatives[np.random.default_rng(seed).permutation(len(negatives))[: size * groups]]
    result = np.empty(len(features))
    step = max(1, _CHUNK_VALUES // (len(chosen) + len(classes)))
    for start in range(0, len(features), step):
        rows = features[start : start + step]
        positive = logsumexp(logits(rows @ classes.T, scale), axis=1)
        negative = logsumexp(logits(rows @ chosen.T, scale).reshape(len(rows), groups, size), axis=2)
        result[start : start + step] = np.exp(-np.logaddexp(0.0, negative - positive[:, None])).mean(axis=1)
    return np.asarray(require_finite(result, "NegLabel scores"))
