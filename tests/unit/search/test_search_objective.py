"""Objectives and constraints, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import SpecError, UndefinedMetric, UnknownNameError
from benchmark.metrics.calibration import ece, ece_floor
from benchmark.plugins import Better
from benchmark.results.reliability import near_floor, reliability, reliability_keys
from benchmark.spec import FP32, QuantSpec
from search.objective import (
    Problem,
    check_constraint,
    make_goals,
    make_objective,
    parse_constraint,
)
from tests.search_stub import ACCURACY, ECE, Stub, better


def test_reliability_by_hand() -> None:
    """Accuracy 0.8 -> 0.6 is -25 %, ECE 0.10 -> 0.05 is +50 %; the second task has two data sets, +10 % and 0."""
    reference = {"zero_shot/a/accuracy": 0.8, "calibration/a/ece_15": 0.1, "ood/a/auroc": 0.5, "ood/b/auroc": 0.7}
    metrics = {"zero_shot/a/accuracy": 0.6, "calibration/a/ece_15": 0.05, "ood/a/auroc": 0.55, "ood/b/auroc": 0.7}
    keys, left_out = reliability_keys(reference, list(reference), directions)
    assert left_out == {}
    assert keys["ood"] == ("ood/a/auroc", "ood/b/auroc")
    assert reliability(metrics, reference, directions, keys) == pytest.approx((-0.25 + 0.5 + 0.05) / 3)
    assert reliability(reference, reference, directions, keys) == 0


def directions(key: str) -> Better:
    return "lower" if "ece" in key else "higher"


@given(st.floats(0.1, 1), st.floats(0.1, 1), st.sampled_from([-0.05, -0.001, 0.001, 0.05]))
def test_an_improvement_of_any_metric_raises_reliability(accuracy: float, ece: float, step: float) -> None:
    reference = {ACCURACY: 0.5, ECE: 0.2}
    keys, _ = reliability_keys(reference, list(reference), better)
    before = reliability({ACCURACY: accuracy, ECE: ece}, reference, better, keys)
    assert (reliability({ACCURACY: accuracy + step, ECE: ece}, reference, better, keys) > before) == (step > 0)
    assert (reliability({ACCURACY: accuracy, ECE: ece - step}, reference, better, keys) > before) == (step > 0)


def test_what_has_no_relative_change_is_left_out_and_told() -> None:
    reference = {ACCURACY: 0.0, ECE: 0.1}
    keys, left_out = reliability_keys(reference, [ACCURACY, ECE, "spurious/scenes/rsg"], better)
    assert keys == {"calibration": (ECE,)}
    assert left_out == {
        ACCURACY: "it is zero in full precision, so there is no relative change",
        "spurious/scenes/rsg": "full precision does not have it",
    }


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
    reference = {ACCURACY: 0.5, ECE: 0.1}
    keys, _ = reliability_keys(reference, list(reference), better)
    with pytest.raises(UndefinedMetric, match=f"{ECE} is undefined under this quantization"):
        reliability({ACCURACY: 0.5}, reference, better, keys)


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

    objective = make_objective("reliability", better, lambda _: True)
    with pytest.raises(SpecError, match=r"reliability: it has no value on this suite .*zero in full precision"):
        make_goals(Problem(evaluate, better, (ACCURACY,)), [objective], [])
