"""Calibration, before and after logit scale tuning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, FeatureBank, Metric, Outcome, UndefinedMetric, task
from benchmark.metrics.calibration import (
    adaptive_ece,
    bin_index,
    brier,
    ece_floor,
    nll,
    overconfidence,
    reliability_bins,
    signed_calibration_error,
    tune_logit_scale,
    underconfidence,
)
from benchmark.metrics.scores import log_softmax, logits, top_label
from benchmark.metrics.significance import Comparison, attempt, difference, draws_for, sum_draws
from tasks.figures import reliability

BINS = 15

_MEASURES = [
    Metric("ece_15", "lower", headline=True),
    Metric("mce_15", "lower"),
    Metric("adaptive_ece_15", "lower"),
    Metric("brier", "lower"),
    Metric("nll", "lower", unit="nats"),
    Metric("signed_calibration_error", "neither"),
    Metric("overconfidence_15", "lower"),
    Metric("underconfidence_15", "lower"),
]


@task(
    "calibration",
    version=2,
    needs=("test",),
    optional=("fit",),
    classes=("test", "fit"),
    metrics=[
        *_MEASURES,
        *(Metric(f"{m.name}_tuned", m.better, m.unit, headline=m.headline) for m in _MEASURES),
        Metric("ece_15_floor", "neither"),
        Metric("logit_scale", "neither", unit="scale"),
        Metric("logit_scale_tuned", "neither", unit="scale"),
        Metric("samples", "neither", unit="count"),
    ],
)
def calibration(banks: Banks) -> Outcome:
    """Does a confidence of 0.8 mean that 80 % are right? Before and after refitting the one logit scale.

    Confidence is the highest softmax probability of `logit_scale * cos + logit_bias`, float64. `ece_15`: top-label,
    15 equal-width bins, L1; it is the sum of `overconfidence_15` (bins whose confidence is above their accuracy) and
    `underconfidence_15`. `signed_calibration_error` is mean confidence minus accuracy: positive is overconfident.
    `ece_15_floor` is the `ece_15` that a perfectly calibrated model with these confidences shows at this N. The tuned
    values use the scale that minimises the NLL on the role `fit` (labelled images, or image-caption pairs whose
    captions are the classes).
    """
    bank = banks["test"]
    metrics, samples, tables = _measures(bank, bank.logit_scale)
    metrics |= {"logit_scale": bank.logit_scale, "samples": float(len(bank))}
    metrics["ece_15_floor"] = ece_floor(samples["confidence"], bins=BINS)
    notes: dict[str, str] = {}
    try:
        scale = _tuned_scale(banks)
    except UndefinedMetric as reason:
        notes["logit_scale_tuned"] = str(reason)
    else:
        tuned, tuned_samples, tuned_tables = _measures(bank, scale)
        metrics |= {f"{name}_tuned": value for name, value in tuned.items()} | {"logit_scale_tuned": scale}
        samples |= {f"{name}_tuned": tuned_samples[name] for name in ("confidence", "brier", "nll")}
        tables |= {f"{name}_tuned": value for name, value in tuned_tables.items()}
    return Outcome(metrics, {"sample_id": bank.sample_id, **samples}, tables, notes)


def _tuned_scale(banks: Banks) -> float:
    """The scale with the lowest NLL on the calibration data.

    Raises:
        UndefinedMetric: no calibration data is bound, or no finite scale is best there.
    """
    if "fit" not in banks:
        raise UndefinedMetric("no data set is bound to the role 'fit'")
    fit = banks["fit"]
    tuned = tune_logit_scale(fit.cosines(), fit.label, fit.logit_bias, fit.logit_scale)
    if tuned.at_bound:
        raise UndefinedMetric(f"the NLL on '{fit.dataset}' has no minimum inside the bounds of the logit scale")
    return tuned.scale


def _netcal(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, float]:
    """`ece_15` and `mce_15` by netcal, on the confidence of the predicted class against whether it is right.

    As a binary problem, which is the same number for any count of classes and avoids netcal's traps (logits, float32,
    two labels that turn many classes into a binary problem). `benchmark.metrics.calibration` holds the same formulas,
    vectorised for the bootstrap, and is tested to agree.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in docstrings of netcal, deprecations of what it imports
        from netcal.metrics import ECE, MCE
    hits = correct.astype(np.int64)
    return {"ece_15": float(ECE(BINS).measure(confidence, hits)), "mce_15": float(MCE(BINS).measure(confidence, hits))}


