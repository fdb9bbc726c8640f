"""The pieces that corruptions are made of: kernels, drags, zooms, fractals, ice, drops. Pure NumPy and SciPy."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import fft, ndimage

Field = NDArray[np.floating[Any]]
Index = NDArray[np.int64]


@functools.cache
def disk(radius: float, alias: float) -> Field:
    """Normalised disk of `radius` pixels, then smoothed by a Gaussian of `alias` pixels (3 taps; 5 beyond radius 8).

    As in the original the smoothing mirrors at the kernel's edge, so the sum is not exactly 1 where the disk fills it.
    """
    reach = 8 if radius <= 8 else math.ceil(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (x**2 + y**2 <= radius**2).astype(np.float64)
    kernel /= kernel.sum()
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    weights = np.exp(-(taps**2) / (2 * alias**2))
    weights /= weights.sum()
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, weights, axis=axis, mode="mirror")
    margin = int(np.argmax(kernel.any(axis=1)))
    return np.asarray(kernel[margin : len(kernel) - margin, margin : len(kernel) - margin])


def convolve(values: Field, kernel: Field) -> Field:
    """Convolution of each channel (H, W, C) with a symmetric kernel, edges mirrored without repeating the edge."""
    reach = len(kernel) // 2
    height, width = values.shape[:2]
    padded = np.pad(values, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    shape = (fft.next_fast_len(padded.shape[0], True), fft.next_fast_len(padded.shape[1], True))
    product = fft.rfft2(padded, shape, axes=(0, 1)) * fft.rfft2(kernel, shape)[..., None]
    whole = fft.irfft2(product, shape, axes=(0, 1))
    return np.asarray(whole[2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width])


def drag(values: Field, radius: int, sigma: float, angle: float) -> Field:
    """Weighted sum of copies (H, W, C) shifted along a line; edges repeated.

    Weights are a one-sided Gaussian over 2 radius + 1 steps of one pixel; `angle` in degrees.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    radians = math.radians(angle)
    height, width = values.shape[:2]
    reach = 2 * radius
    padded = np.pad(values, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    out = np.zeros(values.shape, np.float32)
    for step, weight in zip(steps.tolist(), weights, strict=True):
        dy, dx = -math.ceil(step * math.sin(radians) - 0.5), -math.ceil(step * math.cos(radians) - 0.5)
        if abs(dy) >= height or abs(dx) >= width:
            break
        out += weight * padded[reach - dy : reach - dy + height, reach - dx : reach - dx + width]
    return out


def _line(length: int, factor: float) -> tuple[Index, Field]:
    """Lower index and fraction of the linear interpolation that enlarges the middle of `length` samples."""
    crop = math.ceil(length / factor)
    grown = round(crop * factor)
    place = np.arange(grown) * ((crop - 1) / (grown - 1) if grown > 1 else 0)
    trim = (grown - length) // 2
    place = place[trim : trim + length]
    low = np.minimum(place.astype(np.int64), max(crop - 2, 0))
    return low + (length - crop) // 2, (place - low).astype(np.float32)


def zoom(values: Field, factor: float) -> Field:
    """The middle of (H, W, C) enlarged to the whole size by linear interpolation, float32.

    Like `scipy.ndimage.zoom(order=1)` of the centre crop, but separable.
    """
    values = values.astype(np.float32, copy=False)
    for axis, length in enumerate(values.shape[:2]):
        low, share = _line(length, factor)
        high = np.minimum(low + 1, length - 1)
        share = share.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first = values.take(low, axis)
        values = first + (values.take(high, axis) - first) * share
    return values


def plasma(side: int, decay: float, rng: Generator) -> Field:
    """Diamond-square fractal on a torus: (side, side) in [0, 1]; `side` a power of two.

    Each new point is the mean of four neighbours plus uniform noise, whose amplitude falls by `decay` a level. As in
    the original the noise enters twice (100 x uniform(-100, 100) at the first level).
    """
    field = np.zeros((side, side))
    step, amplitude = side, 100.0

    def noisy(total: Field) -> Field:
        return np.asarray(total / 4 + amplitude * rng.uniform(-amplitude, amplitude, total.shape))

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        total = corners + np.roll(corners, -1, 0)
        total = total + np.roll(total, -1, 1)
        field[half::step, half::step] = centres = noisy(total)
        field[::step, half::step] = noisy(centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1))
        field[half::step, ::step] = noisy(centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0))
        step, amplitude = half, amplitude / decay
    field -= field.min()
    return np.asarray(field / field.max())


