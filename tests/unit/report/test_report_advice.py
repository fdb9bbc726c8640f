"""The headline: each branch on rows made by hand. At most three sentences; the rest is behind the fold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from benchmark.metrics.uncertainty import Estimate
from benchmark.report.advice import RULE, Advice, about_row, advise, claims_sentence
from benchmark.results.compare import Change
from benchmark.results.decide import decide
from benchmark.results.findings import Finding
from benchmark.results.reliability import Reliability
from benchmark.results.rows import Row, settled
from benchmark.results.sizes import Size

ACCURACY, AUROC = "zero_shot/a/accuracy", "ood/a/mcm/auroc"
HEADLINE = (ACCURACY, AUROC)
BASE = Row("demo", "fp32", {}, size=Size(32.0, 16.0, 16.0))


def row(
    name: str,
    bits: float | None = 8.0,
    accuracy: float | None = 0.0,
    auroc: float | None = 0.0,
    error: float | None = 0.001,
    images: int = 1000,
    q: float = 0.5,
) -> Row:
    """A quantization with these changes (None: it has no such metric); the margin of both is 0.02."""
    changes = {}
    for key, delta in ((ACCURACY, accuracy), (AUROC, auroc)):
        if delta is not None:
            estimate = None if error is None else Estimate(delta, error, math.inf, delta)
            changes[key] = Change(
                "demo", name, name, key, "higher", 0.8 + delta, 0.8, delta, estimate, images=images, q=q
            )
    size = None if bits is None else Size(bits, bits / 2, 16.0)
    decision = decide(HEADLINE, changes, {})
    return Row(
        "demo", name, {}, changes=changes, headline=changes, size=size, reliability=Reliability(0.5), decision=decision
    )


def of(*rows: Row) -> Advice:
    found = advise("demo", [BASE, *rows])
    assert 1 <= len(found.sentences) <= 3
    return found


def test_the_fewest_bits_that_are_shown_to_be_safe() -> None:
    found = of(row("rtn-w8-vision", 8.0), row("rtn-w6-vision", 6.0), row("rtn-w4-vision", 4.0, accuracy=-0.05))
    assert (found.chosen, found.title) == ("rtn-w6-vision", "Deploy `rtn-w6-vision`")
    assert found.sentences == (
        "It is non-inferior to full precision in all 2 headline metrics, on 1,000 images: even at the worse end of its "
        "95 % interval none loses more than its margin (0.02).",
        "It has the fewest effective bits of those that are shown to be so: 6.0 per weight, 3.00 MB instead of 16.00 "
        "MB.",
    )
    assert [(line.name, line.verdict, line.passed) for line in found.lines] == [
        ("rtn-w8-vision", "non-inferior", True),
        ("rtn-w6-vision", "non-inferior", True),
        ("rtn-w4-vision", "inferior", False),
    ]
    assert found.lines[2].words == f"`{ACCURACY}` -0.0500 [-0.0520, -0.0480], margin 0.02"


def test_a_large_loss_on_few_images_is_not_recommended() -> None:
    """Four images and a quantization that loses 20 points; and intervals without width, which are none."""
    for few in (row("rtn-w2-vision", 2.0, images=4), row("rtn-w2-vision", 2.0, accuracy=-0.2, error=0.15, images=4)):
        found = of(few)
        assert found.chosen is None
        assert found.title == "Not decided: these images cannot tell"
        assert "4 images are too few" in found.sentences[-1]
    found = of(row("rtn-w8-vision", error=None))
    assert (found.chosen, found.title) == (None, "Not decided: these images cannot tell")
    assert found.sentences[0] == "The only quantization of `demo` is not shown to be non-inferior."


def test_a_missing_metric_is_not_overlooked() -> None:
    found = of(row("rtn-w8-vision", auroc=None))
    assert found.chosen is None
    assert f"`{AUROC}`: it has no value to compare" in found.sentences[-1]


def test_headline_metrics_that_nobody_evaluated_are_named() -> None:
    found = advise("demo", [BASE, row("rtn-w8-vision")], ["calibration/a/ece_15"])
    assert (
        "non-inferior to full precision in the 2 headline metrics that were evaluated, on 1,000" in found.sentences[0]
    )
    assert found.notes[-1] == "Not evaluated, and so not judged: `calibration/a/ece_15`."
    nothing = advise("demo", [BASE, row("rtn-w8-vision", error=None)], ["calibration/a/ece_15"])
    assert nothing.notes[-1] == found.notes[-1]


def test_all_are_inferior() -> None:
    found = of(row("rtn-w4-vision", 4.0, accuracy=-0.05), row("rtn-w2-vision", 2.0, accuracy=-0.4, auroc=-0.3))
    assert (found.chosen, found.title) == (None, "Stay with full precision")
    assert found.sentences == (
        "Each of the 2 quantizations of `demo` loses more than a margin in some headline metric.",
        f"The closest is `rtn-w4-vision`: `{ACCURACY}` -0.0500 [-0.0520, -0.0480], margin 0.02.",
    )
    assert (
        of(row("rtn-w4-vision", 4.0, accuracy=-0.05)).sentences[0].startswith("The only quantization of `demo` loses")
    )


def test_some_cannot_tell() -> None:
    unsure, more = row("rtn-w8-vision", 8.0, error=0.012), row("rtn-w6-vision", 6.0, error=0.02)
    found = of(unsure, more, row("rtn-w2-vision", 2.0, accuracy=-0.4))
    assert found.title == "Not decided: these images cannot tell"
    assert found.sentences == (
        "None of the 3 quantizations of `demo` is shown to be non-inferior.",
        "Inferior: `rtn-w2-vision`.",
        "Cannot tell of `rtn-w8-vision`, `rtn-w6-vision`; for `rtn-w8-vision` about 3,800 images would do.",
    )


def test_non_inferior_alone_but_not_as_one_of_many() -> None:
    """p is 0.0228: enough for one candidate, not for one of four of which the dearer do not pass."""
    bad = [row(f"rtn-w{bits}-vision", bits, accuracy=-0.05) for bits in (8.0, 7.0, 6.0)]
    found = of(row("rtn-w4-vision", 4.0, error=0.01), *bad)
    assert (found.chosen, found.title) == (None, "Not decided: these images cannot tell")
    assert found.sentences == (
        "Of the 4 quantizations of `demo` `rtn-w4-vision` is non-inferior taken alone, but not as one of 4 candidates "
        "(p 0.023, needed 0.0063).",
        "Inferior: `rtn-w8.0-vision`, `rtn-w7.0-vision`, `rtn-w6.0-vision`.",
        "About 3,600 images would do, or fewer candidates.",
    )
    assert of(row("rtn-w4-vision", 4.0, error=0.01)).chosen == "rtn-w4-vision"


def test_many_names_are_counted() -> None:
    found = of(*(row(f"rtn-w{bits}-vision", float(bits), error=0.02) for bits in range(2, 9)))
    assert "and 4 more; for" in found.sentences[-1]


def test_size_decides_and_must_be_known() -> None:
    assert of(row("rtn-w4-vision", None)).title == "No recommendation"
    found = of(row("rtn-w4-vision", None), row("rtn-w8-vision"))
    assert found.chosen == "rtn-w8-vision"
    assert found.notes[-1] == "Not considered, because their size is unknown: `rtn-w4-vision`."


def test_controls_and_full_precision_are_not_recommended() -> None:
    found = of(row("control-lowrank-top_8-vision", 2.0))
    assert (found.chosen, found.title) == (None, "Nothing to choose from")


def timed(**speed: Any) -> Mapping[str, Any]:
    """An Efficiency as JSON."""
    known = {"ratio": 0.5, "ratio_low": 0.48, "ratio_high": 0.52, "noisy": False, "latency_ms_p50": 3.0}
    return {"kernel": "real", "speed": {**known, **speed}, "error": None}


@pytest.mark.parametrize(
    ("efficiency", "words"),
    [
        (timed(), "One image takes less time than in full precision: 0.50 times, [0.48, 0.52]."),
        (timed(ratio=2.0, ratio_low=1.9, ratio_high=2.1), "One image takes more time than in full precision: 2.00"),
        (timed(ratio=1.0, ratio_low=0.95, ratio_high=1.04), "One image takes as long as in full precision: 1.00 times"),
    ],
)
def test_a_settled_time_is_told(efficiency: Mapping[str, Any], words: str) -> None:
    found = of(replace(row("rtn-w8-vision"), efficiency=efficiency))
    assert found.sentences[-1].startswith(words)


@pytest.mark.parametrize(
    "efficiency",
    [
        None,
        timed(noisy=True),
        {**timed(), "kernel": "simulated"},
        {"kernel": "real", "speed": None, "error": "no"},
        {"kernel": "real", "speed": {"latency_ms_p50": 29.4}},
        timed(ratio=None),
    ],
    ids=["none", "noisy", "emulated", "failed", "without ratio", "unknown ratio"],
)
def test_no_other_time_is_mentioned(efficiency: Mapping[str, Any] | None) -> None:
    """Today's advice said "slower: 29.4 ms instead of 4.3" of a busy minute."""
    found = of(replace(row("rtn-w8-vision"), efficiency=efficiency))
    assert settled(efficiency) is None
    text = " ".join([found.title, *found.sentences, *found.notes])
    assert not [word for word in ("time", "slower", "faster", " ms", "latency") if word in text]