def _measures(bank: FeatureBank, scale: float) -> tuple[dict[str, float], dict[str, Any], dict[str, NDArray[Any]]]:
    """Metrics, per-sample columns and reliability bins at one logit scale."""
    log_p = log_softmax(logits(bank.cosines(), scale, bank.logit_bias))
    p = np.exp(log_p)
    confidence, correct, _ = top_label(p, bank.label)
    metrics = {
        **_netcal(confidence, correct),
        "adaptive_ece_15": adaptive_ece(confidence, correct, BINS),
        "brier": brier(p, bank.label),
        "nll": nll(log_p, bank.label),
        "signed_calibration_error": signed_calibration_error(confidence, correct),
        "overconfidence_15": overconfidence(confidence, correct, BINS),
        "underconfidence_15": underconfidence(confidence, correct, BINS),
    }
    bins = reliability_bins(confidence, correct, BINS)
    tables = {
        "bin_edges": bins.edges,
        "bin_confidence": bins.confidence,
        "bin_accuracy": bins.accuracy,
        "bin_count": bins.count,
    }
    own = np.arange(len(bank)), bank.label
    samples = {
        "confidence": confidence,
        "correct": correct,
        "brier": np.sum(p**2, axis=1) - 2.0 * p[own] + 1.0,
        "nll": -log_p[own],
    }
    return metrics, samples, tables


@calibration.significance
def significance(quantized: Outcome, reference: Outcome) -> Mapping[str, Comparison | str]:
    """Paired bootstrap over images of all measures at once, before and after tuning.

    The equal-mass bins of `adaptive_ece_15` stay those of the full sample. `mce_15` gets no interval: a maximum over
    bins of changing membership has no regular bootstrap distribution.
    """
    found: dict[str, Comparison | str] = {}
    for suffix in ("", "_tuned"):
        if f"confidence{suffix}" not in quantized.samples or f"confidence{suffix}" not in reference.samples:
            continue
        sums = [_resampled(outcome, suffix) for outcome in (reference, quantized)]
        found |= {f"{name}{suffix}": attempt(difference, sums[0][name], sums[1][name]) for name in sums[0]}
        found[f"mce_15{suffix}"] = "a maximum over bins has no regular bootstrap distribution"
    return found


def _resampled(outcome: Outcome, suffix: str) -> dict[str, NDArray[np.float64]]:
    """(1 + B,) values of each measure: observed, then on the resamples, which are the same for every outcome."""
    confidence = outcome.samples[f"confidence{suffix}"]
    gap = confidence - outcome.samples["correct"]
    n = len(gap)
    rank = np.searchsorted(np.sort(confidence), confidence, side="left")
    equal_width, equal_mass = np.zeros((n, BINS)), np.zeros((n, BINS))
    equal_width[np.arange(n), bin_index(confidence, BINS)] = gap
    equal_mass[np.arange(n), rank * BINS // n] = gap
    means = np.stack([outcome.samples[f"brier{suffix}"], outcome.samples[f"nll{suffix}"], gap], axis=1)
    tables = (equal_width, equal_mass, means)
    drawn = sum_draws(*tables, draws=draws_for(n))
    width, mass, mean = (
        np.concatenate([table.sum(axis=0)[None], sums]) / n for table, sums in zip(tables, drawn, strict=True)
    )
    return {
        "ece_15": np.abs(width).sum(axis=1),
        "adaptive_ece_15": np.abs(mass).sum(axis=1),
        "brier": mean[:, 0],
        "nll": mean[:, 1],
        "signed_calibration_error": mean[:, 2],
        "overconfidence_15": width.clip(min=0.0).sum(axis=1),
        "underconfidence_15": (-width).clip(min=0.0).sum(axis=1),
    }


calibration.draw(reliability)
