"""The headline paragraph: each branch of its rule on rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmark.plugins import MARGIN
from benchmark.report.advice import RULE, about, advise, claims_sentence
from benchmark.results.compare import Change
from benchmark.results.decide import judge, margin_of, noninferior
from benchmark.results.hypotheses import Finding
from benchmark.results.rows import Row
from benchmark.results.sizes import Size

ACCURACY, ECE = "zero_shot/a/accuracy", "calibration/a/ece_15"
HEADLINE = (ACCURACY, ECE)
BASE = Row("demo", "fp32", {}, size=Size(32.0, 16.0, 16.0), reliability=0.0)


def row(
    name: str,
    bits: float | None = 8.0,
    accuracy: tuple[float, float | None] = (0.0, 1.0),
    ece: tuple[float, float | None] = (0.0, 1.0),
    reliability: float | None = 0.0,
    half: float = 0.01,
) -> Row:
    """A quantization; `accuracy` and `ece` are (change, q), q None for a metric without a test; `half` an interval.

    The margin of both is 0.02.
    """

    def change(key: str, moved: tuple[float, float | None]) -> Change:
        reference, better = (0.8, "higher") if key == ACCURACY else (0.1, "lower")
        ends = (None, None) if moved[1] is None else (moved[0] - half, moved[0] + half)
        return Change("demo", name, name, key, better, reference + moved[0], reference, moved[0], *ends, p=moved[1], q=moved[1])  # type: ignore[arg-type]  # fmt: skip  # noqa: E501

    headline = {ACCURACY: change(ACCURACY, accuracy), ECE: change(ECE, ece)}
    size = None if bits is None else Size(bits, bits / 2, 16.0)
    return Row("demo", name, {}, headline=headline, size=size, reliability=reliability, margins={ECE: 0.02})


def text_of(*rows: Row) -> tuple[str | None, str, str]:
    advice = advise("demo", [BASE, *rows], HEADLINE)
    return advice.chosen, advice.title, " ".join(advice.sentences)


def test_the_fewest_bits_within_the_margin() -> None:
    eight, six = row("rtn-w8-vision", 8.0, accuracy=(0.01, 0.2)), row("rtn-w6-vision", 6.0, ece=(-0.02, 0.03))
    four = row("rtn-w4-vision", 4.0, accuracy=(-0.05, 0.001))
    chosen, title, text = text_of(eight, six, four)
    assert (chosen, title) == ("rtn-w6-vision", "Deploy `rtn-w6-vision`")
    assert "2 of 3 quantizations of `demo` are non-inferior to full precision: no headline metric is worse by" in text
    assert "more than its margin, even at the worse end of its interval" in text
    assert (
        "`rtn-w6-vision` has the fewest effective bits: 6.0 per weight over both towers, 3.00 MB instead of 16.00 MB"
        in text
    )
    assert "Significantly better in `calibration/a/ece_15` 0.100 → 0.080 (−0.020*)" in text
    assert (
        "`rtn-w4-vision` goes beyond the margin of 0.02 in `zero_shot/a/accuracy` −0.050**, with an interval up to a "
        "loss of 0.0600" in text
    )


@pytest.mark.parametrize(
    ("accuracy", "ece", "half", "kept"),
    [
        (0.0, 0.0, 0.019, True),
        (0.0, 0.0, 0.021, False),
        (-0.009, 0.009, 0.01, True),
        (-0.011, 0.0, 0.01, False),
        (0.0, 0.011, 0.01, False),
        (0.3, -0.09, 0.05, True),
    ],
)
def test_the_worse_end_of_the_interval_decides(accuracy: float, ece: float, half: float, kept: bool) -> None:
    """A metric that did not change at all fails where its interval reaches beyond the margin."""
    some = row("rtn-w4-vision", accuracy=(accuracy, 0.5), ece=(ece, 0.5), half=half)
    assert noninferior(some) == kept
    assert (text_of(some)[0] is not None) == kept


def test_units_other_than_fractions_have_a_relative_margin() -> None:
    nll = replace(row("x").headline[ECE], key="calibration/a/nll", reference=2.0, low=0.0, high=0.0)
    assert judge(replace(nll, high=0.039), {}).passes
    assert not judge(replace(nll, high=0.041), {}).passes
    assert judge(nll, {}).margin == pytest.approx(0.04)


def test_the_suite_may_override_a_margin() -> None:
    """Its own key first, then the first pattern that fits, then what the task declares."""
    margins = {"zero_shot/*": 0.05, ECE: 0.03, "calibration/*": 0.5}
    assert margin_of("zero_shot/a/accuracy", margins) == 0.05
    assert margin_of(ECE, margins) == 0.03
    assert margin_of("calibration/b/ece_15", margins) == 0.5
    assert (margin_of("zero_shot/a/accuracy", {}), margin_of(ECE, {})) == (0.02, 0.01)
    assert margin_of("calibration/a/nll", {}) is None
    some = row("rtn-w4-vision", accuracy=(-0.03, 0.5), ece=(0.0, 0.5), half=0.005)
    assert not noninferior(some)
    assert noninferior(replace(some, margins=margins))


def test_of_equal_bits_the_higher_reliability() -> None:
    chosen, _, _ = text_of(row("rtn-w4-vision", 4.0, reliability=0.01), row("gptq-w4-vision", 4.0, reliability=0.02))
    assert chosen == "gptq-w4-vision"


def test_the_worst_change_is_always_told() -> None:
    """Whether it is significant or not, and however much the intervals leave room for."""
    chosen, _, text = text_of(row("rtn-w4-vision", accuracy=(-0.004, 0.3)))
    assert chosen == "rtn-w4-vision"
    assert "The only quantization of `demo` is non-inferior" in text
    assert "No headline metric changes significantly, which is not the same as no change" in text
    assert "Worst observed change: `zero_shot/a/accuracy` 0.800 → 0.796 (−0.004)." in text
    assert "leave most room for a loss in `zero_shot/a/accuracy`, up to a change of −0.014" in text
    significant = text_of(row("rtn-w4-vision", accuracy=(-0.009, 0.001)))[2]
    assert "Significantly worse in `zero_shot/a/accuracy` 0.800 → 0.791 (−0.009**)" in significant
    better = text_of(row("rtn-w4-vision", accuracy=(0.03, 0.001), ece=(-0.04, 0.001)))[2]
    assert "Worst observed change: `zero_shot/a/accuracy` 0.800 → 0.830 (+0.030**); none is for the worse." in better
    assert "room for a loss" not in better
    assert not [word for word in ("no loss", "No loss", "without loss", "no significant loss") if word in text]


def test_an_interval_without_width_is_told() -> None:
    text = text_of(row("rtn-w8-vision", half=0.0))[2]
    assert f"The same on every image, so that its interval is a point: `{ACCURACY}`, `{ECE}`." in text
    assert "a point" not in text_of(row("rtn-w8-vision"))[2]


def test_a_more_reliable_one_is_named() -> None:
    _, _, text = text_of(row("rtn-w4-vision", 4.0, reliability=0.01), row("rtn-w8-vision", 8.0, reliability=0.05))
    assert "`rtn-w8-vision` has the highest reliability score among them (+5.0 % against +1.0 %)" in text


def test_nothing_qualifies() -> None:
    bad = row("rtn-w4-vision", accuracy=(-0.05, 0.001), reliability=-0.1)
    worse = row("rtn-w2-vision", accuracy=(-0.4, 0.001), ece=(0.3, 0.01), reliability=-0.9)
    wide = row("rtn-w8-vision", half=0.03)
    chosen, title, text = text_of(bad, worse, wide)
    assert (chosen, title) == (None, "Stay with full precision")
    assert "None of 3 quantizations of `demo` is shown to be non-inferior" in text
    assert "Worse by more than the margin: `rtn-w4-vision`, `rtn-w2-vision`." in text
    assert "too wide to tell, more images would narrow them: `rtn-w8-vision`." in text
    assert "The closest is `rtn-w8-vision`: it goes beyond the margin of 0.02 in" in text
    assert "Worst observed change:" in text
    assert "No quantization of `demo` is shown" in text_of(bad)[2]


def test_a_gain_does_not_outweigh_a_loss() -> None:
    assert text_of(row("rtn-w4-vision", accuracy=(0.1, 0.001), ece=(0.1, 0.04)))[0] is None


def test_unknown_bits() -> None:
    chosen, title, text = text_of(row("rtn-w4-vision", None))
    assert (chosen, title) == (None, "No recommendation")
    assert "no QuantizationReport" in text
    assert text_of(row("rtn-w4-vision", None), row("rtn-w8-vision", 8.0))[0] == "rtn-w8-vision"


def test_no_tests_no_advice() -> None:
    chosen, title, text = text_of(row("rtn-w4-vision", accuracy=(0.0, None), ece=(0.0, None)))
    assert (chosen, title) == (None, "No recommendation")
    assert "No quantization of `demo` has every headline metric with a test" in text


def test_an_untested_metric_is_named() -> None:
    chosen, _, text = text_of(row("rtn-w4-vision", ece=(0.015, None)))
    assert chosen == "rtn-w4-vision"
    assert f"Without an interval, and so judged as observed: `{ECE}`" in text
    assert f"`{ECE}` +0.050, as observed" in text_of(row("rtn-w4-vision", ece=(0.05, None)))[2]


def test_a_missing_headline_metric_is_named() -> None:
    whole = row("rtn-w8-vision")
    broken = replace(row("rtn-w4-vision", 4.0), headline={ACCURACY: row("x").headline[ACCURACY]})
    chosen, _, text = text_of(whole, broken)
    assert chosen == "rtn-w8-vision"
    assert "Not considered, because a headline metric is missing: `rtn-w4-vision`" in text


def test_controls_and_full_precision_are_not_recommended() -> None:
    chosen, title, text = text_of(row("control-lowrank-top_8-vision", 2.0))
    assert (chosen, title) == (None, "Nothing to choose from")
    assert "no quantization of `demo`" in text


def efficiency(ratio: float, noisy: bool = False) -> dict[str, Any]:
    """An Efficiency as JSON whose ratio is known within 5 %, or said to be noisy."""
    speed = {
        "engine": "int8-onednn", "latency_ms_p50": 6 * ratio, "full_ms_p50": 6.0, "latency_ratio": ratio,
        "latency_ratio_low": ratio / 1.05, "latency_ratio_high": ratio * 1.05, "noisy": noisy, "rounds": 9,
        "threads": 2, "device": "cpu", "cpu": "AVX2",
    }  # fmt: skip
    return {"kernel": "real", "speed": speed, "error": None}


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (0.5, "It is faster than full precision: one image takes 0.50 times as long (95 % interval 0.48 to 0.53; "),
        (1.5, "It is slower than full precision: one image takes 1.50 times as long (95 % interval 1.43 to 1.58; "),
        (1.02, "It is about as fast as full precision: one image takes 1.02 times as long (95 % interval 0.97 to "),
    ],
)
def test_a_measured_speed_is_told_against_full_precision(ratio: float, verdict: str) -> None:
    timed = replace(row("rtn-w8-vision"), efficiency=efficiency(ratio))
    _, title, text = text_of(timed)
    assert title.startswith("Deploy `rtn-w8-vision`")
    assert ("for its size: it is slower" in title) == (ratio == 1.5)
    assert verdict in text
    assert "ms instead of 6.00 ms; int8-onednn, AVX2, 2 threads)" in text


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (efficiency(9.0, noisy=True), "Its timing was noisy: the ratio to full precision is not known within 10%"),
        ({"kernel": "simulated", "speed": None, "error": None}, "it is simulated, nothing that `export` writes runs"),
        ({"kernel": "real", "speed": None, "error": "OSError: no"}, "could not be measured: OSError: no."),
        (None, "Its speed was not measured."),
    ],
)
def test_no_other_speed_is_told(found: dict[str, Any] | None, words: str) -> None:
    _, title, text = text_of(replace(row("rtn-w8-vision"), efficiency=found))
    assert title == "Deploy `rtn-w8-vision`"
    assert words in text
    assert "slower" not in text
    assert " ms" not in text


def test_about_a_quantization_that_was_asked_for() -> None:
    good = " ".join(about(row("rtn-w8-vision")))
    assert "Non-inferior: no headline metric is worse by more than its margin" in good
    assert "Worst observed change:" in good
    bad = " ".join(about(row("rtn-w2-vision", 2.0, accuracy=(-0.4, 0.0001), ece=(-0.05, 0.04))))
    assert "Not shown to be non-inferior: it goes beyond the margin of 0.02 in `zero_shot/a/accuracy` −0.400***" in bad
    assert "Significantly worse in `zero_shot/a/accuracy` 0.800 → 0.400 (−0.400***)." in bad
    assert "Significantly better in `calibration/a/ece_15`" in bad
    assert "2.0 effective bits per weight, 1.00 MB." in bad
    none = row("rtn-w4-vision", None, (0.0, None), (0.0, None))
    assert "No headline metric has a test against full precision." in about(none)


def test_the_rule_names_the_margin() -> None:
    assert f"{MARGIN}, two points" in RULE
    assert MARGIN == 0.02


def test_claims_are_counted() -> None:
    findings = [Finding("a", "holds", ""), Finding("b", "open", ""), Finding("c", "open", "")]
    assert claims_sentence(findings).startswith("Of the study's 3 claims, 1 hold on these records, 0 do not, and 2")
