"""The rule for deciding: each verdict, margins, what cannot be judged, numbers of images, the choice among many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from benchmark import Metric, task, tasks
from benchmark.errors import InputError, UnknownNameError
from benchmark.metrics.uncertainty import Estimate
from benchmark.registry import Origin
from benchmark.results.compare import Change
from benchmark.results.decide import (
    ALPHA,
    FEWEST,
    Candidate,
    Decision,
    about,
    by_configuration,
    check_margins,
    choose,
    choose_quantization,
    decide,
    fallback,
    images_needed,
    images_told,
    judge,
    judging,
    margin_of,
    margins_told,
    parse_margins,
    to_json,
    told,
)
from tests.registries import restored

ACCURACY, AUROC, SHIFT = "zero_shot/a/accuracy", "ood/a/mcm/auroc", "covariate_shift/a/accuracy"
ECE, DEBIASED = "calibration/a/ece_15", "calibration/a/ece_15_debiased"
Z = 1.959963984540054


def change(key: str, delta: float, error: float | None = 0.005, images: int = 1000, better: str = "higher") -> Change:
    """A change of a metric with a normal error; None for none."""
    estimate = None if error is None else Estimate(delta, error, math.inf, delta)
    made = Change("m", "q", "c", key, better, 0.5 + delta, 0.5, delta, estimate, images=images)  # type: ignore[arg-type]
    return made if error is not None else replace(made, reason="nothing varies")


def of(*changes: Change, headline: tuple[str, ...] = ()) -> Decision:
    return decide(headline or tuple(each.key for each in changes), {each.key: each for each in changes}, {})


@pytest.mark.parametrize(
    ("delta", "error", "verdict"),
    [
        (0.0, 0.010, "non-inferior"),
        (0.0, 0.0103, "cannot tell"),
        (-0.0199, 0.00001, "non-inferior"),
        (-0.021, 0.0001, "inferior"),
        (-0.021, 0.001, "cannot tell"),
        (0.3, 0.1, "non-inferior"),
        (-0.3, 0.2, "cannot tell"),
        (-0.3, 0.1, "inferior"),
    ],
)
def test_the_interval_against_the_margin(delta: float, error: float, verdict: str) -> None:
    """Margin 0.02; also for a metric of which less is better."""
    assert of(change(ACCURACY, delta, error)).verdict == verdict
    lower = change("spurious/a/rsg", -delta, error, better="lower")
    assert of(lower).verdict == verdict


@given(st.floats(-0.1, 0.1), st.floats(1e-4, 0.05), st.sampled_from(["higher", "lower"]))
def test_verdict_and_p_are_one_statistic(delta: float, error: float, better: str) -> None:
    key = ACCURACY if better == "higher" else "spurious/a/rsg"
    found = judge(key, {key: change(key, delta, error, better=better)}, {})
    loss = -delta if better == "higher" else delta
    assert found.p == pytest.approx(norm.cdf((loss - 0.02) / error), abs=1e-12)
    if abs(found.p - ALPHA) > 1e-9:
        assert (found.verdict == "non-inferior") == (found.p < ALPHA)
    assert (found.verdict == "inferior") == (loss - Z * error > 0.02)


def test_all_metrics_have_to_pass_and_one_is_enough_to_fail() -> None:
    good, unsure, bad = change(ACCURACY, 0.0), change(AUROC, 0.0, 0.02), change(SHIFT, -0.1)
    assert of(good).verdict == "non-inferior"
    assert of(good, unsure).verdict == "cannot tell"
    assert of(good, unsure, bad).verdict == "inferior"
    assert of(good, unsure, bad).p == pytest.approx(1.0)
    assert [each.key for each in of(good, unsure, bad).open] == [SHIFT, AUROC]
    assert Decision(()).verdict == "cannot tell"
    assert told(Decision(())) == "cannot tell: there is no headline metric to judge"


def test_what_has_no_evidence_cannot_tell() -> None:
    """No interval, no value, too few images: nothing is decided, whatever the observed change."""
    good = change(ACCURACY, 0.0)
    for delta in (0.0, -0.5, 0.5):
        found = of(good, change(AUROC, delta, None))
        assert found.verdict == "cannot tell"
        assert (found.p, found.images) == (1.0, None)
        assert told(found) == f"cannot tell: `{AUROC}`: nothing varies"
    missing = of(good, headline=(ACCURACY, AUROC))
    assert told(missing) == f"cannot tell: `{AUROC}`: it has no value to compare"
    for error, delta in product((0.001, 0.5), (0.0, -0.2)):
        few = of(change(ACCURACY, delta, error, images=FEWEST - 1))
        assert few.verdict == "cannot tell"
        assert few.p == 1.0
        assert f"{FEWEST - 1} images are too few, at least {FEWEST} are needed" in told(few)
    assert of(change(ACCURACY, 0.0, images=FEWEST)).verdict == "non-inferior"


def test_a_metric_that_is_printed_is_judged_by_the_one_beside_it() -> None:
    assert judging(ECE) == DEBIASED
    assert judging(ACCURACY) == ACCURACY
    plug_in, debiased = (change(key, 0.0, error, better="lower") for key, error in ((ECE, 1e-4), (DEBIASED, 0.1)))
    found = decide([ECE], {ECE: plug_in, DEBIASED: debiased}, {})
    assert (found.verdict, found.judged[0].key, found.judged[0].by) == ("cannot tell", ECE, DEBIASED)
    assert decide([ECE], {ECE: plug_in}, {}).verdict == "cannot tell"
    assert f"`{DEBIASED}`" in told(found)


def test_margins_of_the_suite_come_before_those_of_the_task() -> None:
    """The metric's key, then the first pattern that fits, then the same of the metric that judges it."""
    margins = {"zero_shot/*": 0.05, ECE: 0.03, "calibration/*": 0.5}
    assert margin_of(ACCURACY, margins) == 0.05
    assert margin_of(ECE, margins) == 0.03
    assert margin_of("calibration/b/ece_15", margins) == 0.5
    assert margin_of(ECE, {DEBIASED: 0.04}) == 0.04
    assert (margin_of(ACCURACY, {}), margin_of(ECE, {})) == (0.02, 0.01)
    lost = change(ACCURACY, -0.03, 0.001)
    assert decide([ACCURACY], {ACCURACY: lost}, {}).verdict == "inferior"
    assert decide([ACCURACY], {ACCURACY: lost}, {"zero_shot/*": 0.05}).verdict == "non-inferior"


