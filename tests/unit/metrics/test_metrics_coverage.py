"""Simulation: a 95 % interval covers the truth in 93-97 % of 1,000 experiments whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm

from benchmark.metrics import calibration, detection
from benchmark.metrics import significance as sig

pytestmark = pytest.mark.slow
EXPERIMENTS = 1_000
Rng = np.random.Generator


def coverage(truth: float, experiment: Callable[[Rng, int], sig.Comparison], seed: int = 0) -> float:
    rng = np.random.default_rng(seed)
    results = [experiment(rng, k) for k in range(EXPERIMENTS)]
    return float(np.mean([r.low - 1e-12 <= truth <= r.high + 1e-12 for r in results]))


def answers(rng: Rng, n: int, right: float, keep: float, gain: float) -> tuple[np.ndarray, np.ndarray]:
    a = rng.random(n) < right
    return a, np.where(a, rng.random(n) < keep, rng.random(n) < gain)


def after(right: float, keep: float, gain: float) -> float:
    return right * keep + (1 - right) * gain


def test_accuracy_difference() -> None:
    truth = after(0.7, 0.9, 0.15) - 0.7

    def experiment(rng: Rng, k: int) -> sig.Comparison:
        return sig.accuracy_difference_interval(*answers(rng, 800, 0.7, 0.9, 0.15), draws=1000, seed=k)

    assert 0.93 <= coverage(truth, experiment) <= 0.97


def test_relative_change() -> None:
    truth = (0.7 - after(0.7, 0.9, 0.15)) / 0.7

    def experiment(rng: Rng, k: int) -> sig.Comparison:
        return sig.relative_change_interval(*answers(rng, 800, 0.7, 0.9, 0.15), draws=1000, seed=k)

    assert 0.93 <= coverage(truth, experiment) <= 0.97


@pytest.mark.parametrize("which", ["rsg", "vuln"])
def test_spurious_gaps(which: str) -> None:
    common, counter = (0.8, 0.93, 0.1), (0.55, 0.85, 0.08)
    q_common, q_counter = after(*common), after(*counter)
    if which == "rsg":
        truth, interval = (0.55 / 0.8) - q_counter / q_common, sig.rsg_difference_interval
    else:
        truth, interval = (1 - q_counter / 0.55) - (1 - q_common / 0.8), sig.vuln_add_interval

    def experiment(rng: Rng, k: int) -> sig.Comparison:
        return interval(answers(rng, 1000, *common), answers(rng, 800, *counter), draws=1000, seed=k)

    assert 0.93 <= coverage(truth, experiment) <= 0.97


def test_delong() -> None:
    truth = norm.cdf(1.4 / np.sqrt(2 * 1.16)) - norm.cdf(1.5 / np.sqrt(2))

    def experiment(rng: Rng, _: int) -> sig.Comparison:
        inside, outside = rng.normal(1.5, 1, 300), rng.normal(0, 1, 500)
        noisy = inside + rng.normal(0, 0.4, 300), outside + 0.1 + rng.normal(0, 0.4, 500)
        return sig.delong(inside, outside, *noisy)

    assert 0.93 <= coverage(truth, experiment) <= 0.97


def test_delong_mean_over_two_data_sets() -> None:
    def area(gap: float, noise: float) -> float:
        return float(norm.cdf(gap / np.sqrt(2 * (1 + noise**2))))

    truth = (area(0.7, 0.4) + area(1.9, 0.4) - area(0.7, 0.0) - area(1.9, 0.0)) / 2

    def experiment(rng: Rng, _: int) -> sig.Comparison:
        plain = [rng.normal(mean, 1, n) for mean, n in ((2.0, 300), (1.3, 400), (0.1, 200))]
        noisy = [x + rng.normal(0, 0.4, len(x)) for x in plain]
        return sig.delong_mean(plain[0], plain[1:], noisy[0], noisy[1:])

    assert 0.93 <= coverage(truth, experiment) <= 0.97


def test_clustered_corruption_difference() -> None:
    truth = norm.cdf(0.3 / np.sqrt(1 + 0.25 + 0.09)) - norm.cdf(0.5 / np.sqrt(1.25))

    def experiment(rng: Rng, k: int) -> sig.Comparison:
        base = rng.normal(0.5, 1, (200, 1))
        a = base + rng.normal(0, 0.5, (200, 20)) > 0
        b = base - 0.2 + rng.normal(0, 0.3, (200, 1)) + rng.normal(0, 0.5, (200, 20)) > 0
        return sig.clustered_difference_interval(a, b, draws=500, seed=k)

    assert 0.93 <= coverage(float(truth), experiment) <= 0.97


def confidences(rng: Rng, n: int) -> tuple[np.ndarray, ...]:
    z = rng.normal(1.2, 1.2, n)
    conf_a, conf_b = (0.5 + 0.5 / (1 + np.exp(-x)) for x in (z, z + rng.normal(0, 0.3, n)))
    hit_a = rng.random(n) < conf_a - 0.08
    hit_b = np.where(rng.random(n) < 0.7, hit_a, rng.random(n) < conf_b - 0.2)
    return conf_a, hit_a, conf_b, hit_b


def test_ece_difference() -> None:
    large = confidences(np.random.default_rng(99), 5_000_000)
    truth = calibration.ece(*large[2:]) - calibration.ece(*large[:2])

    def experiment(rng: Rng, k: int) -> sig.Comparison:
        return sig.ece_difference_interval(*confidences(rng, 2000), draws=400, seed=k)

    assert 0.93 <= coverage(truth, experiment) <= 0.97


def scores(rng: Rng, m: int, n: int, shape: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Two models' paired (ID, OOD) scores: normal, or bounded and skewed as probabilities are."""
    inside, outside = rng.normal(2, 1, m), rng.normal(0, 1, n)
    noisy = inside + rng.normal(0, 0.4, m), outside + rng.normal(0.2, 0.4, n)
    if shape == "probability":
        return tuple(tuple(1 / (1 + np.exp(-1.5 * x)) for x in model) for model in ((inside, outside), noisy))
    return (inside, outside), noisy


