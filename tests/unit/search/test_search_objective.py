"""Objectives and constraints, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from benchmark.errors import SpecError, UndefinedMetric, UnknownNameError
from benchmark.metrics.calibration import ece, ece_floor
from benchmark.plugins import Better
from benchmark.quantization import parse
from benchmark.results.compare import Change
from benchmark.results.decide import decide, judging
from benchmark.results.reliability import mean_relative_change, near_floor, point_weights, relative_keys
from benchmark.spec import FP32, QuantSpec
from search.objective import (
    Goals,
    Problem,
    check_constraint,
    check_margins,
    make_goals,
    make_objective,
    parse_constraint,
)
from search.standing import shortfall
from tests.search_stub import ACCURACY, ECE, ERROR, Stub, better


def goals(reference: dict[str, float], objective: str = "reliability") -> Goals:
    """Of a problem whose full precision has these metrics, all of them headline metrics."""
    chosen = make_objective(objective, directions, lambda _: True)
    return make_goals(Problem(lambda _: reference, directions, tuple(reference)), [chosen], [])


def test_reliability_by_hand() -> None:
    """Accuracy -20 points; AUROC +5 and 0 points on two data sets of one task."""
    reference = {ACCURACY: 0.8, "ood/a/mcm/auroc": 0.5, "ood/b/mcm/auroc": 0.7}
    metrics = {ACCURACY: 0.6, "ood/a/mcm/auroc": 0.55, "ood/b/mcm/auroc": 0.7}
    found = goals(reference)
    assert found.left_out == {}
    assert found.complete(metrics)["reliability"] == pytest.approx((-20 + 2.5) / 2)
    assert found.complete(reference)["reliability"] == 0
    assert "mean_relative_change" not in found.complete(metrics)


def test_the_number_of_the_study_by_hand() -> None:
    """Accuracy 0.8 -> 0.6 is -25 %, ECE 0.10 -> 0.05 is +50 %; the third task has two data sets, +10 % and 0."""
    reference = {ACCURACY: 0.8, ECE: 0.1, "ood/a/mcm/auroc": 0.5, "ood/b/mcm/auroc": 0.7}
    metrics = {ACCURACY: 0.6, ECE: 0.05, "ood/a/mcm/auroc": 0.55, "ood/b/mcm/auroc": 0.7}
    keys, left_out = relative_keys(reference, list(reference), directions)
    assert left_out == {}
    assert keys["ood"] == ("ood/a/mcm/auroc", "ood/b/mcm/auroc")
    assert mean_relative_change(metrics, reference, directions, keys) == pytest.approx((-0.25 + 0.5 + 0.05) / 3)
    assert mean_relative_change(reference, reference, directions, keys) == 0
    both = {judging(ECE): 0.1}
    found = goals({**reference, **both}, "mean_relative_change").complete({**metrics, **both})
    assert found["mean_relative_change"] == pytest.approx((-0.25 + 0.5 + 0.05) / 3, abs=0.2)


def directions(key: str) -> Better:
    return "lower" if "ece" in key else "higher"


@given(st.floats(0.1, 1), st.floats(0.1, 1), st.sampled_from([-0.05, -0.001, 0.001, 0.05]))
def test_an_improvement_of_any_metric_raises_reliability(accuracy: float, error: float, step: float) -> None:
    found = goals({ACCURACY: 0.5, ECE: 0.2, judging(ECE): 0.2})

    def value(accuracy: float, error: float) -> float:
        return found.complete({ACCURACY: accuracy, ECE: error, judging(ECE): error})["reliability"]

    assert (value(accuracy + step, error) > value(accuracy, error)) == (step > 0)
    assert (value(accuracy, error - step) > value(accuracy, error)) == (step > 0)


def test_what_does_not_count_is_left_out_and_told() -> None:
    keys, left_out = relative_keys({ACCURACY: 0.0, ECE: 0.1}, [ACCURACY, ECE, "spurious/scenes/rsg"], better)
    assert keys == {"calibration": (ECE,)}
    assert left_out == {
        ACCURACY: "it is zero in full precision, so there is no relative change",
        "spurious/scenes/rsg": "full precision does not have it",
    }
    weights, left_out = point_weights(
        [ACCURACY, "calibration/scenes/nll", "calibration/scenes/signed_calibration_error"]
    )
    assert weights == {ACCURACY: pytest.approx(100)}
    assert "its unit is nats" in left_out["calibration/scenes/nll"]
    assert left_out["calibration/scenes/signed_calibration_error"] == "neither direction is better"


@pytest.mark.parametrize(("count", "overconfident", "chance"), [(2000, 0.0, True), (2000, 0.08, False)])
def test_a_calibration_error_that_chance_alone_gives_is_told(count: int, overconfident: float, chance: bool) -> None:
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.5, 1, count)
        correct = rng.random(count) < confidence - overconfident
        values = {ECE: ece(confidence, correct), f"{ECE}_floor": ece_floor(confidence, draws=20), ACCURACY: 0.8}
        found.append(near_floor(values, [ACCURACY, ECE, "spurious/scenes/rsg"]))
    assert np.mean([keys.keys() == {ECE} for keys in found]) == (pytest.approx(1, abs=0.1) if chance else 0)
    assert near_floor({ECE: 0.02}, [ECE]) == {}


def test_a_metric_that_is_undefined_under_a_quantization_is_not_averaged_away() -> None:
    with pytest.raises(UndefinedMetric, match=f"{judging(ECE)} is undefined under this quantization"):
        goals({ACCURACY: 0.5, ECE: 0.1, judging(ECE): 0.1}).complete({ACCURACY: 0.5})
    keys, _ = relative_keys({ACCURACY: 0.5, ECE: 0.1}, [ACCURACY, ECE], better)
    with pytest.raises(UndefinedMetric, match=f"{ECE} is undefined under this quantization"):
        mean_relative_change({ACCURACY: 0.5}, {ACCURACY: 0.5, ECE: 0.1}, better, keys)


@pytest.mark.parametrize(
    ("text", "value", "reference", "violation"),
    [
        ("a/b/c >= 0.99 * fp32", 0.5, 1.0, 0.49),
        ("a/b/c>=0.99*fp32", 1.0, 1.0, -0.01),
        ("effective_bits <= 5", 4.5, 32.0, -0.5),
        ("a/b/c <= 1.5e-1 * fp32", 0.2, 1.0, 0.05),
    ],
)
def test_constraints(text: str, value: float, reference: float, violation: float) -> None:
    constraint = parse_constraint(text)
    assert constraint.key in ("a/b/c", "effective_bits")
    assert constraint.violation(value, reference) == pytest.approx(violation)


def test_a_constraint_on_what_nobody_reports_is_refused_early() -> None:
    check_constraint(parse_constraint("effective_bits <= 5"), lambda _: False)
    check_constraint(parse_constraint("a/b/c <= 5"), lambda _: True)
    with pytest.raises(SpecError, match=r"--constraint 'a/b/c <= 5': no task of this suite reports a/b/c"):
        check_constraint(parse_constraint("a/b/c <= 5"), lambda _: False)


@pytest.mark.parametrize("text", ["", "a/b/c", "a/b/c > 1", "a/b/c >= x", "a/b/c >= 1 * int8", ">= 1", "a >= 1 <= 2"])
def test_constraints_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"--constraint .*The form is"):
        parse_constraint(text)


def test_directions_come_from_the_metrics() -> None:
    assert make_objective(ECE, better, lambda _: True).direction == "minimize"
    assert make_objective(ACCURACY, better, lambda _: True).direction == "maximize"
    assert make_objective("size_mb", better, lambda _: False).direction == "minimize"


def test_objectives_that_nobody_reports_are_refused_early_and_late() -> None:
    with pytest.raises(SpecError, match="--objective zero_shot/scenes/speed: no task of this suite reports it"):
        make_objective("zero_shot/scenes/speed", better, lambda _: False)
    with pytest.raises(SpecError, match="neither direction is better"):
        make_objective("a/b/samples", lambda _: "neither", lambda _: True)
    problem = Problem(Stub().evaluate, better, (ACCURACY, ECE))
    late = make_objective("zero_shot/scenes/acuracy", better, lambda _: True)
    with pytest.raises(UnknownNameError, match=f"Did you mean '{ACCURACY}'"):
        make_goals(problem, [late], [])
    with pytest.raises(UnknownNameError, match="unknown metric"):
        make_goals(problem, [], [parse_constraint("zero_shot/scenes/x >= 1")])


def test_a_suite_without_any_headline_has_no_reliability() -> None:
    def evaluate(spec: QuantSpec) -> dict[str, float]:
        assert spec == FP32
        return {ACCURACY: 0.0, "effective_bits": 32.0}

    relative = make_objective("mean_relative_change", better, lambda _: True)
    with pytest.raises(
        SpecError, match=r"mean_relative_change: it has no value on this suite .*zero in full precision"
    ):
        make_goals(Problem(evaluate, better, (ACCURACY,)), [relative], [])
    points = make_objective("reliability", better, lambda _: True)
    with pytest.raises(SpecError, match=r"reliability: it has no value on this suite .*does not have it"):
        make_goals(Problem(evaluate, better, (ECE,)), [points], [])


def test_a_goal_needs_a_margin_for_every_headline_metric() -> None:
    nll = "calibration/scenes/nll"
    check_margins([ACCURACY, ECE], {}, directions)
    check_margins([ACCURACY, nll], {nll: 0.1}, directions)
    with pytest.raises(SpecError, match=f"{nll}: its task declares no margin"):
        check_margins([ACCURACY, nll], {}, directions)
    with pytest.raises(SpecError, match="no headline metric to judge by"):
        check_margins([], {}, directions)


def test_a_goal_is_a_constraint_for_each_headline_metric() -> None:
    """3 bits lose 0.125 of 0.02 in accuracy: 5.25 margins too much, more with a confidence above one half."""
    stub, spec = Stub(), parse("rtn-w3-channel-vision")
    problem = Problem(stub.evaluate, directions, (ACCURACY, ECE), stub.standing)
    bits = make_objective("effective_bits", directions, lambda _: True)
    standing = stub.standing(spec)
    even, sure = (make_goals(problem, [bits], [], p).violations({}, standing) for p in (0.5, 0.9))
    assert list(even) == [f"{ACCURACY} within its margin", f"{ECE} within its margin"]
    assert even[f"{ACCURACY} within its margin"] == pytest.approx(0.125 / 0.02 - 1, abs=1e-3)
    assert sure[f"{ACCURACY} within its margin"] == pytest.approx(
        (0.125 + student.ppf(0.9, 60) * ERROR) / 0.02 - 1, abs=1e-3
    )
    assert make_goals(problem, [bits], []).violations({}, standing) == {}


@given(st.floats(0.5, 0.99), st.floats(0.5, 0.99), st.integers(2, 8))
def test_more_confidence_asks_for_more(low: float, high: float, weight_bits: int) -> None:
    low, high = sorted((low, high))
    for judged in Stub().standing(parse(f"rtn-w{weight_bits}-channel-vision")).decision.judged:
        assert shortfall(judged, low) <= shortfall(judged, high) + 1e-12


def test_a_metric_without_an_interval_counts_by_its_value() -> None:
    change = Change("m", "q", "q", ACCURACY, "higher", 0.79, 0.8, -0.01, None, "it does not vary", 1000)
    (judged,) = decide([ACCURACY], {ACCURACY: change}, {}).judged
    assert shortfall(judged, 0.9) == pytest.approx(0.01 / 0.02 - 1)
    (nothing,) = decide([ACCURACY], {}, {}).judged
    assert shortfall(nothing, 0.9) > 0
