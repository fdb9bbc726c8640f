"""Selective prediction: what a deployer gains by leaving the least confident images to somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, Metric, Outcome, task
from benchmark.metrics.scores import logits, softmax, top_label
from benchmark.metrics.selective import accuracy_at_coverage, aurc, excess_aurc, risk_coverage, selective_draws
from benchmark.metrics.significance import Comparison, attempt, difference, draws_for
from tasks.figures import risk_coverage_curve

COVERAGE = 0.9
POINTS = 100


@task(
    "selective",
    version=1,
    needs=("test",),
    classes=("test",),
    metrics=[
        Metric("aurc", "lower", headline=True),
        Metric("excess_aurc", "lower"),
        Metric("accuracy_at_coverage_90", "higher"),
        Metric("samples", "neither", unit="count"),
    ],
)
def selective(banks: Banks) -> Outcome:
    """Accuracy among the most confident answers: the risk-coverage curve and the area under it.

    Confidence is the highest softmax probability, float64. `aurc` is the mean error rate over all coverages (Geifman &
    El-Yaniv 2017); `excess_aurc` is what of it a perfect order of the same answers would avoid (Geifman et al. 2019);
    `accuracy_at_coverage_90`: accuracy when the 10 % least confident images are refused. Equal confidences are taken
    in random order on average, so that the order of the images does not matter. Tuning the logit scale changes these
    little, quantization may change them much.
    """
    bank = banks["test"]
    confidence, correct, _ = top_label(softmax(logits(bank.cosines(), bank.logit_scale, bank.logit_bias)), bank.label)
    metrics = {
        "aurc": aurc(confidence, correct),
        "excess_aurc": excess_aurc(confidence, correct),
        "accuracy_at_coverage_90": accuracy_at_coverage(confidence, correct, COVERAGE),
        "samples": float(len(bank)),
    }
    samples = {"sample_id": bank.sample_id, "confidence": confidence, "correct": correct}
    return Outcome(metrics, samples, _curve(confidence, correct))


def _curve(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Table `risk_coverage`: error rate at up to 100 coverages from 1 % on."""
    curve = risk_coverage(confidence, correct)
    rows = np.unique(np.linspace(0, len(correct), POINTS + 1)[1:].round().astype(np.int64).clip(min=1)) - 1
    return {"risk_coverage.coverage": curve.coverage[rows], "risk_coverage.risk": curve.risk[rows]}


@selective.significance
def significance(quantized: Outcome, reference: Outcome) -> Mapping[str, Comparison | str]:
    """Paired bootstrap over images; every resample is ordered anew."""
    draws = draws_for(len(reference.samples["correct"]))
    before, now = (
        selective_draws(o.samples["confidence"], o.samples["correct"], coverage=COVERAGE, draws=draws)
        for o in (reference, quantized)
    )
    keys = {"aurc": "aurc", "excess_aurc": "excess_aurc", "accuracy_at_coverage_90": "accuracy_at_coverage"}
    return {key: attempt(difference, before[name], now[name]) for key, name in keys.items()}


selective.draw(risk_coverage_curve)
