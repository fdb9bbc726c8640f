"""Detection measures of many resamples at once: FPR95, AUPR of weighted scores, sorted once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import Floats, as_vector, require_same_length
from benchmark.metrics.bootstrap import Comparison, Kind, resample_counts
from benchmark.metrics.resample import SEED, difference, draws_for

LEVEL = 0.95
MEASURES = (
    "fpr95_ood_positive",
    "fpr95_id_positive",
    "aupr_in",
    "aupr_out",
    "aupr_in_trapezoid",
    "aupr_out_trapezoid",
)
_BLOCK = 1 << 20


class WeightedScores:
    """Scores of one model, sorted once; `measures` gives the detection measures for any weights of the samples."""

    def __init__(self, id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> None:
        inside, outside = as_vector(id_scores, "in-distribution scores"), as_vector(ood_scores, "OOD scores")
        scores = np.concatenate([inside, outside])
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.is_id = (self.order < len(inside)).astype(np.float64)
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def measures(self, id_weights: Floats, ood_weights: Floats) -> dict[str, Floats]:
        """The measures of `MEASURES` for B sets of weights.

        Args: id_weights (B, M), ood_weights (B, N): how often each sample occurs. Returns (B,) for each measure, equal
        to `detection`'s functions on the samples repeated so often.
        """
        weights = np.concatenate([id_weights, ood_weights], axis=1)[:, self.order]
        inside = np.cumsum(weights * self.is_id, axis=1)[:, self.ends]
        outside = np.cumsum(weights, axis=1)[:, self.ends] - inside
        # From below: what lies at or under a cut-off is everything but what lies above the next higher one.
        below = [_from_below(counts) for counts in (outside, inside)]
        aupr_in, trapezoid_in = _precision_recall(inside, outside)
        aupr_out, trapezoid_out = _precision_recall(*below)
        return {
            "fpr95_ood_positive": _at_least(*below),
            "fpr95_id_positive": _nearest(inside, outside),
            "aupr_in": aupr_in,
            "aupr_out": aupr_out,
            "aupr_in_trapezoid": trapezoid_in,
            "aupr_out_trapezoid": trapezoid_out,
        }


def _from_below(counts: Floats) -> Floats:
    above = np.concatenate([np.zeros((len(counts), 1)), counts[:, :-1]], axis=1)
    return np.asarray((counts[:, -1:] - above)[:, ::-1])


def _at_least(true: Floats, false: Floats) -> Floats:
    first = np.argmax(true / true[:, -1:] >= LEVEL, axis=1)
    return np.asarray(np.take_along_axis(false, first[:, None], axis=1)[:, 0] / false[:, -1])


def _nearest(true: Floats, false: Floats) -> Floats:
    """As `detection.fpr_nearest`: of equally near cut-offs the loosest, but none beyond the first that keeps all."""
    distance = np.abs(true / true[:, -1:] - LEVEL)
    distance[:, 1:][true[:, :-1] == true[:, -1:]] = np.inf
    best = distance.shape[1] - 1 - np.argmin(distance[:, ::-1], axis=1)
    return np.asarray(np.take_along_axis(false, best[:, None], axis=1)[:, 0] / false[:, -1])


def _precision_recall(true: Floats, false: Floats) -> tuple[Floats, Floats]:
    """Average precision, and trapezoids under a curve that starts at (0, 1)."""
    total = true + false
    # A resample may lack the strictest scores: nothing is selected there, and the curve has not begun.
    precision = np.divide(true, total, out=np.ones_like(true), where=total > 0)
    recall = true / true[:, -1:]
    gained = np.diff(recall, axis=1, prepend=0.0)
    before = np.concatenate([np.ones((len(true), 1)), precision[:, :-1]], axis=1)
    average = (gained * precision).sum(axis=1)
    return np.asarray(average), np.asarray((gained * (precision + before) / 2.0).sum(axis=1))


def detection_differences(
    id_a: npt.ArrayLike,
    oods_a: Sequence[npt.ArrayLike],
    id_b: npt.ArrayLike,
    oods_b: Sequence[npt.ArrayLike],
    *,
    draws: int | None = None,
    seed: int = SEED,
) -> tuple[dict[str, Comparison], list[dict[str, Comparison]]]:
    """Differences `b - a` of the detection measures: of their mean over OOD data sets, and of each data set.

    ID samples and each OOD data set are resampled separately, both models with the same resample.

    Args: scores (M,) and for each data set (N,), higher in distribution, paired. draws: 300 by default, fewer for very
        large data. FPR95 gets a bias-corrected interval: plain percentiles overstate the spread of a cut-off.
    """
    if len(oods_a) != len(oods_b) or not oods_a:
        raise InputError(f"OOD data sets: {len(oods_a)} of model a, {len(oods_b)} of model b; they must be paired.")
    for first, second in ((id_a, id_b), *zip(oods_a, oods_b, strict=True)):
        require_same_length(a=np.asarray(first), b=np.asarray(second))
    inside = len(np.asarray(id_a))
    rng_id = np.random.default_rng([seed, 0])
    sizes = [len(np.asarray(ood)) for ood in oods_a]
    count = draws or draws_for(inside + max(sizes), most=300, budget=20_000_000)
    curves = [
        (WeightedScores(id_a, a), WeightedScores(id_b, b), size, np.random.default_rng([seed, 1 + i]))
        for i, (a, b, size) in enumerate(zip(oods_a, oods_b, sizes, strict=True))
    ]
    collected: list[list[tuple[dict[str, Floats], dict[str, Floats]]]] = [[] for _ in curves]
    step = max(1, _BLOCK // (inside + max(sizes)))
    blocks = [min(step, count - start) for start in range(0, count, step)]
    for rows in [0, *blocks]:  # the first pass is the data itself
        id_weights = _weights(rng_id, inside, rows)
        for found, (a, b, size, rng) in zip(collected, curves, strict=True):
            ood_weights = _weights(rng, size, rows)
            found.append((a.measures(id_weights, ood_weights), b.measures(id_weights, ood_weights)))
    series = [tuple(_joined([part[k] for part in found]) for k in (0, 1)) for found in collected]
    singles = [{m: difference(a[m], b[m], kind=_kind(m)) for m in MEASURES} for a, b in series]
    means = {
        m: difference(*(np.mean([one[k][m] for one in series], axis=0) for k in (0, 1)), kind=_kind(m))
        for m in MEASURES
    }
    return means, singles


def _joined(parts: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {m: np.concatenate([part[m] for part in parts]) for m in MEASURES}


def _weights(rng: np.random.Generator, samples: int, rows: int) -> Floats:
    return np.concatenate(list(resample_counts(rng, samples, rows))) if rows else np.ones((1, samples))


def _kind(measure: str) -> Kind:
    return "bias_corrected" if measure.startswith("fpr95") else "percentile"
