"""How well a score tells in-distribution (ID) from out-of-distribution (OOD) samples.

Every score is **higher in distribution**. M ID and N OOD samples; both groups must have at least one. Shares are
fractions in [0, 1]. A cut-off never splits equal scores.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmark.metrics.arrays import Floats, Ints, as_vector, require_fraction

LEVEL = 0.95


def _groups(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    return as_vector(id_scores, "in-distribution scores"), as_vector(ood_scores, "OOD scores")


def auroc(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Probability that an ID sample scores above an OOD sample, equal scores counting half (Mann-Whitney U / MN).

    The same whichever group is called positive. 0.5 for constant scores.

    >>> auroc([3.0, 2.0], [2.0, 1.0])
    0.875
    """
    from scipy.stats import rankdata  # late: the import takes most of a second, a finished sweep needs none

    inside, outside = _groups(id_scores, ood_scores)
    ranks = rankdata(np.concatenate([inside, outside]))
    m, n = len(inside), len(outside)
    return float((ranks[:m].sum() - m * (m + 1) / 2.0) / (m * n))


def accepted_counts(positive: Floats, negative: Floats) -> tuple[Ints, Ints]:
    """How many of each group lie at or above each distinct score, from the strictest cut-off to the loosest.

    Returns true positives (T,) and false positives (T,), T the number of distinct scores in both groups together.
    """
    cuts = np.unique(np.concatenate([positive, negative]))[::-1]
    true = len(positive) - np.searchsorted(np.sort(positive), cuts, side="left")
    false = len(negative) - np.searchsorted(np.sort(negative), cuts, side="left")
    return true.astype(np.int64), false.astype(np.int64)


def _average_precision(true: Ints, false: Ints) -> float:
    gained = np.diff(true, prepend=0) / true[-1]
    return float(np.sum(gained * true / (true + false)))


def _trapezoid(true: Ints, false: Ints) -> float:
    recall = np.concatenate([[0.0], true / true[-1]])
    precision = np.concatenate([[1.0], true / (true + false)])
    return float(np.trapezoid(precision, recall))


def aupr_in(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Average precision with ID positive: `sum_t (R_t - R_{t-1}) P_t` over distinct cut-offs (as scikit-learn)."""
    return _average_precision(*accepted_counts(*_groups(id_scores, ood_scores)))


def aupr_out(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Average precision with OOD positive, cut-offs taken from below."""
    inside, outside = _groups(id_scores, ood_scores)
    return _average_precision(*accepted_counts(-outside, -inside))


def aupr_in_trapezoid(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """OpenOOD's and pytorch-ood's AUPR-IN: trapezoids under the precision-recall curve, which starts at (0, 1)."""
    return _trapezoid(*accepted_counts(*_groups(id_scores, ood_scores)))


def aupr_out_trapezoid(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """OpenOOD's and pytorch-ood's AUPR-OUT; see `aupr_in_trapezoid`."""
    inside, outside = _groups(id_scores, ood_scores)
    return _trapezoid(*accepted_counts(-outside, -inside))


def fpr95_ood_positive(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike, level: float = LEVEL) -> float:
    """Share of ID samples rejected at the strictest cut-off that catches at least 95 % of the OOD samples.

    Rejected is `score <= t`, with t the k-th lowest OOD score and k the first with k / N >= level. This is the
    convention of OpenOOD (v1.5) and pytorch-ood. Constant scores give 1.
    """
    inside, outside = _groups(id_scores, ood_scores)
    require_fraction(level, "level")
    true, false = accepted_counts(-outside, -inside)
    return fpr_at_least(true, false, level)


def fpr95_id_positive(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike, level: float = LEVEL) -> float:
    """Share of OOD samples accepted at the cut-off whose share of ID samples kept is *nearest* to 95 %.

    Accepted is `score >= t`. This is the convention of MCM (Ming et al. 2022) and its successors, after Hendrycks:
    cut-offs are the distinct scores of both groups; of two shares equally near the higher is taken; of several
    cut-offs with the same share below 100 % the loosest, at 100 % the strictest. Constant scores give 1.
    """
    inside, outside = _groups(id_scores, ood_scores)
    require_fraction(level, "level")
    true, false = accepted_counts(inside, outside)
    return fpr_nearest(true, false, level)


def fpr_at_least(true: Ints, false: Ints, level: float) -> float:
    """False positive rate at the first cut-off with a true positive rate of at least `level`."""
    # A quotient of integers is correctly rounded, so 19 / 20 is the same number as 0.95; level * N need not be whole.
    first = int(np.argmax(true / true[-1] >= level))
    return float(false[first] / false[-1])


def fpr_nearest(true: Ints, false: Ints, level: float) -> float:
    """False positive rate at the cut-off with the true positive rate nearest to `level`; see `fpr95_id_positive`."""
    all_kept = int(np.searchsorted(true, true[-1]))
    from_loose = np.arange(all_kept, -1, -1)
    best = from_loose[np.argmin(np.abs(true[from_loose] / true[-1] - level))]
    return float(false[best] / false[-1])


def detection_measures(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> dict[str, float]:
    """All measures of this module by name and `ties` (`tie_count`), from one sort: the numbers of the functions."""
    inside, outside = _groups(id_scores, ood_scores)
    m, n = len(inside), len(outside)
    cuts, counts = np.unique(np.concatenate([inside, outside]), return_counts=True)
    ordered_in, ordered_out = np.sort(inside), np.sort(outside)
    below_in = np.append(np.searchsorted(ordered_in, cuts, side="left"), m)
    below_out = np.append(np.searchsorted(ordered_out, cuts, side="left"), n)
    kept, accepted = (m - below_in[-2::-1]).astype(np.int64), (n - below_out[-2::-1]).astype(np.int64)
    rejected, caught = below_in[1:].astype(np.int64), below_out[1:].astype(np.int64)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0  # of equal scores their mean
    rank_sum = float(np.sum(ranks * np.diff(below_in)))  # exact: halves, far below 2^53
    return {
        "auroc": float((rank_sum - m * (m + 1) / 2.0) / (m * n)),
        "fpr95_ood_positive": fpr_at_least(caught, rejected, LEVEL),
        "fpr95_id_positive": fpr_nearest(kept, accepted, LEVEL),
        "aupr_in": _average_precision(kept, accepted),
        "aupr_out": _average_precision(caught, rejected),
        "aupr_in_trapezoid": _trapezoid(kept, accepted),
        "aupr_out_trapezoid": _trapezoid(caught, rejected),
        "ties": float(counts[counts > 1].sum()),
    }


def tie_count(scores: npt.ArrayLike) -> int:
    """Number of samples that share their value with another sample."""
    _, counts = np.unique(as_vector(scores, "scores"), return_counts=True)
    return int(counts[counts > 1].sum())