def test_a_metric_in_a_unit_of_its_own_needs_a_declared_margin() -> None:
    key = "calibration/a/nll"
    nll = change(key, 0.0, 0.001, better="lower")
    assert margin_of(key, {}) is None
    assert told(of(nll)) == (
        f"cannot tell: `{key}`: its task declares no margin; name one in the suite's `margins`, or with --margin"
    )
    assert decide([key], {key: nll}, {key: 0.1}).verdict == "non-inferior"


def test_descriptive_metrics_are_not_judged() -> None:
    found = of(change(ACCURACY, 0.0), headline=(ACCURACY, "calibration/a/signed_calibration_error"))
    assert [each.key for each in found.judged] == [ACCURACY]


@pytest.mark.parametrize(
    "text", ["x", "x=", "x=a", "x=0", "x=-1", "x=nan", "x=inf", "=0.1", "zero_shot/a/accuracy=1e999"]
)
def test_margins_of_the_command_line_are_positive_numbers(text: str) -> None:
    with pytest.raises(InputError, match=r"--margin .*: it needs KEY=VALUE with a positive number") as caught:
        parse_margins([text])
    assert text in str(caught.value)


def test_margins_of_the_command_line_belong_to_a_headline_metric() -> None:
    margins = parse_margins([f"{ACCURACY}=0.05", "calibration/*=.1", "*/ece_15_debiased=0.2"])
    assert margins == {ACCURACY: 0.05, "calibration/*": 0.1, "*/ece_15_debiased": 0.2}
    check_margins(margins, [ACCURACY, ECE])
    with pytest.raises(UnknownNameError, match=f"unknown headline metric .* 'zero_shot/a/acc'.* mean '{ACCURACY}'"):
        check_margins({"zero_shot/a/acc": 0.1}, [ACCURACY, ECE])


