"""How a series looks: a colour class of the style sheet and a shape, so that colour is never the only mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmark.results.palette import LIGHT

COLOURS = len(LIGHT)
CORNERS: Mapping[str, Sequence[tuple[float, float]]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
    "triangle": [(0, -1.15), (1.1, 0.9), (-1.1, 0.9)],
    "down": [(0, 1.15), (-1.1, -0.9), (1.1, -0.9)],
    "bar": [(-1.4, -0.5), (1.4, -0.5), (1.4, 0.5), (-1.4, 0.5)],
    "hourglass": [(-1.0, -1.1), (1.0, -1.1), (0.2, 0), (1.0, 1.1), (-1.0, 1.1), (-0.2, 0)],
    "plus": [
        (-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4),
        (0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4),
    ],
    "cross": [
        (0, -0.55), (0.65, -1.2), (1.2, -0.65), (0.55, 0), (1.2, 0.65), (0.65, 1.2),
        (0, 0.55), (-0.65, 1.2), (-1.2, 0.65), (-0.55, 0), (-1.2, -0.65), (-0.65, -1.2),
    ],
}  # fmt: skip
"""Of shapes other than the circle, in units of the size."""
SHAPES = ("circle", *CORNERS)
TRIANGLE, REFERENCE = SHAPES.index("triangle"), SHAPES.index("cross")
"""What lies beyond the edge; full precision, whose shape no series has."""


def look(index: int) -> tuple[str, int]:
    """Colour class and shape of a series: any two of the first 64 differ in one, of the first 8 in both."""
    return f"c{index % COLOURS}", (index + index // COLOURS) % REFERENCE
