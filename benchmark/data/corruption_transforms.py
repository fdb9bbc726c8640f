"""One function per corruption: (image uint8 (H, W, 3), parameters of the severity, rng) -> grey levels (H, W, 3).

Formulas and parameters as named in `benchmark.data.corruptions`. Values may leave [0, 255]; the caller clips them.
`rng` is a NumPy Generator or a RandomState (which replays the draws of the reference implementation in tests).
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmark.data import corruption_fields as fields
from benchmark.utils.image_formats import IMAGE_FORMATS

Pixels = NDArray[np.uint8]
Values = NDArray[np.floating[Any]]


def _unit(image: Pixels) -> Values:
    return image / 255.0


def _levels(values: Any) -> Values:
    """Values in [0, 1] as grey levels."""
    return np.asarray(values * 255)


def gaussian_noise(image: Pixels, scale: float, rng: Generator) -> Values:
    """Adds N(0, scale^2) to values in [0, 1]."""
    return _levels(_unit(image) + rng.normal(size=image.shape, scale=scale))


def shot_noise(image: Pixels, photons: float, rng: Generator) -> Values:
    """Poisson counts at `photons` for a value of 1."""
    return _levels(rng.poisson(_unit(image) * photons) / photons)


def impulse_noise(image: Pixels, amount: float, rng: Generator) -> Values:
    """A share `amount` of all values, each channel by itself, becomes 0 or 255 with equal chance."""
    flipped = rng.random(size=image.shape) <= amount
    salt = rng.random(size=image.shape) <= 0.5
    return np.where(flipped, np.where(salt, 255, 0), image)


def speckle_noise(image: Pixels, scale: float, rng: Generator) -> Values:
    """x + x N(0, scale^2)."""
    values = _unit(image)
    return _levels(values + values * rng.normal(size=image.shape, scale=scale))


def _gaussian(values: Values, sigma: float) -> Values:
    """Gaussian filter of each channel, cut at 4 sigma, edges repeated."""
    return np.asarray(ndimage.gaussian_filter(values, (sigma, sigma, 0), mode="nearest", truncate=4))


def gaussian_blur(image: Pixels, sigma: float, rng: Generator) -> Values:
    """Gaussian filter of `sigma` pixels."""
    return _levels(_gaussian(_unit(image), sigma))


def glass_blur(image: Pixels, parameters: tuple[float, int, int], rng: Generator) -> Values:
    """Blur (sigma), take each pixel from a random neighbour within `reach` (`rounds` times), blur again.

    From the lower right to the upper left, and a pixel that has been replaced may be taken again. The original was
    meant to swap, but copies because of NumPy's views; the released files were made by copying, so this copies too.
    """
    sigma, reach, rounds = parameters
    height, width = image.shape[:2]
    soft = (_gaussian(_unit(image), sigma) * 255).astype(np.uint8)
    rows = np.arange(height - reach, reach, -1)[:, None]
    columns = np.arange(width - reach, reach, -1)[None, :]
    here = (rows * width + columns).ravel()
    origin = list(range(height * width))
    for _ in range(rounds):
        step = np.floor(rng.uniform(-reach, reach, size=(2, len(here)))).astype(np.int64)
        for target, taken in zip(here.tolist(), (here + step[1] * width + step[0]).tolist(), strict=True):
            origin[target] = origin[taken]
    moved = soft.reshape(-1, 3)[np.array(origin)].reshape(image.shape)
    return _levels(_gaussian(_unit(moved), sigma))


def defocus_blur(image: Pixels, parameters: tuple[float, float], rng: Generator) -> Values:
    """Convolution with a disk of `radius`, itself smoothed by a Gaussian of `alias` pixels."""
    return _levels(fields.convolve(_unit(image), fields.disk(*parameters)))


def motion_blur(image: Pixels, parameters: tuple[int, float], rng: Generator) -> Values:
    """One-sided Gaussian average along a line at an angle in [-45, 45] degrees."""
    radius, sigma = parameters
    return fields.drag(image.astype(np.float32), radius, sigma, float(rng.uniform(-45, 45)))


def zoom_blur(image: Pixels, parameters: tuple[float, float], rng: Generator) -> Values:
    """Mean of the image and its enlargements by 1, 1 + step, ... below `end`."""
    end, step = parameters
    factors = np.arange(1, end, step)
    values = image.astype(np.float32)
    total = values.copy()
    for factor in factors:
        total += fields.zoom(values, float(factor))
    return total / np.float32(len(factors) + 1)


def fog(image: Pixels, parameters: tuple[float, float], rng: Generator) -> Values:
    """Adds a plasma fractal, keeping the maximum; (amount, decay of the fractal's roughness)."""
    amount, decay = parameters
    height, width = image.shape[:2]
    values = _unit(image)
    top = values.max()
    haze = fields.plasma(1 << (max(height, width) - 1).bit_length(), decay, rng)[:height, :width, None]
    return _levels((values + amount * haze) * top / (top + amount))


def frost(image: Pixels, parameters: tuple[float, float, float], rng: Generator) -> Values:
    """Weighted sum with a picture of frost: (weight of the image, of the frost, size of the crystals).

    The original crops photographs; here the frost is drawn (`corruption_fields.ice`).
    """
    keep, add, scale = parameters
    return keep * image.astype(np.float64) + add * fields.ice(image.shape[0], image.shape[1], scale, rng)


def snow(image: Pixels, parameters: tuple[float, ...], rng: Generator) -> Values:
    """Thresholded, enlarged and dragged noise over a whitened image.

    Parameters: mean and deviation of the noise, enlargement, threshold, radius and sigma of the drag, weight of the
    image.
    """
    mean, deviation, factor, threshold, radius, sigma, weight = parameters
    values = image.astype(np.float32) / np.float32(255)
    flakes = fields.zoom(rng.normal(size=image.shape[:2], loc=mean, scale=deviation)[..., None], factor)[..., 0]
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))
    flakes = np.floor(flakes * 255).astype(np.float32)
    flakes = fields.drag(flakes[..., None], int(radius), sigma, float(rng.uniform(-135, -45)))[..., 0]
    flakes = np.round(flakes) / 255
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
    values = weight * values + (1 - weight) * np.maximum(values, grey[..., None] * 1.5 + 0.5)
    return _levels(values + (flakes + np.rot90(flakes, 2))[..., None])


