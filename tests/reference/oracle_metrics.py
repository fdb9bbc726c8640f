"""The metrics of the six tasks from `Seen`, by their definitions in docs/conventions.md: see oracle_features.py.

What has a zero denominator has no key. Undefined beside these: the tuned values where no logit scale is best.
"""

import math
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import erf, expit, logsumexp, softmax
from sklearn import metrics as sk

from tests.reference.oracle_features import Seen, unit


def zero_shot(test: Seen) -> dict[str, Any]:
    """Top 1, top 5 of more than five classes, mean recall of the classes present."""
    order, label = np.argsort(-test.cos(), axis=1), test.label
    found = {"accuracy": np.mean(order[:, 0] == label), "samples": len(label)}
    found["mean_per_class_recall"] = sk.recall_score(label, order[:, 0], labels=np.unique(label), average="macro")
    return found | ({"accuracy_top5": np.mean((order[:, :5] == label[:, None]).any(1))} if len(test.names) > 5 else {})


def moved(test: Seen, full: Seen) -> dict[str, Any]:
    """Predictions against full precision's."""
    now, before = test.cos().argmax(1), full.cos().argmax(1)
    right, was = now == test.label, before == test.label
    found = {"agreement": now == before, "flips_right_to_wrong": was & ~right, "flips_wrong_to_right": right & ~was}
    return {name: shares.mean() for name, shares in found.items()}


def calibration(test: Seen, fit: Seen | None, draws: int = 300) -> dict[str, Any]:
    """At the model's own logit scale, and at the one with the lowest NLL on `fit` if that lies in [0.01, 10000]."""
    found = calibrated(test.cos(), test.label, test.scale) | {"samples": len(test.label), "logit_scale": test.scale}
    confidence, rng = softmax(test.scale * test.cos(), axis=1).max(1), np.random.default_rng(1)
    drawn = [binned(confidence, rng.random(len(confidence)) < confidence) for _ in range(draws)]
    found["ece_15_floor"] = np.mean([sum(abs(w * gap) for w, gap, _ in bins) for bins in drawn])
    if fit is None:
        return found
    cos, own = fit.cos(), fit.cos()[np.arange(len(fit.label)), fit.label]
    slope = lambda log_s: ((softmax(math.exp(log_s) * cos, axis=1) * cos).sum(1) - own).mean()  # noqa: E731
    ends = math.log(1e-2), math.log(1e4)
    if not slope(ends[0]) < 0 < slope(ends[1]):
        return found
    scale = math.exp(brentq(slope, *ends, xtol=1e-12))
    tuned = calibrated(test.cos(), test.label, scale)
    return found | {f"{name}_tuned": value for name, value in tuned.items()} | {"logit_scale_tuned": scale}


