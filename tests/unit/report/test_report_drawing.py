"""Parts of the report that are pure: sizes, fronts, scales, marks, flips."""

from __future__ import annotations

import gc
import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import DataError, UndefinedMetric
from benchmark.plugins import Columns
from benchmark.report.examples import flips
from benchmark.report.front import front
from benchmark.report.svg import Axis, Plot, axis, doubling, names, path, signed_text, tag, usual
from benchmark.results.sizes import Size, effective_bits, size
from benchmark.utils.memory import rare_collection
from tests.report_home import W4, report_of

POINTS = st.lists(st.tuples(st.floats(0, 9), st.floats(-9, 9)), min_size=1, max_size=12)


@settings(deadline=None)
@given(POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    kept = {points[i] for i in front(points)}
    for cost, value in points:
        beaten = any((c < cost and v >= value) or (c <= cost and v > value) for c, v in points)
        assert ((cost, value) in kept) == (not beaten)


def test_sizes_of_scopes_compare() -> None:
    """Vision 1,000 weights in 4,000 bytes; text 3,000 weights in 20,000 bytes of which 8,000 are an embedding."""
    shapes = {"weights": {"vision": 1000, "text": 3000}, "parameters": {"vision": 1000, "text": 5000}}
    full, vision, both = (report_of(name, 4) | shapes for name in ("fp32", W4, "both"))
    text = {
        "layers": [{"shape": [30, 100], "packed_bits": 12_000}], "weight_share": 1.0,
        "packed_bytes": 9_500, "float_bytes": 20_000,
    }  # fmt: skip
    both["towers"] = {**both["towers"], "text": text}  # type: ignore[dict-item]
    assert size(full) == Size(32.0, 0.024, 0.024)
    assert size(vision) == Size((4_000 + 32 * 3_000) / 4_000, 0.0205, 0.024)
    assert size(both) == Size(4.0, 0.01, 0.024)


def test_what_replaces_no_layer_keeps_its_size() -> None:
    control = report_of("control", 32)
    control["towers"] = {"vision": {"layers": [], "weight_share": 0.0, "packed_bytes": 4000, "float_bytes": 4000}}
    assert size(control) == Size(32.0, 0.004, 0.004)
    for packed, replaced, total, bits in ((0, 0, 10, 32), (40, 10, 10, 4), (40, 10, 20, 18)):
        assert effective_bits(packed, replaced, total) == bits
    with pytest.raises(UndefinedMetric):
        effective_bits(0, 0, 0)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_an_axis_holds_its_values_and_its_ticks(values: list[float]) -> None:
    found = axis("x", values)
    assert found.low < min(values)
    assert found.high > max(values)
    assert all(found.low <= tick <= found.high for tick, _ in found.ticks)


def test_ticks_are_written_exactly() -> None:
    assert [text for _, text in axis("x", [-1.0, 0.0]).ticks] == ["−1.00", "−0.75", "−0.50", "−0.25", "0.00"]
    assert [text for _, text in doubling("bits", [4.0, 32.0]).ticks] == ["4", "8", "16", "32"]
    assert signed_text(-0.0004, 3) == "0.000"


def test_pixels() -> None:
    plot = Plot(Axis("x", 0.0, 1.0), Axis("y", 0.0, 10.0), 100, 100, (10, 10, 10, 10))
    assert plot.at((0.0, 0.0)) == (10.0, 90.0)
    assert plot.at((1.0, 10.0)) == (90.0, 10.0)
    assert plot.at((5.0, 5.0)) == (90.0, 50.0), "what lies beyond stands at the edge"
    log = Plot(Axis("x", 1.0, 4.0, log=True), Axis("y", 0.0, 1.0), 120, 100, (10, 10, 10, 10))
    assert log.at((2.0, 0.0))[0] == pytest.approx(60.0)


def test_outliers_do_not_squeeze_the_rest() -> None:
    assert usual([0.0, 0.01, 0.02, 0.03, -1.0]) == (0.0, 0.03)
    assert usual([0.0, 0.01, 0.02, -1.0]) == (-1.0, 0.02)
    assert usual([0.5] * 6) == (0.5, 0.5)


def test_text_is_escaped() -> None:
    assert tag("text", '<b> & "', x=1.25, title='"') == '<text x="1.2" title="&#34;">&lt;b&gt; &amp; &#34;</text>'
    assert tag("g", tag("b", "x")) == "<g><b>x</b></g>"


def test_a_line_breaks_where_there_is_no_number() -> None:
    assert 'd="M0.0 0.0L1.0 1.0M3.0 3.0"' in path([(0, 0), (1, 1), (math.nan, 2), (3, 3)], "line")


def test_names_do_not_cover_each_other() -> None:
    plot = Plot(Axis("x", 0.0, 1.0), Axis("y", 0.0, 1.0), 300, 200)
    middle = (150.0, 80.0)
    assert len(names(plot, [(middle, "one")] * 3, [middle])) == 3
    assert len(names(plot, [(middle, "one")] * 40, [middle])) < 40


def columns(ids: list[str], prediction: list[int], confidence: list[float]) -> Columns:
    label = np.array([0, 1, 2, 3])[[int(i) for i in ids]]
    found = {"sample_id": np.array(ids), "prediction": np.array(prediction), "label": label}
    found |= {"confidence": np.array(confidence), "correct": np.array(prediction) == label}
    return Columns({"test": found})


def test_flips_by_hand() -> None:
    """0 is lost, 1 stays right, 2 is repaired, 3 is lost with more confidence; rows are paired by id."""
    reference = columns(["0", "1", "2", "3"], [0, 1, 9, 3], [0.9, 0.9, 0.4, 0.8])
    quantized = columns(["3", "2", "1", "0"], [7, 2, 1, 5], [0.95, 0.6, 0.9, 0.5])
    found = flips(quantized, reference, "test")
    assert [(f.sample_id, f.lost, f.before, f.after, f.label) for f in found] == [
        ("3", True, 3, 7, 3),
        ("0", True, 0, 5, 0),
        ("2", False, 9, 2, 2),
    ]
    assert (found[0].confidence_before, found[0].confidence_after) == (0.8, 0.95)
    with pytest.raises(DataError, match="cannot be paired"):
        flips(quantized, columns(["0", "1", "2"], [0, 1, 2], [1.0, 1.0, 1.0]), "test")


def test_collection_is_rare_while_figures_are_drawn_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    seen = []
    with suppress(ZeroDivisionError), rare_collection(50_000):
        seen = [gc.get_threshold()]
        1 / 0  # noqa: B018 (a drawing that fails)
    assert seen == [(50_000, *before[1:])]
    assert gc.get_threshold() == before
