"""Calibration, before and after logit scale tuning."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, Columns, Errors, FeatureBank, Metric, NoOptions, Summary, UndefinedMetric, task
from benchmark.metrics.calibration import (
    adaptive_ece,
    debiased_ece,
    ece,
    ece_floor,
    nll_derivatives,
    overconfidence,
    reliability_bins,
    signed_calibration_error,
    tune_logit_scale,
    underconfidence,
)
from benchmark.metrics.scores import log_softmax, logits, softmax, top_label
from benchmark.metrics.uncertainty import GROUPS

from .figures import reliability, staged

BINS = 15

BIASED = "sampling noise raises it, more where answers are mixed: see ece_15_debiased, brier, signed_calibration_error"
MAXIMUM = "a maximum over bins has no regular error"

_MEASURES = [
    Metric("ece_15", "lower", headline=True, margin=0.01, judged_by="ece_15_debiased", no_interval=BIASED),
    Metric("ece_15_debiased", "lower", margin=0.01),
    Metric("max_calibration_error_15", "lower", margin=0.01, no_interval=MAXIMUM),
    Metric("adaptive_ece_15", "lower", margin=0.01, no_interval=BIASED),
    Metric("brier", "lower", margin=0.01),
    Metric("nll", "lower", unit="nats"),
    Metric("signed_calibration_error", "neither", margin=0.01),
    Metric("overconfidence_15", "lower", margin=0.01, no_interval=BIASED),
    Metric("underconfidence_15", "lower", margin=0.01, no_interval=BIASED),
]
_REPLICATED = ("ece_15", *(measure.name for measure in _MEASURES if not measure.no_interval))


def _at_tuned_scale(measure: Metric) -> Metric:
    """The same measure at the tuned scale; no headline."""
    by = measure.judged_by and f"{measure.judged_by}_tuned"
    return replace(measure, name=f"{measure.name}_tuned", headline=False, judged_by=by)


@task(
    "calibration",
    version=4,
    needs=("test",),
    optional=("fit",),
    classes=("test", "fit"),
    words={"ece_15": "expected calibration error, 15 bins of equal width"},
    metrics=[
        *_MEASURES,
        *map(_at_tuned_scale, _MEASURES),
        Metric("ece_15_floor", "neither", no_interval="it is a reference line, not an estimate"),
        Metric("logit_scale", "neither", unit="scale", no_interval="it is the model's own, not an estimate"),
        Metric("logit_scale_tuned", "neither", unit="scale"),
        Metric("samples", "neither", unit="count"),
    ],
)
def calibration(banks: Banks, options: NoOptions) -> Columns:
    """Does a confidence of 0.8 mean that 80 % are right? Before and after refitting the one logit scale.

    Confidence is the highest softmax probability of `logit_scale * cos + logit_bias`, float64. `ece_15`: top-label,
    15 equal-width bins, L1; it is the sum of `overconfidence_15` (bins whose confidence is above their accuracy) and
    `underconfidence_15`. `ece_15_debiased` takes the bias of so few samples off it, and is what decides.
    `signed_calibration_error` is mean confidence minus accuracy: positive is overconfident. `ece_15_floor` is the
    `ece_15` that a perfectly calibrated model with these confidences shows at this N. The tuned values use the scale
    that minimises the NLL on the role `fit` (labelled images, or image-caption pairs whose captions are the classes).
    """
    bank = banks["test"]
    cos = bank.cosines()
    groups = {"test": bank.columns(**_seen(cos, bank, bank.logit_scale))}
    about = {"logit_scale": np.array(bank.logit_scale)}
    if "fit" not in banks:
        return Columns(groups, about | {"untuned": np.array("no data set is bound to the role 'fit'")})
    fit = banks["fit"]
    fit_cos, groups["fit"] = fit.cosines(), fit.columns()
    try:
        tuned = tune_logit_scale(fit_cos, fit.label, fit.logit_bias, fit.logit_scale)
    except UndefinedMetric as reason:
        return Columns(groups, about | {"untuned": np.array(str(reason))})
    if tuned.at_bound:
        why = f"the NLL on '{fit.dataset}' has no minimum inside the bounds of the logit scale"
        return Columns(groups, about | {"untuned": np.array(why)})
    gradient, curvature = nll_derivatives(fit_cos, fit.label, tuned.scale)
    groups["fit"] |= {"gradient": gradient, "curvature": curvature}
    seen, slopes = _seen(cos, bank, tuned.scale), _slopes(cos, bank, tuned.scale)
    groups["test"] |= {f"{name}_tuned": seen[name] for name in _MEASURED}
    groups["test"] |= {f"{name}_tuned_slope": slopes[name] for name in _MEASURED}
    return Columns(groups, about | {"logit_scale_tuned": np.array(tuned.scale), "gradient": gradient.mean()[None]})


_MEASURED = ("confidence", "brier", "nll")


def _seen(cos: NDArray[np.float64], bank: FeatureBank, scale: float) -> dict[str, NDArray[Any]]:
    """Per sample at one logit scale: confidence, whether it is right, Brier score and NLL."""
    log_p = log_softmax(logits(cos, scale, bank.logit_bias))
    p = np.exp(log_p)
    confidence, correct, _ = top_label(p, bank.label)
    own = np.arange(len(bank)), bank.label
    return {
        "confidence": confidence,
        "correct": correct,
        "brier": np.sum(p**2, axis=1) - 2.0 * p[own] + 1.0,
        "nll": -log_p[own],
    }


def _slopes(cos: NDArray[np.float64], bank: FeatureBank, scale: float) -> dict[str, NDArray[np.float64]]:
    """Derivatives of the same in the logarithm of the scale: of each p it is `p * scale * (cos - sum p cos)`."""
    p = softmax(logits(cos, scale, bank.logit_bias))
    slope = p * scale * (cos - (p * cos).sum(axis=1, keepdims=True))
    rows = np.arange(len(bank))
    return {
        "confidence": slope[rows, p.argmax(axis=1)],
        "brier": 2.0 * ((p * slope).sum(axis=1) - slope[rows, bank.label]),
        "nll": nll_derivatives(cos, bank.label, scale)[0],
    }


def _tuned(columns: Columns, rows: slice | NDArray[np.bool_] = slice(None)) -> dict[str, NDArray[np.float64]] | None:
    """What `_seen` gives of some test images at the scale that `fit` asks for; None where it could not be tuned."""
    if "untuned" in columns.about:
        return None
    test, step = columns["test"], _newton_step(columns)
    moved = {name: test[f"{name}_tuned"][rows] + step * test[f"{name}_tuned_slope"][rows] for name in _MEASURED}
    return moved | {"confidence": moved["confidence"].clip(0.0, 1.0)}


@calibration.tables
def tables(columns: Columns, options: NoOptions) -> dict[str, NDArray[Any]]:
    """Reliability bins before and after tuning; netcal, which brings torch, is not needed for them."""
    test, tuned = columns["test"], _tuned(columns)
    found = _bins(test["confidence"], test["correct"])
    if tuned is not None:
        bins = _bins(tuned["confidence"], test["correct"])
        found |= {f"{name}_tuned": table for name, table in bins.items()}
    return found


@calibration.summarise
def summarise(columns: Columns, options: NoOptions) -> Summary:
    """Errors before and after tuning; without some samples of `fit`, the scale is tuned again by one Newton step."""
    test, about = columns["test"], columns.about
    metrics = _measures({name: test[name] for name in _MEASURED}, test["correct"])
    metrics |= {"logit_scale": float(about["logit_scale"]), "samples": float(len(test["correct"]))}
    metrics["ece_15_floor"] = ece_floor(test["confidence"], bins=BINS)
    tuned, bins = _tuned(columns), tables(columns, options)
    if tuned is None:
        return Summary(metrics, bins, {"logit_scale_tuned": str(about["untuned"])})
    metrics |= {f"{name}_tuned": value for name, value in _measures(tuned, test["correct"]).items()}
    metrics["logit_scale_tuned"] = _tuned_scale(columns)
    return Summary(metrics, bins)


def _tuned_scale(columns: Columns) -> float:
    """The logit scale that the samples of `fit` ask for."""
    return float(columns.about["logit_scale_tuned"]) * math.exp(_newton_step(columns))


def _newton_step(columns: Columns) -> float:
    """How far the best logarithm of the scale lies from the tuned one; 0 exactly while no sample of `fit` is missing.

    The search leaves a gradient of its own tolerance, which counts as none: only a difference to it moves the scale.
    """
    fit = columns["fit"]
    return -float((fit["gradient"].mean() - columns.about["gradient"][0]) / fit["curvature"].mean())


def _netcal(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, float]:
    """`ece_15` and `max_calibration_error_15` by netcal: confidence of the predicted class against whether it is right.

    As a binary problem, which is the same number for any count of classes and avoids netcal's traps (logits, float32,
    two labels that turn many classes into a binary problem). `benchmark.metrics.calibration` holds the same formulas,
    and is tested to agree.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in docstrings of netcal, deprecations of what it imports
        from netcal.metrics import ECE, MCE
    hits = correct.astype(np.int64)
    return {
        "ece_15": float(ECE(BINS).measure(confidence, hits)),
        "max_calibration_error_15": float(MCE(BINS).measure(confidence, hits)),
    }


