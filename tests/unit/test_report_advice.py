"""The headline paragraph: each branch of its rule on rows made by hand."""

from __future__ import annotations

from dataclasses import replace

from benchmark.analysis.claims import Finding
from benchmark.analysis.compare import Change
from benchmark.analysis.sizes import Size
from benchmark.report.advice import about, advise, claims_sentence
from benchmark.report.gather import Latency, Row

ACCURACY, ECE = "zero_shot/a/accuracy", "calibration/a/ece_15"
HEADLINE = (ACCURACY, ECE)
BASE = Row("demo", "fp32", {}, size=Size(32.0, 16.0, 16.0), reliability=0.0)


def row(
    name: str,
    bits: float | None = 8.0,
    accuracy: tuple[float, float | None] = (0.0, 1.0),
    ece: tuple[float, float | None] = (0.0, 1.0),
    reliability: float | None = 0.0,
) -> Row:
    """A quantization; `accuracy` and `ece` are (change, q), q None for a metric without a test."""

    def change(key: str, moved: tuple[float, float | None]) -> Change:
        reference, better = (0.8, "higher") if key == ACCURACY else (0.1, "lower")
        ends = (None, None) if moved[1] is None else (moved[0] - 0.01, moved[0] + 0.01)
        return Change("demo", name, name, key, better, reference + moved[0], reference, moved[0], *ends, p=moved[1], q=moved[1])  # type: ignore[arg-type]  # fmt: skip  # noqa: E501

    headline = {ACCURACY: change(ACCURACY, accuracy), ECE: change(ECE, ece)}
    size = None if bits is None else Size(bits, bits / 2, 16.0)
    return Row("demo", name, {}, headline=headline, size=size, reliability=reliability)


def text_of(*rows: Row) -> tuple[str | None, str, str]:
    advice = advise("demo", [BASE, *rows], HEADLINE)
    return advice.chosen, advice.title, " ".join(advice.sentences)


def test_the_fewest_bits_without_a_significant_loss() -> None:
    eight, six = row("rtn-w8-vision", 8.0, accuracy=(0.01, 0.2)), row("rtn-w6-vision", 6.0, ece=(-0.02, 0.03))
    four = row("rtn-w4-vision", 4.0, accuracy=(-0.05, 0.001))
    chosen, title, text = text_of(eight, six, four)
    assert (chosen, title) == ("rtn-w6-vision", "Deploy `rtn-w6-vision`")
    assert "2 of 3 quantizations of `demo` show no significant loss" in text
    assert (
        "`rtn-w6-vision` has the fewest effective bits: 6.0 per weight over both towers, 3.00 MB instead of 16.00 MB"
        in text
    )
    assert "significantly better in `calibration/a/ece_15` 0.100 → 0.080 (−0.020*)" in text
    assert "Fewer bits cost something: `rtn-w4-vision` loses `zero_shot/a/accuracy` 0.800 → 0.750 (−0.050**)" in text


def test_of_equal_bits_the_higher_reliability() -> None:
    chosen, _, _ = text_of(row("rtn-w4-vision", 4.0, reliability=0.01), row("gptq-w4-vision", 4.0, reliability=0.02))
    assert chosen == "gptq-w4-vision"


def test_a_loss_that_is_not_significant_does_not_count_and_is_bounded() -> None:
    chosen, _, text = text_of(row("rtn-w4-vision", accuracy=(-0.004, 0.3)))
    assert chosen == "rtn-w4-vision"
    assert "The only quantization of `demo` shows no significant loss" in text
    assert "No headline metric changes significantly" in text
    assert "`calibration/a/ece_15` (a change of +0.010) and `zero_shot/a/accuracy` (a change of −0.014)" in text


def test_a_more_reliable_one_is_named() -> None:
    _, _, text = text_of(row("rtn-w4-vision", 4.0, reliability=0.01), row("rtn-w8-vision", 8.0, reliability=0.05))
    assert "`rtn-w8-vision` has the highest reliability score among them (+5.0% against +1.0%)" in text


def test_nothing_qualifies() -> None:
    bad = row("rtn-w4-vision", accuracy=(-0.05, 0.001), reliability=-0.1)
    worse = row("rtn-w2-vision", accuracy=(-0.4, 0.001), ece=(0.3, 0.01), reliability=-0.9)
    chosen, title, text = text_of(bad, worse)
    assert (chosen, title) == (None, "Stay with full precision")
    assert "All 2 quantizations of `demo` lose significantly" in text
    assert "The least is lost by `rtn-w4-vision` (reliability score -10.0%)" in text
    assert "The only quantization of `demo` loses significantly" in text_of(bad)[2]


def test_what_has_a_significant_gain_and_a_significant_loss_does_not_qualify() -> None:
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
    chosen, _, text = text_of(row("rtn-w4-vision", ece=(0.5, None)))
    assert chosen == "rtn-w4-vision"
    assert f"Without a test, and so outside the rule: `{ECE}`" in text


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


def test_speed_is_measured_or_not_mentioned_as_a_number() -> None:
    quick = replace(row("rtn-w8-vision"), latency=Latency(3.0, "torchao-int8da-vision", "AVX2, 2 threads"))
    assert "was not measured" in text_of(row("rtn-w8-vision"))[2]
    text = " ".join(
        advise("demo", [replace(BASE, latency=Latency(6.0, "fp32", "AVX2, 2 threads")), quick], HEADLINE).sentences
    )
    assert "3.00 ms instead of 6.00 ms (AVX2, 2 threads, through the kernel of `torchao-int8da-vision`)" in text


def test_about_a_quantization_that_was_asked_for() -> None:
    assert "No significant loss in a headline metric." in about(row("rtn-w8-vision"))
    bad = " ".join(about(row("rtn-w2-vision", 2.0, accuracy=(-0.4, 0.0001), ece=(-0.05, 0.04))))
    assert "Significantly worse in `zero_shot/a/accuracy` 0.800 → 0.400 (−0.400***)." in bad
    assert "Significantly better in `calibration/a/ece_15`" in bad
    assert "2.0 effective bits per weight, 1.00 MB." in bad
    none = row("rtn-w4-vision", None, (0.0, None), (0.0, None))
    assert "No headline metric has a test against full precision." in about(none)


def test_claims_are_counted() -> None:
    findings = [Finding("a", "holds", ""), Finding("b", "open", ""), Finding("c", "open", "")]
    assert claims_sentence(findings).startswith("Of the study's 3 claims, 1 hold on these records, 0 do not, and 2")