def brute_force(margins: list[float], errors: list[float], images: list[int]) -> int:
    """The formula of the docstring, image by image."""
    for count in range(1, 200_000):
        missed = sum(
            norm.cdf(Z - m * math.sqrt(count / n) / e) for m, e, n in zip(margins, errors, images, strict=True)
        )
        if missed <= 0.2:
            return count
    raise AssertionError("more than anybody has")


@pytest.mark.parametrize(
    ("errors", "images"), [([0.02], [300]), ([0.012, 0.011, 0.02], [300, 300, 300]), ([0.02, 0.004], [2400, 48])]
)
def test_the_number_of_images_is_the_formulas(errors: list[float], images: list[int]) -> None:
    keys = (ACCURACY, AUROC, SHIFT)
    found = of(*(change(k, 0.0, e, n) for k, e, n in zip(keys, errors, images, strict=False)))
    assert found.images == brute_force([0.02] * len(errors), errors, images)


def test_more_tasks_ask_for_more_images_and_smaller_errors_for_fewer() -> None:
    one, two = of(change(ACCURACY, 0.0, 0.02)), of(change(ACCURACY, 0.0, 0.02), change(AUROC, 0.0, 0.02))
    assert one.images is not None
    assert two.images is not None
    assert one.images < two.images < 2 * one.images
    half = of(change(ACCURACY, 0.0, 0.0105))
    assert half.images is not None
    assert half.images < one.images


def test_a_loss_near_its_margin_asks_for_as_many_images_as_tell_it_from_there() -> None:
    """These images would do for one that loses nothing: more are asked for than there are, never fewer."""
    near = of(change(ACCURACY, -0.019, 0.005))
    assert near.verdict == "cannot tell"
    assert near.images == brute_force([0.001], [0.005], [1000])
    over = of(change(ACCURACY, -0.0215, 0.003))
    assert over.verdict == "cannot tell"
    assert over.images == brute_force([0.0015], [0.003], [1000])
    assert of(change(ACCURACY, -0.02, 0.005)).images is None, "exactly at the margin no number would do"


def test_nobody_knows_a_number_of_images_without_images_or_an_error() -> None:
    assert images_needed([]) is None
    assert of(change(ACCURACY, 0.0, 0.02, images=0)).images is None
    assert of(change(ACCURACY, 0.0, 0.02), change(AUROC, 0.0, None)).images is None
    assert of(change(ACCURACY, 0.0, 0.001)).images is None, "it is decided"


def test_numbers_of_images_are_rounded_up() -> None:
    assert [about(n) for n in (1, 87, 100, 101, 2301, 2400, 98_765)] == [
        "1", "87", "100", "110", "2,400", "2,400", "99,000",
    ]  # fmt: skip


@given(st.lists(st.floats(0, 1), min_size=1, max_size=25))
def test_the_fallback_procedure(p_values: list[float]) -> None:
    """Against its definition: a level is alpha / K and all that the unbroken run of passes before it hands on."""
    levels, passed = fallback(p_values)
    for at, (level, outcome) in enumerate(zip(levels, passed, strict=True)):
        run = 0
        while run < at and passed[at - 1 - run]:
            run += 1
        assert level == pytest.approx(ALPHA / len(p_values) * (run + 1))
        assert outcome == (p_values[at] <= level)
    assert max(levels) <= ALPHA * (1 + 1e-9)


def test_the_cheapest_that_passed_is_recommended() -> None:
    good, unsure, bad = of(change(ACCURACY, 0.0, 0.001)), of(change(ACCURACY, 0.0, 0.02)), of(change(ACCURACY, -0.1))
    named = {"w8": good, "w6": good, "w4": unsure, "w2": bad}
    costs = {"w8": 8.0, "w6": 6.0, "w4": 4.0, "w2": 2.0}
    chosen = choose(Candidate(name, costs[name], named[name]) for name in ("w2", "w8", "w4", "w6"))
    assert [each.name for each in chosen.candidates] == ["w8", "w6", "w4", "w2"]
    assert chosen.passed == (True, True, False, False)
    assert chosen.levels == pytest.approx((ALPHA / 4, ALPHA / 2, ALPHA * 3 / 4, ALPHA / 4))
    assert chosen.recommended is not None
    assert chosen.recommended.name == "w6"
    assert choose([]).recommended is None
    assert choose([Candidate("w2", 2.0, bad)]).recommended is None