def calibrated(cos: Any, label: Any, scale: float) -> dict[str, Any]:
    """Top-label calibration errors, Brier score (over all classes) and NLL."""
    p = softmax(scale * cos, axis=1)
    confidence, hit, n = p.max(1), p.argmax(1) == label, len(p)
    share, gap, right = np.array(binned(confidence, hit)).T
    gaps, error = share * gap, np.sqrt(right * (1 - right) / (share * n)).clip(min=1e-12)
    z = np.abs(gap) / error  # what a gap of this size measures on average (folded normal; Kumar et al. 2019)
    chance = error * math.sqrt(2 / math.pi) * np.exp(-z * z / 2) + np.abs(gap) * erf(z / math.sqrt(2))
    rank = np.argsort(np.argsort(confidence))
    mass = [(confidence - hit)[rank * 15 // n == k].sum() / n for k in range(15)]
    return {
        "ece_15": np.abs(gaps).sum(),
        "ece_15_debiased": (share * (2 * np.abs(gap) - chance)).sum(),
        "max_calibration_error_15": np.abs(gap).max(),
        "adaptive_ece_15": np.abs(mass).sum(),
        "brier": ((p - np.eye(p.shape[1])[label]) ** 2).sum(1).mean(),
        "nll": (logsumexp(scale * cos, axis=1) - scale * cos[np.arange(n), label]).mean(),
        "signed_calibration_error": confidence.mean() - hit.mean(),
        "overconfidence_15": gaps.clip(min=0).sum(),
        "underconfidence_15": -gaps.clip(max=0).sum(),
    }


def binned(confidence: Any, hit: Any) -> list[tuple[float, float, float]]:
    """Share of the images, confidence minus accuracy, and accuracy of each occupied bin of 15 of equal width."""
    index = np.minimum(confidence * 15, 14).astype(int)
    masks = [index == k for k in np.unique(index)]
    return [(mask.mean(), confidence[mask].mean() - hit[mask].mean(), hit[mask].mean()) for mask in masks]


def ood(known: Seen, others: dict[str, Seen], scores: list[str], negatives: Any, share: float) -> dict[str, Any]:
    """Each measure of each score on each data set, and the means over the data sets."""
    found: dict[str, Any] = {}
    for name in scores:
        inside = scored(name, known, known, negatives, share)
        each = {key: detected(inside, scored(name, bank, known, negatives, share)) for key, bank in others.items()}
        found |= {f"{key}/{name}/{measure}": v for key, some in each.items() for measure, v in some.items()}
        found |= {f"{name}/{m}": np.mean([some[m] for some in each.values()]) for m in next(iter(each.values()))}
    return found


def scored(name: str, bank: Seen, known: Seen, negatives: Any, share: float) -> Any:
    """One OOD score of each image, higher in distribution."""
    s = bank.cos(known.text)
    x, p = known.scale * s, softmax(known.scale * s, axis=1)
    if name == "neg_label":  # of the farthest negatives: by the 95th percentile of their cosines with the classes
        near = np.quantile(unit(negatives) @ unit(known.text).T, 0.95, axis=1)
        kept = negatives[np.argsort(near)[: max(1, round(share * len(near)))]]
        return expit(logsumexp(x, axis=1) - logsumexp(known.scale * bank.cos(kept), axis=1))  # share of the classes
    every = {"msp": p.max(1), "mcm": softmax(s, axis=1).max(1), "max_logit": s.max(1), "energy": logsumexp(x, axis=1)}
    return (every | {"negative_entropy": (p * np.log(p)).sum(1)})[name]


def detected(inside: Any, outside: Any) -> dict[str, Any]:
    """scikit-learn's curves; OpenOOD's FPR95 (OOD positive) and MCM's (ID positive, the share nearest to 95 %)."""
    truth, score = np.r_[np.ones(len(inside)), np.zeros(len(outside))], np.r_[inside, outside]
    caught, kept = (sk.roc_curve(t, v, drop_intermediate=False)[:2] for t, v in ((1 - truth, -score), (truth, score)))
    loose = np.arange(np.argmax(kept[1] == 1), -1, -1)
    curves = {
        side: sk.precision_recall_curve(t, v)[:2] for side, t, v in (("in", truth, score), ("out", 1 - truth, -score))
    }
    return {
        "auroc": sk.roc_auc_score(truth, score),
        "aupr_in": sk.average_precision_score(truth, score),
        "aupr_out": sk.average_precision_score(1 - truth, -score),
        "aupr_in_trapezoid": sk.auc(curves["in"][1], curves["in"][0]),
        "aupr_out_trapezoid": sk.auc(curves["out"][1], curves["out"][0]),
        "fpr95_ood_positive": caught[0][np.argmax(caught[1] >= 0.95)],
        "fpr95_id_positive": kept[0][loose[np.argmin(np.abs(kept[1][loose] - 0.95))]],
    }


def accuracy(bank: Seen) -> Any:
    """Top 1."""
    return np.mean(bank.cos().argmax(1) == bank.label)


def ratio(name: str, above: Any, below: Any) -> dict[str, Any]:
    """Nothing where the denominator is zero."""
    return {name: above / below} if below != 0 else {}


def corruption(clean: Seen, variants: dict[tuple[str, int], Seen]) -> dict[str, Any]:
    """Means over severities, then over types; clean accuracy on the same images."""
    each = {key: accuracy(bank) for key, bank in variants.items()}
    kinds, base = sorted({kind for kind, _ in each}), next(iter(variants.values()))
    found = {f"{kind}/{severity}/accuracy": value for (kind, severity), value in each.items()}
    found |= {f"{k}/accuracy": np.mean([v for (kind, _), v in each.items() if kind == k]) for k in kinds}
    found |= {f"severity_{s}/accuracy": np.mean([v for (_, t), v in each.items() if t == s]) for _, s in each}
    found["accuracy"] = np.mean([found[f"{kind}/accuracy"] for kind in kinds])
    hits = dict(zip(clean.ids, clean.cos().argmax(1) == clean.label, strict=True))
    found |= {"clean_accuracy": np.mean([hits[key] for key in base.ids]), "samples": len(base.ids)}
    return found | ratio("relative_robustness", found["accuracy"], found["clean_accuracy"])


def corruption_error(variants: dict[tuple[str, int], Seen], full: dict[tuple[str, int], Seen]) -> dict[str, Any]:
    """Mean over types of the errors summed over severities, relative to full precision's."""
    errors = [
        {k: sum(1 - accuracy(b) for (t, _), b in some.items() if t == k) for k, _ in some} for some in (variants, full)
    ]
    if 0 in errors[1].values():
        return {}
    return {"mean_corruption_error_fp32": np.mean([errors[0][kind] / errors[1][kind] for kind in errors[0]])}


def covariate_shift(source: Seen, shifted: dict[str, Seen]) -> dict[str, Any]:
    """The source's images of the classes of which the shifted data have images, over the shifted data's classes."""
    found: dict[str, Any] = {}
    for name, bank in shifted.items():
        there = [bank.names.index(n) if n in bank.names else -1 for n in source.names]
        label = np.array([there[y] if there[y] in bank.label else -1 for y in source.label])
        before = np.mean((source.cos(bank.text).argmax(1) == label)[label >= 0])
        own = {"accuracy": accuracy(bank), "source_accuracy": before, "gap": before - accuracy(bank)}
        own |= ratio("relative_gap", own["gap"], before)
        found |= {f"{name}/{key}": value for key, value in own.items()} | {f"{name}/samples": len(bank.ids)}
    keys = ("accuracy", "source_accuracy", "gap", "relative_gap")
    every = {key: [found[f"{name}/{key}"] for name in shifted if f"{name}/{key}" in found] for key in keys}
    return found | {key: np.mean(values) for key, values in every.items() if len(values) == len(shifted)}


def spurious(common: Seen, counter: Seen) -> dict[str, Any]:
    """Accuracies on both backgrounds, relative gap, and by group over both sets."""
    a, b = accuracy(common), accuracy(counter)
    found = {"accuracy_common": a, "accuracy_counter": b, "gap": a - b} | ratio("rsg", a - b, a)
    found |= {"samples_common": len(common.ids), "samples_counter": len(counter.ids)}
    if None in common.group or None in counter.group:
        return found
    hits = np.concatenate([bank.cos().argmax(1) == bank.label for bank in (common, counter)])
    groups = np.concatenate([common.group, counter.group])
    each = [hits[groups == group].mean() for group in np.unique(groups)]
    return found | {"worst_group_accuracy": min(each), "mean_group_accuracy": np.mean(each)}


def vulnerability(common: Seen, counter: Seen, full: tuple[Seen, Seen]) -> dict[str, Any]:
    """rsg(q) - rsg(f), and the loss on counter backgrounds beyond that on common ones."""
    a, b, c, d = (accuracy(bank) for bank in (*full, common, counter))
    gaps = {"delta_rsg": (c - d) / c - (a - b) / a} if a and c else {}
    return gaps | ({"vuln_add": (b - d) / b - (a - c) / a} if a and b else {})
