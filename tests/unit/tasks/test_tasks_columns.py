"""What tasks put into columns so that `summarise` can do without banks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import Banks, NoOptions
from benchmark.metrics import detection
from benchmark.metrics.classification import class_recalls, correct, mean_per_class_recall
from benchmark.metrics.logit_scale import nll_derivatives, tune_logit_scale
from benchmark.testing import make_bank
from tasks.calibration import calibration
from tasks.covariate_shift import covariate_shift
from tests.unit.tasks.test_tasks_values import hard_bank

TUNED = {"logit_scale_tuned": 0.05, "signed_calibration_error_tuned": 0.05, "nll_tuned": None, "brier_tuned": None}
"""Metric -> error of the step, as a share of the move; None for those that hardly move, being near their minimum."""


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_scale_is_tuned_again_by_one_newton_step(seed: int) -> None:
    """Without a 64th of the fit set: far nearer to the exact answer than the answer moved."""
    banks = Banks({"test": [hard_bank(seed)], "fit": [hard_bank(seed + 10, samples=640)]})
    columns = calibration.run_observe(banks)
    kept = np.arange(640) % 64 != seed
    whole = calibration.run_summarise(columns, NoOptions()).metrics
    stepped = calibration.run_summarise(columns.take({"fit": kept}), NoOptions()).metrics
    exact = calibration.run(Banks({"test": [banks["test"]], "fit": [banks["fit"].take(kept)]})).metrics
    for key, share in TUNED.items():
        allowed = 2e-5 if share is None else share * abs(exact[key] - whole[key])
        assert abs(stepped[key] - exact[key]) < allowed, key


def test_the_whole_fit_set_gives_the_tuned_scale_itself() -> None:
    """Not up to the tolerance of the search: bit for bit."""
    fit = hard_bank(11, samples=500)
    outcome = calibration.run(Banks({"test": [hard_bank(0)], "fit": [fit]}))
    tuned = tune_logit_scale(fit.cosines(), fit.label, fit.logit_bias, fit.logit_scale)
    assert outcome.metrics["logit_scale_tuned"] == tuned.scale
    assert outcome.metrics["nll_tuned"] == outcome.columns["test"]["nll_tuned"].mean()


def test_derivatives_of_the_nll_against_differences() -> None:
    bank = hard_bank(0, samples=50)
    cos, step = bank.cosines(), 1e-4

    def loss(log_scale: float) -> np.ndarray:
        logits = np.exp(log_scale) * cos
        rows = np.arange(50), bank.label
        return np.log(np.exp(logits).sum(axis=1)) - logits[rows]

    at = np.log(20.0)
    below, here, above = (loss(at + shift) for shift in (-step, 0.0, step))
    gradient, curvature = nll_derivatives(cos, bank.label, 20.0)
    np.testing.assert_allclose(gradient, (above - below) / (2 * step), atol=1e-5)
    np.testing.assert_allclose(curvature, (above - 2 * here + below) / step**2, atol=1e-4)


scores = st.lists(st.integers(-5, 5).map(float) | st.floats(-3, 3), min_size=1, max_size=40)


@given(scores, scores)
@settings(max_examples=200, deadline=None)
def test_all_measures_from_one_sort_are_those_of_the_functions(inside: list[float], outside: list[float]) -> None:
    found = detection.detection_measures(inside, outside)
    assert found.pop("ties") == detection.tie_count([*inside, *outside])
    for name, value in found.items():
        assert value == getattr(detection, name)(inside, outside), name


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_recalls_of_hits_are_those_of_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, classes = rng.integers(1, 60), rng.integers(1, 12)
    cos, label = rng.random((count, classes)), rng.integers(0, classes, count)
    assert class_recalls(correct(cos, label), label).mean() == mean_per_class_recall(cos, label)


def test_a_class_that_vanishes_from_the_shifted_data_leaves_the_source_too() -> None:
    """The gap is over classes that both have images of: rows that are left decide which those are."""
    bank = make_bank(samples=60, classes=3, accuracy=0.5, dataset="s")
    columns = covariate_shift.run_observe(Banks({"source": [replace(bank, dataset="source")], "shifted": [bank]}))
    kept = bank.label != 2
    fewer = covariate_shift.run_summarise(columns.take({"shifted:s": kept}), NoOptions()).metrics
    rows = bank.take(kept)
    assert fewer["s/source_accuracy"] == (rows.cosines().argmax(axis=1) == rows.label).mean()
    assert fewer["gap"] == 0.0