def ice(height: int, width: int, scale: float, rng: Generator) -> Field:
    """A drawn picture of frost: (H, W, 3) grey levels; bluish ground, white needles in fans, ridges between.

    `scale` shrinks the crystals as the original shrinks its photographs.
    """
    side = 1 << (max(height, width) - 1).bit_length()
    ridges = 1 - np.abs(2 * plasma(side, 1.7, rng)[:height, :width] - 1)
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    count = max(4, round(height * width / (900 * max(scale, 0.3) ** 1.5)))
    places = rng.uniform(0, 1, size=(count, 2)) * [width, height]
    angles, spreads = rng.uniform(0, 2 * math.pi, size=count), rng.uniform(0.1, 0.5, size=count)
    lengths = rng.uniform(15, 70, size=(count, 7)) * scale
    lights = rng.uniform(90, 255, size=(count, 7))
    for place, angle, spread, length, light in zip(places, angles, spreads, lengths, lights, strict=True):
        for index in range(7):
            turn = angle + spread * (index - 3)
            end = (place[0] + length[index] * math.cos(turn), place[1] + length[index] * math.sin(turn))
            draw.line((float(place[0]), float(place[1]), *end), fill=int(light[index]))
    needles = ndimage.gaussian_filter(np.asarray(canvas, np.float64) / 255, 0.8)
    white = np.clip(0.15 + 0.45 * ridges**3 + 0.9 * needles, 0, 1)[..., None]
    return np.asarray(white * np.array([235.0, 243.0, 250.0]) + (1 - white) * np.array([45.0, 60.0, 80.0]))


def droplets(liquid: Field) -> Field:
    """Light on drops of water, in [0, 1]: bright where the liquid is deep and its edge far, by equalised distance.

    `liquid` is (H, W), 0 outside the drops. The edge is the rim of the drops (the original runs Canny's detector).
    """
    level = np.floor(np.clip(liquid, 0, 1) * 255)
    wet = level > 0
    rim = wet & ~ndimage.binary_erosion(wet)
    if not rim.any():
        return np.zeros(liquid.shape)
    far = np.minimum(ndimage.distance_transform_edt(~rim), 20)
    far = np.floor(ndimage.uniform_filter(far, 3, mode="mirror") + 1e-6).astype(np.int64)
    ranks = np.cumsum(np.bincount(far.ravel(), minlength=256))
    first = ranks[far.min()]
    even = (ranks[far] - first) / max(ranks[-1] - first, 1) * 255
    bevel = ndimage.correlate(even, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror")
    light = level * ndimage.uniform_filter(np.clip(bevel, 0, 255), 3, mode="mirror")
    return np.asarray(light / light.max()) if light.max() > 0 else light


def smooth(noise: Field, sigma: float) -> Field:
    """Gaussian filter of (H, W), cut at 3 sigma, edges reflected; by cosine transform, so sigma may be large."""
    if sigma <= 0:
        return noise
    reach = int(3 * sigma + 0.5)
    taps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    weights /= weights.sum()
    spectrum = fft.dctn(noise)
    for axis, length in enumerate(noise.shape):
        response = np.cos(np.pi * np.outer(np.arange(length), taps) / length) @ weights
        spectrum = spectrum * (response[:, None] if axis == 0 else response[None, :])
    return np.asarray(fft.idctn(spectrum))


def sample(values: Field, y: Field, x: Field) -> Field:
    """Bilinear values of (H, W, C) at real coordinates (H, W), mirrored at the edges."""
    height, width = values.shape[:2]
    low_y, low_x = np.floor(y), np.floor(x)
    share_y, share_x = (y - low_y).astype(np.float32)[..., None], (x - low_x).astype(np.float32)[..., None]
    rows = [_mirror(low_y.astype(np.int64) + step, height) for step in (0, 1)]
    columns = [_mirror(low_x.astype(np.int64) + step, width) for step in (0, 1)]
    upper = values[rows[0], columns[0]] * (1 - share_x) + values[rows[0], columns[1]] * share_x
    lower = values[rows[1], columns[0]] * (1 - share_x) + values[rows[1], columns[1]] * share_x
    return np.asarray(upper * (1 - share_y) + lower * share_y)


def _mirror(index: Index, length: int) -> Index:
    """Indices reflected at the outer edge of the first and last pixel."""
    index = np.mod(index, 2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)