def test_what_is_non_inferior_alone_need_not_be_as_one_of_many() -> None:
    """p = 0.02: enough at 0.025, not at a twentieth of it; unless dearer ones hand their level on."""
    error = 0.02 / norm.isf(0.02)
    weak, strong = of(change(ACCURACY, 0.0, error)), of(change(ACCURACY, 0.0, 0.001))
    assert weak.verdict == "non-inferior"
    others = [Candidate(f"c{i}", 10.0 + i, of(change(ACCURACY, -0.1))) for i in range(19)]
    assert choose([Candidate("weak", 1.0, weak)]).recommended is not None
    assert choose([Candidate("weak", 1.0, weak), *others]).recommended is None
    able = [replace(each, decision=strong) for each in others]
    found = choose([Candidate("weak", 1.0, weak), *able]).recommended
    assert found is not None
    assert found.name == "weak"


def test_full_precision_and_controls_are_no_candidates() -> None:
    good = of(change(ACCURACY, 0.0, 0.001))
    bits = {"fp32": 32.0, "control-noise-vision": 1.0, "rtn-w8-vision": 8.0, "rtn-w4-vision": 4.0}
    found = choose_quantization(bits, {name: good for name in bits if name != "rtn-w4-vision"})
    assert [each.name for each in found.candidates] == ["rtn-w8-vision", "rtn-w4-vision"]
    assert found.passed == (True, False), "one that was never compared stays a candidate, and does not pass"


def test_words_and_numbers_for_readers_and_programs() -> None:
    found = of(change(ACCURACY, -0.01, 0.005), change(AUROC, 0.0, 0.02, images=48))
    assert images_told(found.judged) == "1,000 images (48 in ood/a)"
    assert margins_told(found.judged) == "0.02"
    both = decide([ACCURACY, ECE], {ACCURACY: change(ACCURACY, 0.0)}, {})
    assert margins_told(both.judged) == f"0.02, but 0.01 in `{ECE}`"
    assert told(found).startswith("cannot tell: about ")
    assert told(found).endswith(f"images would do; `{AUROC}` +0.0000 [-0.0392, +0.0392], margin 0.02")
    content = to_json(found)
    assert (content["verdict"], content["images_needed"]) == ("cannot tell", found.images)
    assert [each["verdict"] for each in content["metrics"]] == ["non-inferior", "cannot tell"]
    assert content["metrics"][0]["low"] == pytest.approx(-0.01 - Z * 0.005)
    assert np.isfinite([each["p"] for each in content["metrics"]]).all()


def test_changes_of_a_sweep_are_decided_by_configuration() -> None:
    first, second = change(ACCURACY, 0.0), replace(change(ACCURACY, -0.1), configuration="d")
    found = by_configuration([ACCURACY], [first, second], {})
    assert {key: each.verdict for key, each in found.items()} == {"c": "non-inferior", "d": "inferior"}


@pytest.fixture
def dollars() -> Iterator[str]:
    """A task with a metric in a unit of its own, that declares what its margin is."""
    metrics = (Metric("cost", "lower", unit="dollars", margin=3.0, headline=True),)
    made = task("money", version=1, needs=("test",), metrics=metrics)(lambda banks, options: None)  # type: ignore[arg-type, return-value]
    with restored():
        tasks.add("money", made, Origin("strangers", "here"))
        yield "money/a/cost"


def test_a_stranger_declares_a_margin_in_its_own_unit(dollars: str) -> None:
    assert of(change(dollars, 1.0, 0.9, better="lower")).verdict == "non-inferior"
    assert of(change(dollars, 9.0, 0.9, better="lower")).verdict == "inferior"
