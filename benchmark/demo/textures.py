"""Backgrounds and object-free textures of the demo scenes.

A pattern is a function of the pixel grid and a generator that returns a plane of mixing weights: float32 (64, 64) in
[0, 1]. It draws its own orientation, wavelength and phase, always the same number of values in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from benchmark.demo.shapes import Plane, as_plane

SIDE = 64
"""Height and width of every image, in pixels."""

Pattern = Callable[[np.random.Generator], Plane]

_STEPS = np.arange(SIDE, dtype=np.float32) + np.float32(0.5) - np.float32(SIDE / 2)
GRID_X, GRID_Y = np.meshgrid(_STEPS, -_STEPS)
"""Pixel centres relative to the middle of the image; x to the right, y up."""


def _interpolation(cells: int) -> Plane:
    """Rows of smooth-step weights (SIDE, cells + 1) that spread `cells + 1` knots over the side of the image."""
    place = (np.arange(SIDE) + 0.5) / SIDE * cells
    left = np.minimum(place.astype(np.int64), cells - 1)
    part = place - left
    part = part * part * (3 - 2 * part)
    weights = np.zeros((SIDE, cells + 1), np.float32)
    weights[np.arange(SIDE), left] = 1 - part
    weights[np.arange(SIDE), left + 1] = part
    return weights


_KNOTS = {cells: _interpolation(cells) for cells in (3, 5, 10)}


def value_noise(rng: np.random.Generator, cells: int) -> Plane:
    """Smooth noise in [0, 1]: random values on a grid of `cells` (3, 5 or 10) cells a side, interpolated."""
    knots = rng.random((cells + 1, cells + 1), dtype=np.float32)
    return as_plane(_KNOTS[cells] @ knots @ _KNOTS[cells].T)


def _turned(rng: np.random.Generator) -> tuple[Plane, Plane]:
    angle, shift_x, shift_y = rng.random(3, dtype=np.float32) * np.array([np.pi, SIDE, SIDE], np.float32)
    cosine, sine = np.cos(angle), np.sin(angle)
    return cosine * GRID_X + sine * GRID_Y + shift_x, cosine * GRID_Y - sine * GRID_X + shift_y


def _soft(wave: Plane) -> Plane:
    """A sine in [-1, 1] with its flanks made steeper, as a weight in [0, 1]."""
    return as_plane(np.float32(0.5) + np.clip(np.float32(1.5) * wave, -0.5, 0.5))


def _wave_number(rng: np.random.Generator, low: float, high: float) -> np.float32:
    return np.float32(2 * np.pi / rng.uniform(low, high))


def stripes(rng: np.random.Generator) -> Plane:
    along, _ = _turned(rng)
    return _soft(np.sin(along * _wave_number(rng, 7, 16)))


def checks(rng: np.random.Generator) -> Plane:
    along, across = _turned(rng)
    wave = _wave_number(rng, 12, 24)
    return _soft(2 * np.sin(along * wave) * np.sin(across * wave))


def dots(rng: np.random.Generator) -> Plane:
    along, across = _turned(rng)
    period = np.float32(rng.uniform(8, 14))
    radius = np.hypot(along % period - period / 2, across % period - period / 2)
    return as_plane(np.clip(period * np.float32(0.28) - radius + np.float32(0.5), 0, 1))


def ripples(rng: np.random.Generator) -> Plane:
    centre = rng.uniform(-40, 40, 2).astype(np.float32)
    radius = np.hypot(GRID_X - centre[0], GRID_Y - centre[1])
    return _soft(np.sin(radius * _wave_number(rng, 7, 14)))


def clouds(rng: np.random.Generator) -> Plane:
    mixed = np.float32(0.65) * value_noise(rng, 5) + np.float32(0.35) * value_noise(rng, 10)
    return as_plane(np.clip(np.float32(2) * mixed - np.float32(0.5), 0, 1))


def bricks(rng: np.random.Generator) -> Plane:
    height, shift_x, shift_y = np.float32(rng.uniform(7, 11)), np.float32(rng.uniform(0, 20)), rng.uniform(0, 20)
    rows = (GRID_Y + np.float32(shift_y)) / height
    columns = (GRID_X + shift_x) / (2 * height) + np.float32(0.5) * (np.floor(rows) % 2)
    from_bed = np.minimum(rows % 1, 1 - rows % 1) * height
    from_joint = np.minimum(columns % 1, 1 - columns % 1) * 2 * height
    return as_plane(np.clip(np.minimum(from_bed, from_joint) - np.float32(0.3), 0, 1))


BACKGROUND_PATTERNS: Mapping[str, Pattern] = MappingProxyType(
    {"stripes": stripes, "checks": checks, "dots": dots, "ripples": ripples, "clouds": clouds, "bricks": bricks}
)


def _zigzag(rng: np.random.Generator) -> Plane:
    along, across = _turned(rng)
    period = np.float32(rng.uniform(14, 26))
    bend = np.abs(across % period - period / 2)
    return _soft(np.sin((along + bend) * _wave_number(rng, 8, 16)))


def _mosaic(rng: np.random.Generator) -> Plane:
    return np.kron(rng.random((8, 8), dtype=np.float32), np.ones((SIDE // 8, SIDE // 8), np.float32))


def _grain(rng: np.random.Generator) -> Plane:
    return np.repeat(np.repeat(rng.random((SIDE // 2, SIDE // 2), dtype=np.float32), 2, 0), 2, 1)


def _wood(rng: np.random.Generator) -> Plane:
    along, across = _turned(rng)
    return _soft(np.sin((along + np.float32(0.15) * across + 14 * value_noise(rng, 3)) * _wave_number(rng, 5, 10)))


def _plasma(rng: np.random.Generator) -> Plane:
    return _soft(np.sin(np.float32(4 * np.pi) * value_noise(rng, 3)))


def _ramp(rng: np.random.Generator) -> Plane:
    along, _ = _turned(rng)
    low, high = along.min(), along.max()
    return as_plane((along - low) / (high - low))


FAR_PATTERNS: Mapping[str, Pattern] = MappingProxyType(
    {"zigzag": _zigzag, "mosaic": _mosaic, "grain": _grain, "wood": _wood, "plasma": _plasma, "ramp": _ramp}
)
"""Textures of the far out-of-distribution split: none is a background of the scenes."""


def far_texture(rng: np.random.Generator, name: str) -> Plane:
    """An object-free texture in free colours: float32 (64, 64, 3) in [0, 255]; each channel has its own weights mix."""
    first, second = FAR_PATTERNS[name](rng), FAR_PATTERNS[name](rng)
    tones = rng.uniform(0, 255, (3, 3)).astype(np.float32)
    image = tones[0] + first[..., None] * (tones[1] - tones[0])
    share = second[..., None] * np.float32(rng.uniform(0, 0.6))
    return as_plane((image + share * (tones[2] - image)).astype(np.float32))