def _measures(seen: Mapping[str, NDArray[np.float64]], correct: NDArray[np.bool_]) -> dict[str, float]:
    """Metrics at one logit scale."""
    confidence = seen["confidence"]
    return {
        **_netcal(confidence, correct),
        "ece_15_debiased": debiased_ece(confidence, correct, BINS),
        "adaptive_ece_15": adaptive_ece(confidence, correct, BINS),
        "brier": float(seen["brier"].mean()),
        "nll": float(seen["nll"].mean()),
        "signed_calibration_error": signed_calibration_error(confidence, correct),
        "overconfidence_15": overconfidence(confidence, correct, BINS),
        "underconfidence_15": underconfidence(confidence, correct, BINS),
    }


def _bins(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Reliability bins at one logit scale."""
    bins = reliability_bins(confidence, correct, BINS)
    return {
        "bin_edges": bins.edges,
        "bin_confidence": bins.confidence,
        "bin_accuracy": bins.accuracy,
        "bin_count": bins.count,
    }


@calibration.errors
def errors(columns: Columns, options: NoOptions, groups: Mapping[str, NDArray[Any]]) -> Errors:
    """Every measure that has an interval, without each group; the scale is tuned again without its pictures."""
    test, found = columns["test"], {}
    rows = []
    for group in range(GROUPS):
        kept = groups["test"] != group
        values = _judged({name: test[name][kept] for name in _MEASURED}, test["correct"][kept])
        left = columns.take({"fit": groups["fit"] != group} if "fit" in columns else {})
        if (tuned := _tuned(left, kept)) is not None:
            judged = _judged(tuned, test["correct"][kept])
            values |= {f"{name}_tuned": value for name, value in judged.items()}
            values["logit_scale_tuned"] = _tuned_scale(left)
        rows.append(values)
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Errors(replicates=found)


def _judged(seen: Mapping[str, NDArray[np.float64]], correct: NDArray[np.bool_]) -> dict[str, float]:
    """The measures that have replicates: of `ece_15` for the search alone."""
    if not len(correct):
        return dict.fromkeys(_REPLICATED, math.nan)
    return {
        "ece_15": ece(seen["confidence"], correct, BINS),
        "ece_15_debiased": debiased_ece(seen["confidence"], correct, BINS),
        "brier": float(seen["brier"].mean()),
        "nll": float(seen["nll"].mean()),
        "signed_calibration_error": signed_calibration_error(seen["confidence"], correct),
    }


@calibration.draw
def draw(summary: Summary, reference: Summary | None) -> Mapping[str, Any]:
    """Each point is a bin of confidence; on the diagonal a confidence of 0.8 means that 80 % are right; below it the
    model is too sure. Arrows lead each bin from full precision to the quantized model and on to the one with the logit
    scale refitted. The area is the share of images. ECE, the expected calibration error: mean distance from the
    diagonal (lower is better).
    """
    stages = [(label, stage, "") for label, stage in staged(summary, reference).items()]
    bins = {}
    for label, stage, suffix in [*stages, ("tuned", summary, "_tuned")]:
        if f"bin_count{suffix}" in stage.tables:
            parts = [stage.tables[f"bin_{part}{suffix}"] for part in ("confidence", "accuracy", "count")]
            bins[f"{label} (ECE {stage.metrics[f'ece_15{suffix}']:.3f})"] = np.stack(parts, axis=1)
    return {"reliability": reliability(bins)}