@pytest.mark.parametrize("shape", ["normal", "probability"])
@pytest.mark.parametrize("convention", ["ood_positive", "id_positive"])
def test_fpr95_difference(convention: str, shape: str) -> None:
    rule = detection.fpr95_ood_positive if convention == "ood_positive" else detection.fpr95_id_positive
    a, b = scores(np.random.default_rng(99), 4_000_000, 4_000_000, shape)
    truth = rule(*b) - rule(*a)

    def experiment(rng: Rng, _: int) -> sig.Comparison:
        return sig.fpr95_difference_interval(*scores(rng, 1000, 800, shape), convention)

    assert 0.93 <= coverage(truth, experiment) <= 0.97


def test_fpr95_mean_difference_over_two_data_sets() -> None:
    def models(rng: Rng, n: int) -> list[tuple[np.ndarray, list[np.ndarray]]]:
        plain = [rng.normal(mean, 1, n) for mean in (2.0, 0.0, 0.8)]
        noisy = [x + rng.normal(0, 0.4, n) for x in plain]
        return [(inside, list(oods)) for inside, *oods in (plain, noisy)]

    a, b = models(np.random.default_rng(99), 3_000_000)
    rates = [np.mean([detection.fpr95_id_positive(inside, ood) for ood in oods]) for inside, oods in (a, b)]

    def experiment(rng: Rng, _: int) -> sig.Comparison:
        return sig.fpr95_mean_difference_interval(*models(rng, 800), "id_positive")

    assert 0.93 <= coverage(float(rates[1] - rates[0]), experiment) <= 0.97


@pytest.mark.parametrize("measure", ["aupr_in", "aupr_out"])
def test_aupr_difference(measure: str) -> None:
    rule = getattr(detection, measure)
    a, b = scores(np.random.default_rng(99), 2_500_000, 2_000_000, "normal")
    truth = rule(*b) - rule(*a)

    def experiment(rng: Rng, k: int) -> sig.Comparison:
        (id_a, ood_a), (id_b, ood_b) = scores(rng, 1000, 800, "normal")
        found = sig.detection_differences(id_a, [ood_a], id_b, [ood_b], seed=k)[0][measure]
        assert isinstance(found, sig.Comparison)
        return found

    assert 0.93 <= coverage(truth, experiment) <= 0.97