def spatter(image: Pixels, parameters: tuple[float, ...], rng: Generator) -> Values:
    """Drops of water (last parameter 0) or mud (1) where smoothed noise exceeds a threshold.

    Parameters: mean and deviation of the noise, smoothing, threshold, strength of water or smoothing of mud, kind.
    """
    mean, deviation, smoothing, threshold, strength, kind = parameters
    noise = rng.normal(size=image.shape[:2], loc=mean, scale=deviation)
    liquid = np.asarray(ndimage.gaussian_filter(noise, smoothing, mode="nearest", truncate=4))
    values = _unit(image)
    if kind == 1:
        mud = ndimage.gaussian_filter((liquid > threshold).astype(np.float32), strength, mode="nearest", truncate=4)
        mud = np.where(mud < 0.8, 0, mud)[..., None]
        return _levels(values * (1 - mud) + mud * np.array([63, 42, 20]) / 255)
    water = fields.droplets(np.where(liquid < threshold, 0, liquid)) * strength
    return _levels(values + water[..., None] * np.array([175, 238, 238]) / 255)


def contrast(image: Pixels, factor: float, rng: Generator) -> Values:
    """Scales each channel around its mean."""
    values = _unit(image)
    means = values.mean(axis=(0, 1), keepdims=True)
    return _levels((values - means) * factor + means)


def brightness(image: Pixels, amount: float, rng: Generator) -> Values:
    """Adds to V of HSV: with hue and saturation kept, the colour scales with V."""
    values = _unit(image)
    peak = values.max(axis=2, keepdims=True)
    raised = np.minimum(peak + amount, 1)
    return _levels(np.where(peak > 0, values * raised / np.where(peak > 0, peak, 1), raised))


def saturate(image: Pixels, parameters: tuple[float, float], rng: Generator) -> Values:
    """S of HSV becomes clip(factor S + offset); grey pixels count as red, the hue 0, as in scikit-image."""
    factor, offset = parameters
    values = _unit(image)
    peak = values.max(axis=2, keepdims=True)
    fall = peak - values  # = V S times the hue's own profile
    depth = fall.max(axis=2, keepdims=True)
    saturation = depth / np.where(peak > 0, peak, 1)
    profile = np.where(depth > 0, fall / np.where(depth > 0, depth, 1), np.array([0.0, 1.0, 1.0]))
    return _levels(peak - peak * np.clip(saturation * factor + offset, 0, 1) * profile)


def jpeg_compression(image: Pixels, quality: int, rng: Generator) -> Values:
    """Encoded and decoded by Pillow at `quality`."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer, formats=IMAGE_FORMATS))


def pixelate(image: Pixels, share: float, rng: Generator) -> Values:
    """Box-filtered down to `share` of the side and up again."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX))


def elastic_transform(image: Pixels, parameters: tuple[float, float, float], rng: Generator) -> Values:
    """A random affine map (corners moved by up to `jitter`), then smooth displacements of `reach` x noise."""
    reach, sigma, jitter = parameters
    height, width = image.shape[:2]
    values = image.astype(np.float32)
    side, centre = min(height, width) // 3, np.array([height // 2, width // 2])
    corners = np.array([centre + side, [centre[0] + side, centre[1] - side], centre - side], np.float64)
    moved = corners + rng.uniform(-jitter, jitter, size=corners.shape)
    matrix = np.linalg.solve(np.c_[moved, np.ones(3)], corners).T  # 2 x 3: back from the moved corners
    y, x = np.mgrid[:height, :width].astype(np.float64)
    back_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    back_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    values = fields.sample(values, back_y, back_x)
    dx = fields.smooth(rng.uniform(-1, 1, size=(height, width)), sigma) * reach
    dy = fields.smooth(rng.uniform(-1, 1, size=(height, width)), sigma) * reach
    return fields.sample(values, y + dy, x + dx)
