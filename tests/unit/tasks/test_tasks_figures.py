"""What the figures of tasks say: the numbers, names and places that a reader takes from them."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from tasks import figures


def said(axes: Axes) -> tuple[str, str]:
    return axes.get_xlabel(), axes.get_ylabel()


def shown(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def test_a_reliability_diagram() -> None:
    full = np.array([[0.2, 0.25, 10.0], [np.nan, np.nan, 0.0], [0.9, 0.8, 30.0]])
    this = np.array([[0.3, 0.35, 20.0], [0.5, 0.5, 5.0], [0.8, 0.7, 15.0]])
    (axes,) = figures.reliability({figures.FULL: full, figures.THIS: this}).axes
    assert said(axes) == ("mean confidence in the bin", "accuracy in the bin")
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (0, 1))
    assert legend(axes) == ["perfect", figures.FULL, figures.THIS]
    perfect, before, now = axes.lines
    np.testing.assert_array_equal(perfect.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(before.get_xydata(), full[[0, 2], :2])  # an empty bin has no point
    np.testing.assert_array_equal(now.get_xydata(), this[:, :2])
    old_points, arrows, points = axes.collections
    np.testing.assert_allclose(arrows.get_offsets(), full[[0, 2], :2])
    np.testing.assert_allclose(np.column_stack([arrows.U, arrows.V]), (this - full)[[0, 2], :2])
    np.testing.assert_allclose(old_points.get_sizes(), [10 + 150 * 0.25, 10 + 150 * 0.75])  # areas: shares of images
    np.testing.assert_allclose(points.get_sizes(), 10 + 150 * this[:, 2] / 40)
    assert to_hex(old_points.get_facecolor()[0]) == to_hex(figures.GREY)


def test_a_heat_map_writes_each_value_at_its_place() -> None:
    values = np.array([[0.25, 0.75, 1.0], [0.5, 0.0, 0.125]])
    axes, bar = figures.heat_map(values, ["fog", "snow"], ["1", "2", "3"], ("Accuracy", "severity")).axes
    assert shown(axes) == ["0.25", "0.75", "1.00", "0.50", "0.00", "0.12"]
    assert [text.get_position() for text in axes.texts] == [(c, r) for r in range(2) for c in range(3)]
    assert [to_hex(t.get_color()) for t in axes.texts] == [to_hex(c) for c in ("w", "k", "k", "w", "w", "w")]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["fog", "snow"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3"]
    assert said(axes)[0] == "severity"
    np.testing.assert_array_equal(axes.images[0].get_array(), values)
    assert axes.images[0].get_clim() == (0, 1)
    assert bar.get_ylim() == (0, 1)


def test_histograms_of_this_filled_and_of_full_precision_as_lines() -> None:
    now = {
        "low": np.array([0.0, 1.0]),
        "high": np.array([1.0, 2.0]),
        "a": np.array([0.2, 0.8]),
        "b": np.array([1.0, 0]),
    }
    before = {**now, "low": np.array([-1.0, 1.0]), "a": np.array([1.6, 0.4])}
    (axes,) = figures.histograms({"near": [now, before]}, "score", {"a": "in", "b": "out"}).axes
    assert axes.get_title() == "near"
    assert said(axes)[0] == "score"
    assert legend(axes) == ["in", "out"]
    steps = axes.artists or axes.patches
    assert [step.get_fill() for step in steps] == [True, True, False, False]
    np.testing.assert_array_equal(steps[0].get_data().values, now["a"])
    np.testing.assert_array_equal(steps[2].get_data().edges, [-1.0, 1.0, 2.0])
    assert axes.get_xlim() == pytest.approx((-1.15, 2.15))  # 5 % of the width on either side
    assert axes.get_ylim() == pytest.approx((0, 1.05 * 1.6))


def test_curves_with_points_have_a_tick_at_each() -> None:
    lines = {
        "clean": (np.array([1.0, 2.0]), np.array([0.9, 0.8])),
        "full precision": (np.array([3.0]), np.array([0.7])),
    }
    (axes,) = figures.curves(lines, "By severity", "severity", "accuracy", points=True, line_at=1.5).axes
    assert said(axes) == ("severity", "accuracy")
    assert list(axes.get_xticks()) == [1, 2, 3]
    assert legend(axes) == ["clean", "full precision"]
    assert [line.get_marker() for line in axes.lines] == ["o", "o", "None"]
    assert list(axes.lines[2].get_xdata()) == [1.5, 1.5]
    assert axes.get_ylim()[0] == 0
    (free,) = figures.curves(lines, "t", "x", "y", limits=(0, 1), heights=(0.5, 1)).axes
    assert (free.get_xlim(), free.get_ylim()) == ((0, 1), (0.5, 1))


def test_bars_stand_in_clusters_and_say_their_heights() -> None:
    groups = {"cat": {"common": 0.9, "counter": 0.5}, "dog": {"common": 0.8, "counter": 0.75}}
    (axes,) = figures.grouped_bars(groups, "Groups").axes
    assert said(axes)[1] == "accuracy"
    assert [bar.get_height() for bar in axes.patches] == [0.9, 0.8, 0.5, 0.75]
    assert [bar.get_x() for bar in axes.patches] == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    assert shown(axes) == ["0.90", "0.80", "0.50", "0.75"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["cat", "dog"]
    assert list(axes.get_xticks()) == pytest.approx([0.2, 1.2])
    assert legend(axes) == ["common", "counter"]
    assert axes.get_ylim() == (0, 1.05)


def test_dumbbells_from_one_side_to_the_other() -> None:
    pairs = {"cat": {"common": 0.9, "counter": 0.5}, "dog": {"common": 0.8, "counter": 0.85}}
    (axes,) = figures.dumbbells(pairs, "Shift", {"cat": "100 images", "dog": "7 images"}).axes
    assert said(axes)[0] == "accuracy"
    lines, common, counter = axes.collections
    assert [sorted(segment[:, 0]) for segment in lines.get_segments()] == [[0.5, 0.9], [0.8, 0.85]]
    assert [tuple(at) for at in common.get_offsets()] == [(0.9, 0), (0.8, 1)]
    assert [tuple(at) for at in counter.get_offsets()] == [(0.5, 0), (0.85, 1)]
    assert shown(axes) == ["100 images", "7 images"]
    assert [text.xy for text in axes.texts] == [(1.0, 0), (1.0, 1)]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cat", "dog"]
    assert axes.yaxis_inverted()
    assert legend(axes) == ["common", "counter"]
