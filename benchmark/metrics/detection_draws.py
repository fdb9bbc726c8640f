"""Differences of detection measures: FPR95 in closed form, AUPR from many resamples of scores that are sorted once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import Floats, as_vector, require_same_length
from benchmark.metrics.bootstrap import Comparison, resample_counts
from benchmark.metrics.fpr95 import Convention, fpr95_mean_difference_interval
from benchmark.metrics.resample import SEED, attempt, normal_difference

MEASURES = ("aupr_in", "aupr_out")
CONVENTIONS: tuple[Convention, ...] = ("ood_positive", "id_positive")
DRAWS = 100
Floats32: TypeAlias = npt.NDArray[np.float32]
_BLOCK = 1 << 18


class WeightedScores:
    """Scores of one model, sorted once; `measures` gives the detection measures for any weights of the samples."""

    def __init__(self, id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> None:
        inside, outside = as_vector(id_scores, "in-distribution scores"), as_vector(ood_scores, "OOD scores")
        scores = np.concatenate([inside, outside])
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        is_id = self.order < len(inside)
        self.is_id = is_id.astype(np.float32)
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        groups = np.cumsum(np.append(0, ranked[1:] != ranked[:-1]))
        self.id_cuts, self.ood_cuts = np.unique(groups[is_id]), np.unique(groups[~is_id])

    def measures(self, id_weights: Floats, ood_weights: Floats) -> dict[str, Floats]:
        """The measures of `MEASURES` for B sets of weights.

        Args: id_weights (B, M), ood_weights (B, N): how often each sample occurs. Returns (B,) for each measure, equal
        to `detection`'s functions on the samples repeated so often.
        """
        # Counts up to 16 million are exact in float32.
        weights = np.concatenate([id_weights, ood_weights], axis=1, dtype=np.float32)[:, self.order]
        every, inside = np.cumsum(weights, axis=1), np.cumsum(weights * self.is_id, axis=1)
        if len(self.ends) < len(self.order):
            every, inside = every[:, self.ends], inside[:, self.ends]
        outside = every - inside
        # From below: what lies at or under a cut-off is everything but what lies above the next higher one.
        inside_below, outside_below = _from_below(inside), _from_below(outside)
        ood_cuts = len(self.ends) - 1 - self.ood_cuts[::-1]
        return {
            "aupr_in": _average_precision(inside[:, self.id_cuts], outside[:, self.id_cuts]),
            "aupr_out": _average_precision(outside_below[:, ood_cuts], inside_below[:, ood_cuts]),
        }


def _from_below(counts: Floats32) -> Floats32:
    above = np.concatenate([np.zeros((len(counts), 1), np.float32), counts[:, :-1]], axis=1)
    return np.asarray((counts[:, -1:] - above)[:, ::-1])


def _average_precision(true: Floats32, false: Floats32) -> Floats:
    """From the counts at the cut-offs that hold a positive sample: the others gain no recall."""
    gained = np.diff(true, axis=1, prepend=np.float32(0))
    # A resample may lack the strictest scores: nothing is selected there, and nothing gained.
    precision = np.divide(true, np.maximum(true + false, np.float32(1)), dtype=np.float64)
    return np.asarray((gained * precision).sum(axis=1) / true[:, -1])


def detection_differences(
    id_a: npt.ArrayLike,
    oods_a: Sequence[npt.ArrayLike],
    id_b: npt.ArrayLike,
    oods_b: Sequence[npt.ArrayLike],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> tuple[dict[str, Comparison | str], list[dict[str, Comparison | str]]]:
    """Differences `b - a` of the detection measures: of their mean over OOD data sets, and of each data set.

    A text in place of a comparison says why there is none. FPR95 in closed form (`fpr95`); AUPR by a bootstrap in which
    ID samples and each OOD data set are resampled separately, both models with the same resample.

    Args: scores (M,) and for each data set (N,), higher in distribution, paired. draws: 100 by default, enough for
        a standard error.
    """
    if len(oods_a) != len(oods_b) or not oods_a:
        raise InputError(f"OOD data sets: {len(oods_a)} of model a, {len(oods_b)} of model b; they must be paired.")
    for first, second in ((id_a, id_b), *zip(oods_a, oods_b, strict=True)):
        require_same_length(a=np.asarray(first), b=np.asarray(second))
    series = _aupr_series(id_a, oods_a, id_b, oods_b, draws, seed)
    singles = [
        _fpr95(id_a, [ood_a], id_b, [ood_b]) | {m: attempt(normal_difference, a[m], b[m]) for m in MEASURES}
        for ood_a, ood_b, (a, b) in zip(oods_a, oods_b, series, strict=True)
    ]
    mean = {m: [np.mean([one[k][m] for one in series], axis=0) for k in (0, 1)] for m in MEASURES}
    return _fpr95(id_a, oods_a, id_b, oods_b) | {m: attempt(normal_difference, *mean[m]) for m in MEASURES}, singles


def _fpr95(
    id_a: npt.ArrayLike, oods_a: Sequence[npt.ArrayLike], id_b: npt.ArrayLike, oods_b: Sequence[npt.ArrayLike]
) -> dict[str, Comparison | str]:
    return {
        f"fpr95_{convention}": attempt(fpr95_mean_difference_interval, (id_a, oods_a), (id_b, oods_b), convention)
        for convention in CONVENTIONS
    }


def _aupr_series(
    id_a: npt.ArrayLike,
    oods_a: Sequence[npt.ArrayLike],
    id_b: npt.ArrayLike,
    oods_b: Sequence[npt.ArrayLike],
    draws: int,
    seed: int,
) -> list[tuple[dict[str, Floats], ...]]:
    """For each OOD data set the measures of both models, (1 + draws,) each; what was observed comes first."""
    inside, sizes = len(np.asarray(id_a)), [len(np.asarray(ood)) for ood in oods_a]
    rng_id = np.random.default_rng([seed, 0])
    curves = [
        (WeightedScores(id_a, a), WeightedScores(id_b, b), size, np.random.default_rng([seed, 1 + i]))
        for i, (a, b, size) in enumerate(zip(oods_a, oods_b, sizes, strict=True))
    ]
    collected: list[list[tuple[dict[str, Floats], dict[str, Floats]]]] = [[] for _ in curves]
    step = max(1, _BLOCK // (inside + max(sizes)))
    blocks = [min(step, draws - start) for start in range(0, draws, step)]
    for rows in [0, *blocks]:  # the first pass is the data itself
        id_weights = _weights(rng_id, inside, rows)
        for found, (a, b, size, rng) in zip(collected, curves, strict=True):
            ood_weights = _weights(rng, size, rows)
            found.append((a.measures(id_weights, ood_weights), b.measures(id_weights, ood_weights)))
    return [tuple(_joined([part[k] for part in found]) for k in (0, 1)) for found in collected]


def _joined(parts: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {m: np.concatenate([part[m] for part in parts]) for m in MEASURES}


def _weights(rng: np.random.Generator, samples: int, rows: int) -> Floats:
    return np.concatenate(list(resample_counts(rng, samples, rows))) if rows else np.ones((1, samples))