def test_behind_the_fold_stand_the_largest_loss_and_significant_changes() -> None:
    found = of(row("rtn-w8-vision", accuracy=-0.009, auroc=0.004, q=0.001))
    notes = " ".join(found.notes)
    assert f"Largest loss for its margin: `{ACCURACY}` -0.0090 [-0.0110, -0.0070], margin 0.02." in notes
    assert f"Significantly worse in `{ACCURACY}` 0.800 → 0.791 (−0.009**)." in notes
    assert f"Significantly better in `{AUROC}` 0.800 → 0.804 (+0.004**)." in notes
    assert "Reliability: +0.50 points" in notes
    plain = " ".join(of(row("rtn-w8-vision", accuracy=0.001, auroc=0.002)).notes)
    assert "No headline metric changes significantly, which is not the same as no change." in plain
    assert f"No headline metric is worse; the closest: `{ACCURACY}`" in plain


def test_about_a_quantization_that_was_asked_for() -> None:
    good = " ".join(about_row(row("rtn-w8-vision")))
    assert "`rtn-w8-vision` of `demo`: 8.0 effective bits per weight, 4.00 MB. Non-inferior; margins: 0.02." in good
    bad = " ".join(about_row(row("rtn-w2-vision", 2.0, accuracy=-0.4)))
    assert f"Inferior: `{ACCURACY}` -0.4000 [-0.4020, -0.3980], margin 0.02; margins: 0.02." in bad
    assert "what the others are compared with" in " ".join(about_row(BASE))
    none = replace(row("rtn-w8-vision"), reliability=Reliability(None, reason="x is undefined"))
    assert "It has no reliability: x is undefined." in about_row(none)


def test_the_rule_is_told() -> None:
    assert "2.5 % of sweeps" in RULE
    assert "fewer than 30 images" in RULE


def test_claims_are_counted() -> None:
    findings = [Finding("a", "holds", ""), Finding("b", "cannot tell", ""), Finding("c", "cannot tell", "")]
    assert claims_sentence(findings) == "Of the study's 3 claims: 1 hold, 2 cannot be told from these records."
