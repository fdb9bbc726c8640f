"""Series can be told apart without full colour vision: by their colours as others see them, and without any colour."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.metrics.uncertainty import Estimate
from benchmark.report.looks import REFERENCE as CROSS
from benchmark.report.looks import SHAPES, look
from benchmark.results import sweep
from benchmark.results.compare import Change
from benchmark.results.palette import DARK, LIGHT, REFERENCE

VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB."""
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
LEAST_DISTANCE, LEAST_CONTRAST = 15.0, 2.95
THEMES = {"light": (LIGHT, "#ffffff"), "dark": (DARK, "#1a1f26")}


def linear(colour: str) -> NDArray[np.float64]:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of linear RGB, white point D65."""
    xyz = XYZ @ rgb.clip(0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_simulation_knows_confusing_colours() -> None:
    """Red and green of one lightness: far apart for most, near for deuteranopes."""
    red, green = linear("#b06000"), linear("#6a7f00")
    seen = [np.linalg.norm(lab(np.array(VISIONS[v]) @ red) - lab(np.array(VISIONS[v]) @ green)) for v in VISIONS]
    assert seen[0] > 35
    assert seen[2] < 12


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("vision", VISIONS)
def test_any_two_series_differ_for_every_vision(theme: str, vision: str) -> None:
    colours = {
        colour: lab(np.array(VISIONS[vision]) @ linear(colour)) for colour in (*THEMES[theme][0], REFERENCE[theme])
    }
    near = min((float(np.linalg.norm(colours[a] - colours[b])), a, b) for a, b in combinations(colours, 2))
    assert near[0] >= LEAST_DISTANCE, near


@pytest.mark.parametrize("theme", THEMES)
def test_series_stand_out_from_the_card(theme: str) -> None:
    card = float(XYZ[1] @ linear(THEMES[theme][1]))
    for colour in THEMES[theme][0]:
        low, high = sorted((float(XYZ[1] @ linear(colour)), card))
        assert (high + 0.05) / (low + 0.05) >= LEAST_CONTRAST, colour


def test_the_page_uses_this_palette() -> None:
    css = files("benchmark.report").joinpath("page.css").read_text(encoding="utf-8")
    blocks = [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r"\{([^{}]*--c0: #[^{}]*)\}", css)]
    for block, theme in zip(blocks, ("light", "dark", "dark"), strict=True):
        assert tuple(block[f"c{i}"] for i in range(len(LIGHT))) == THEMES[theme][0]
        assert (block["ref"], block["card"]) == (REFERENCE[theme], THEMES[theme][1])


def test_series_have_a_shape_of_their_own() -> None:
    assert len({look(i) for i in range(64)}) == 64
    assert len({look(i)[1] for i in range(8)}) == 8
    assert CROSS not in {look(i)[1] for i in range(64)}
    assert len(SHAPES) == 9


def test_the_sweeps_figure_tells_methods_apart_by_colour_and_marker() -> None:
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    methods = [f"m{i}" for i in range(8)]
    rows: list[dict[str, Any]] = [
        {"quantization": m, "method": m, "effective_bits": float(i + 2), "accuracy": 0.5} for i, m in enumerate(methods)
    ]
    change = Change("m", "m0", "m0", "a/b/accuracy", "higher", 0.5, 0.5, 0.0, Estimate(0.0, 0.05, 60.0, 0.0))
    axes = Figure().subplots()
    sweep._panel(axes, rows, "accuracy", {"m0": change})
    points = [container.lines[0] for container in axes.containers]
    assert [to_hex(line.get_color()) for line in points] == list(LIGHT)
    assert len({line.get_marker() for line in points}) == 8
