"""The page of all methods says where a method is below plain rounding, and whether that is beyond chance."""

from __future__ import annotations

import numpy as np

from benchmark.quantization import parse
from benchmark.spec.suite import load_suite
from tests.methods import Result, below_baseline, page, precision_of


def result(correct: int, of: int = 200) -> Result:
    return Result(np.arange(of) < correct)


RESULTS = {
    "scenes": {
        ("rtn", "W8A8"): result(190),
        ("gptq", "W8A8"): result(100),  # eight bits: not asked about
        ("rtn", "W4"): result(180),
        ("gptq", "W4"): result(185),
        ("rtn", "W2"): result(120),
        ("gptq", "W2"): result(119),
    },
    "digits": {("rtn", "W2"): result(150), ("gptq", "W2"): result(90)},
}


def test_only_low_bits_below_rounding_are_listed_worst_first() -> None:
    below = below_baseline(RESULTS)
    assert [(b.method, b.precision, b.dataset) for b in below] == [("gptq", "W2", "digits"), ("gptq", "W2", "scenes")]
    assert below[0].p < 1e-10
    assert below[1].p == 1.0


def test_the_page_tells_chance_from_loss() -> None:
    text = page({"scenes": 0.96, "digits": 0.8}, {"scenes": RESULTS["scenes"]}, "origin")
    assert "full precision 96.0" in text
    assert "| gptq | 50.0 | 92.5 | 59.5 |" in text
    only = page({"scenes": 0.96}, {"scenes": {("bnb-nf4", "W4"): result(150), **RESULTS["scenes"]}}, "origin")
    assert "| bnb-nf4 | - | 75.0 | - |" in only
    assert "In 1 places, 0 of them beyond chance" in text
    whole = page({"scenes": 0.96, "digits": 0.8}, {"digits": RESULTS["digits"]}, "origin")
    assert "| gptq | W2 | digits | -30.00 |" in whole
    assert "| yes |" in whole
    assert "`gptq` fits the calibration inputs" in whole
    good = {"scenes": {("rtn", "W4"): result(10), ("gptq", "W4"): result(11)}}
    assert page({"scenes": 1.0}, good, "origin").rstrip().endswith("Nowhere.")


def test_the_suite_has_every_method_at_every_precision() -> None:
    specs = [parse(name) for name in load_suite("methods").quantizations[1:]]
    cells = {(spec.method, precision_of(spec)) for spec in specs}
    assert len(cells) == len(specs) == 52
    assert {("bnb-nf4", "W4"), ("bnb-fp4", "W4"), ("bnb-int8", "W8A8"), ("fp8", "W8A8")} <= cells
    assert {precision for _, precision in cells} == {"W8A8", "W6A8", "W4A8", "W4", "W3", "W2"}
