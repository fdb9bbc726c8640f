"""Detection measures without each group of pictures, from one sort of the scores.

Every score is higher in distribution. Leaving a group out of AUROC and AUPR is exact, as if the measure were taken of
what is left; FPR95 moves by the influence of the samples that are left out (`fpr95`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmark.errors import UndefinedMetric
from benchmark.metrics.arrays import Floats, Ints, as_vector
from benchmark.metrics.detection import detection_measures
from benchmark.metrics.fpr95 import fpr95_influences
from benchmark.metrics.uncertainty import GROUPS


def detection_replicates(
    id_scores: npt.ArrayLike, id_groups: Ints, ood_scores: npt.ArrayLike, ood_groups: Ints
) -> dict[str, Floats]:
    """Measure -> (GROUPS,) its value without each group; NaN where nothing of one side is left.

    Args: id_scores (M,), ood_scores (N,); id_groups (M,), ood_groups (N,) in [0, GROUPS).
    """
    inside, outside = as_vector(id_scores, "in-distribution scores"), as_vector(ood_scores, "OOD scores")
    cuts, place = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    known, unknown = (
        np.bincount(at * GROUPS + groups, minlength=len(cuts) * GROUPS).reshape(len(cuts), GROUPS)
        for at, groups in ((place[: len(inside)], id_groups), (place[len(inside) :], ood_groups))
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 where a side is left with nothing: NaN
        found = {"auroc": _auroc(known, unknown)}
        for name, positive, negative in (("in", known[::-1], unknown[::-1]), ("out", unknown, known)):
            found |= {f"aupr_{name}{suffix}": values for suffix, values in _aupr(positive, negative).items()}
    values = detection_measures(inside, outside)
    sides = {"fpr95_id_positive": (inside, id_groups, outside, ood_groups)}
    sides["fpr95_ood_positive"] = -outside, ood_groups, -inside, id_groups
    return found | {name: _without(values[name], *side) for name, side in sides.items()}


def _auroc(known: Ints, unknown: Ints) -> Floats:
    """(GROUPS,) from counts (T, GROUPS) at each distinct score: pairs won, less those with a member of the group."""
    below = np.cumsum(unknown, axis=0) - unknown / 2.0
    won = known.T.astype(np.float64) @ below
    left = won.sum() - won.sum(axis=0) - won.sum(axis=1) + np.diag(won)
    return np.asarray(left / (_rest(known) * _rest(unknown)), dtype=np.float64)


def _rest(counts: Ints) -> Ints:
    """(GROUPS,) samples that are left without each group."""
    return np.asarray(counts.sum() - counts.sum(axis=0), dtype=np.int64)


def _aupr(positive: Ints, negative: Ints) -> dict[str, Floats]:
    """Average precision and the trapezoid, from counts (T, GROUPS) from the strictest cut-off to the loosest."""
    every_true, every_false = (np.cumsum(counts.sum(axis=1)) for counts in (positive, negative))
    rows = []
    for group in range(positive.shape[1]):
        true = every_true - np.cumsum(positive[:, group])
        accepted = true + every_false - np.cumsum(negative[:, group])
        precision = np.where(accepted > 0, true / accepted, 1.0)
        recall = true / true[-1]
        trapezoid = np.trapezoid(np.append(1.0, precision), np.append(0.0, recall))
        rows.append((np.sum(np.diff(recall, prepend=0.0) * precision), trapezoid))
    averages, trapezoids = np.array(rows).T
    return {"": averages, "_trapezoid": trapezoids}


def _without(value: float, positive: Floats, own: Ints, negative: Floats, others: Ints) -> Floats:
    """`value - sum of the group's influences / (n - n_g)`, the influences centred, on either side."""
    try:
        influences = fpr95_influences(positive, negative)
    except UndefinedMetric:
        return np.full(GROUPS, np.nan)
    left = np.full(GROUPS, value)
    for influence, groups in zip(influences, (own, others), strict=True):
        count = np.bincount(groups, minlength=GROUPS)
        total = np.bincount(groups, weights=influence - influence.mean(), minlength=GROUPS)
        with np.errstate(divide="ignore", invalid="ignore"):
            left -= total / (len(influence) - count)
    return left
