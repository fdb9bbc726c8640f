"""Reliability in points, with its interval: by hand, and against the mean over images worked out in one go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.metrics.uncertainty import GROUPS, Measured
from benchmark.results.evidence import Evidence
from benchmark.results.reliability import point_weights, reliability, with_error

ACCURACY, FIRST, SECOND = "zero_shot/a/accuracy", "ood/a/mcm/auroc", "ood/b/mcm/auroc"
ECE, DEBIASED = "calibration/a/ece_15", "calibration/a/ece_15_debiased"
RSG = "spurious/a/rsg"


def test_points_by_hand() -> None:
    """Accuracy -2 points; AUROC +5 and 0 of one task; RSG +0.03, which is worse; ECE counts by the debiased one."""
    before = {ACCURACY: 0.8, FIRST: 0.5, SECOND: 0.7, RSG: 0.1, ECE: 0.1, DEBIASED: 0.08}
    now = {ACCURACY: 0.78, FIRST: 0.55, SECOND: 0.7, RSG: 0.13, ECE: 0.3, DEBIASED: 0.07}
    found = reliability(now, before, [ACCURACY, FIRST, SECOND, RSG, ECE])
    assert found.tasks == pytest.approx({"zero_shot": -2, "ood": 2.5, "spurious": -3, "calibration": 1})
    assert found.value == pytest.approx((-2 + 2.5 - 3 + 1) / 4)
    assert reliability(before, before, [ACCURACY, ECE]).value == 0


def test_what_has_no_points_is_left_out_and_told() -> None:
    weights, left_out = point_weights([ACCURACY, "calibration/a/nll", "calibration/a/signed_calibration_error"])
    assert weights == {ACCURACY: pytest.approx(100)}
    assert left_out.keys() == {"calibration/a/nll", "calibration/a/signed_calibration_error"}
    none = reliability({}, {}, ["calibration/a/nll"])
    assert (none.value, none.interval) == (None, None)
    assert none.reason == "there is no headline metric with points"


def test_a_missing_metric_is_not_averaged_away() -> None:
    found = reliability({ACCURACY: 0.5}, {ACCURACY: 0.5, ECE: 0.1, DEBIASED: 0.1}, [ACCURACY, ECE])
    assert (found.value, found.reason) == (None, f"{DEBIASED} is undefined")


def replicates(values: NDArray[np.float64], groups: NDArray[np.int64]) -> Measured:
    """A mean over images, and without each group."""
    return Measured(float(values.mean()), np.array([values[groups != g].mean() for g in range(GROUPS)]))


def evidence(metrics: dict[str, Measured], samples: str = "same") -> Evidence:
    return Evidence(metrics, {}, np.ones(GROUPS, dtype=np.bool_), 6400, samples)


def test_the_interval_is_that_of_the_mean_over_images() -> None:
    """Two tasks on the same 6,400 images, correlated, both records: the error is that of the images' mean score."""
    rng = np.random.default_rng(0)
    groups = np.arange(6400) % GROUPS
    shared = rng.standard_normal(6400)
    columns = {
        key: {when: 0.5 + 0.1 * (shared + rng.standard_normal(6400)) for when in "fq"} for key in (ACCURACY, FIRST)
    }
    of = {when: {key: replicates(both[when], groups) for key, both in columns.items()} for when in "fq"}
    values = {when: {key: each.value for key, each in own.items()} for when, own in of.items()}
    own, base = (
        {"zero_shot/a": evidence({"accuracy": of[w][ACCURACY]}), "ood/a": evidence({"mcm/auroc": of[w][FIRST]})}
        for w in "qf"
    )
    found = with_error(reliability(values["q"], values["f"], [ACCURACY, FIRST]), own, base)
    score = np.mean([100 * (both["q"] - both["f"]) for both in columns.values()], axis=0)
    assert found.estimate is not None
    assert found.value == pytest.approx(score.mean())
    assert found.estimate.value == pytest.approx(score.mean())
    assert found.estimate.error == pytest.approx(score.std() / 80, rel=0.25)
    by_group = np.array([score[groups == g].mean() for g in range(GROUPS)])
    assert found.estimate.error == pytest.approx(by_group.std(ddof=1) / np.sqrt(GROUPS), rel=0.01)
    low, high = found.interval or (np.nan, np.nan)
    assert low < score.mean() < high


def test_there_is_no_interval_without_the_evidence_of_all_of_it() -> None:
    rng = np.random.default_rng(0)
    measured = replicates(rng.random(6400), np.arange(6400) % GROUPS)
    own = {"zero_shot/a": evidence({"accuracy": measured})}
    found = reliability({ACCURACY: measured.value}, {ACCURACY: 0.4}, [ACCURACY])
    for now, before, words in (
        (own, {}, "no full precision to compare with"),
        ({"zero_shot/a": evidence({})}, own, "has no error"),
        ({"zero_shot/a": replace(own["zero_shot/a"], reasons={"accuracy": "broken"})}, own, "broken"),
        (own, {"zero_shot/a": evidence({"accuracy": measured}, "others")}, "on other samples"),
    ):
        without = with_error(found, now, before)
        assert without.estimate is None
        assert without.value == found.value
        assert words in without.reason
    same = with_error(reliability({ACCURACY: measured.value}, {ACCURACY: measured.value}, [ACCURACY]), own, own)
    assert (same.value, same.interval, same.reason) == (0, None, "it does not vary over the images")
