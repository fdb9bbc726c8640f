"""The shapes of the demo scenes, as implicit functions.

Each function maps coordinates `x`, `y` (float32 arrays of one shape; x to the right, y up; the shape lies in about
[-1, 1] x [-1, 1]) to a float32 array that is negative inside the shape, zero on its edge and positive outside, and
near the edge grows about as fast as the distance to it. That is all that anti-aliased filling and outlining need.
The constructions are the usual ones: half planes joined by `max`, unions by `min`, symmetry by `abs` and folding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

Plane = NDArray[np.float32]
Shape = Callable[[Plane, Plane], Plane]


def as_plane(values: ArrayLike) -> Plane:
    """The values as float32, without a copy where they are so already."""
    return np.asarray(values, np.float32)


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _fold(x: Plane, y: Plane, sectors: int) -> tuple[Plane, Plane]:
    """Fold the plane into half of one of `sectors` equal sectors; the first sector is centred on the y axis."""
    width = np.float32(2 * np.pi / sectors)
    angle = np.arctan2(x, y)
    angle = np.abs(angle - width * np.round(angle / width))
    radius = np.hypot(x, y)
    return radius * np.cos(angle), radius * np.sin(angle)


def circle(x: Plane, y: Plane) -> Plane:
    return np.hypot(x, y) - np.float32(0.88)


def square(x: Plane, y: Plane) -> Plane:
    return _box(x, y, 0.78, 0.78)


def triangle(x: Plane, y: Plane) -> Plane:
    return as_plane(np.maximum(-y - 0.5, 0.866 * np.abs(x) + 0.5 * y - 0.5))


def star(x: Plane, y: Plane) -> Plane:
    # The edge runs from the tip (1, 0) to the notch at radius 0.42 and half a sector's angle.
    notch_x, notch_y = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
    normal = np.array([notch_y, 1.0 - notch_x], np.float32)
    normal /= np.float32(np.hypot(normal[0], normal[1]))
    along, across = _fold(x, y, 5)
    return as_plane(normal[0] * (along - 1) + normal[1] * across)


def heart(x: Plane, y: Plane) -> Plane:
    # Two quarter discs over a right angle standing on its tip.
    u, v = np.abs(x) * np.float32(0.6), y * np.float32(0.6) + np.float32(0.55)
    lobe = np.hypot(u - 0.25, v - 0.75) - np.float32(np.sqrt(2) / 4)
    diagonal = np.maximum(u + v, 0) / 2
    edge = np.minimum(np.hypot(u, v - 1), np.hypot(u - diagonal, v - diagonal))
    return as_plane(np.where(u + v > 1, lobe, edge * np.sign(u - v)) / np.float32(0.6))


def cross(x: Plane, y: Plane) -> Plane:
    return np.minimum(_box(x, y, 0.92, 0.32), _box(x, y, 0.32, 0.92))


def ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.hypot(x, y) - np.float32(0.68)) - np.float32(0.24)


def crescent(x: Plane, y: Plane) -> Plane:
    return as_plane(np.maximum(np.hypot(x, y) - 0.92, 0.78 - np.hypot(x - np.float32(0.44), y)))


def arrow(x: Plane, y: Plane) -> Plane:
    shaft = _box(x + np.float32(0.4), y, 0.5, 0.24)
    head = np.maximum(0.05 - x, (0.75 * (x - 0.95) + 0.9 * np.abs(y)) / np.float32(np.hypot(0.75, 0.9)))
    return as_plane(np.minimum(shaft, head))


def hexagon(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x), 0.5 * np.abs(x) + 0.866 * np.abs(y)) - np.float32(0.82)


def drop(x: Plane, y: Plane) -> Plane:
    # A disc and the cone of its two tangents from the tip (0, 1).
    sine = 0.58 / 1.3
    cosine = float(np.sqrt(1 - sine**2))
    cone = np.maximum(np.abs(x) * cosine + (y - 1) * sine, -0.3 + 0.58 * sine - y)
    return as_plane(np.minimum(np.hypot(x, y + np.float32(0.3)) - np.float32(0.58), cone))


def diamond(x: Plane, y: Plane) -> Plane:
    return as_plane((np.abs(x) / 0.58 + np.abs(y) / 0.98 - 1) * np.float32(0.5))


def pentagon(x: Plane, y: Plane) -> Plane:
    # Folded about its corners' opposite sides, so that a flat side lies at the top.
    return _fold(x, y, 5)[0] - np.float32(0.76)


def house(x: Plane, y: Plane) -> Plane:
    walls = _box(x, y + np.float32(0.4), 0.55, 0.45)
    roof = np.maximum(-y, 0.707 * np.abs(x) + 0.707 * (y - 0.9))
    return np.minimum(walls, roof)


def clover(x: Plane, y: Plane) -> Plane:
    return np.hypot(np.abs(x) - np.float32(0.45), np.abs(y) - np.float32(0.45)) - np.float32(0.47)


def hourglass(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(y) - 0.88, (np.abs(x) - 0.1 - 0.75 * np.abs(y)) * np.float32(0.8))


def gear(x: Plane, y: Plane) -> Plane:
    teeth = np.clip(3 * np.cos(8 * np.arctan2(y, x)), -1, 1)
    return as_plane(np.hypot(x, y) - np.float32(0.76) - np.float32(0.14) * teeth)


def semicircle(x: Plane, y: Plane) -> Plane:
    return as_plane(np.maximum(np.hypot(x, y + np.float32(0.45)) - 0.95, -y - 0.45))


def trapezoid(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(y) - 0.58, (np.abs(x) - 0.62 + 0.55 * y) * np.float32(0.88))


def tee(x: Plane, y: Plane) -> Plane:
    return np.minimum(_box(x, y - np.float32(0.6), 0.85, 0.28), _box(x, y + np.float32(0.15), 0.28, 0.75))


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "circle": circle,
        "square": square,
        "triangle": triangle,
        "star": star,
        "heart": heart,
        "cross": cross,
        "ring": ring,
        "crescent": crescent,
        "arrow": arrow,
        "hexagon": hexagon,
        "drop": drop,
        "diamond": diamond,
    }
)
"""The shapes of the classes."""

UNSEEN_SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "pentagon": pentagon,
        "house": house,
        "clover": clover,
        "hourglass": hourglass,
        "gear": gear,
        "semicircle": semicircle,
        "trapezoid": trapezoid,
        "tee": tee,
    }
)
"""The shapes of the near out-of-distribution split: they never occur in training."""
