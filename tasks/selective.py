"""Selective prediction: what a deployer gains by leaving the least confident images to somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, Columns, Metric, NoOptions, Summary, task
from benchmark.metrics.scores import logits, softmax, top_label
from benchmark.metrics.selective import accuracy_at_coverage, aurc, excess_aurc, risk_coverage

from .figures import curves, staged

COVERAGE = 0.9
POINTS = 100


@task(
    "selective",
    version=2,
    needs=("test",),
    classes=("test",),
    words={"aurc": "area under the risk-coverage curve"},
    metrics=[
        Metric("aurc", "lower", headline=True),
        Metric("excess_aurc", "lower"),
        Metric("accuracy_at_coverage_90", "higher"),
        Metric("samples", "neither", unit="count"),
    ],
)
def selective(banks: Banks, options: NoOptions) -> Columns:
    """Accuracy among the most confident answers: the risk-coverage curve and the area under it.

    Confidence is the highest softmax probability, float64. `aurc` is the mean error rate over all coverages (Geifman &
    El-Yaniv 2017); `excess_aurc` is what of it a perfect order of the same answers would avoid (Geifman et al. 2019);
    `accuracy_at_coverage_90`: accuracy when the 10 % least confident images are refused. Equal confidences are taken
    in random order on average, so that the order of the images does not matter. Tuning the logit scale changes these
    little, quantization may change them much.
    """
    bank = banks["test"]
    confidence, correct, _ = top_label(softmax(logits(bank.cosines(), bank.logit_scale, bank.logit_bias)), bank.label)
    return Columns({"test": bank.columns(confidence=confidence, correct=correct)})


@selective.summarise
def summarise(columns: Columns, options: NoOptions) -> Summary:
    """Areas under the curve, a point on it, and the curve."""
    confidence, correct = columns["test"]["confidence"], columns["test"]["correct"]
    metrics = {
        "aurc": aurc(confidence, correct),
        "excess_aurc": excess_aurc(confidence, correct),
        "accuracy_at_coverage_90": accuracy_at_coverage(confidence, correct, COVERAGE),
        "samples": float(len(correct)),
    }
    return Summary(metrics, _curve(confidence, correct))


def _curve(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Table `risk_coverage`: error rate at up to 100 coverages from 1 % on."""
    curve = risk_coverage(confidence, correct)
    rows = np.unique(np.linspace(0, len(correct), POINTS + 1)[1:].round().astype(np.int64).clip(min=1)) - 1
    return {"risk_coverage.coverage": curve.coverage[rows], "risk_coverage.risk": curve.risk[rows]}


@selective.draw
def draw(summary: Summary, reference: Summary | None) -> Mapping[str, Any]:
    """Error rate among the most confident answers, over the share of images that are answered; dotted: 90 %."""
    lines = {}
    for label, stage in staged(summary, reference).items():
        curve = stage.tables["risk_coverage.coverage"], stage.tables["risk_coverage.risk"]
        lines[f"{label} (AURC {stage.metrics['aurc']:.3f})"] = curve
    about = ("Risk and coverage", "coverage (share answered)", "error rate among the answered")
    return {"risk_coverage": curves(lines, *about, limits=(0, 1), line_at=COVERAGE)}
