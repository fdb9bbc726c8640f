"""Generated corruptions: the 19 types of ImageNet-C x 5 severities, "C-like".

Formulas: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(ICLR 2019) and the scripts that made ImageNet-C, Tiny-ImageNet-C and CIFAR-10-C. The parameters of a severity depend
on the image size as there (`family`). Corruptions are applied to 8-bit images that already have the model's input
size. They are *C-like*, not ImageNet-C, because three things differ: motion blur and snow use a direct sum over
shifted images instead of ImageMagick's; frost uses drawn ice crystals instead of six photographs; the random
numbers differ. `tests/reference/test_corruptions.py` measures how close they are.

What happens to an image depends on (type, severity, sample id, seed) alone, not on batch, order or worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data import corruption_transforms as transforms
from benchmark.data.corruption_names import COMMON, EXTRA
from benchmark.data.corruption_parameters import PARAMETERS, family
from benchmark.errors import InputError, UnknownNameError

Image = NDArray[np.uint8]
Transform = Callable[[NDArray[np.uint8], Any, np.random.Generator], NDArray[Any]]

TRANSFORMS: dict[str, Transform] = {name: getattr(transforms, name) for name in (*COMMON, *EXTRA)}
MINIMUM_SIDE = 32


def generator(corruption: str, severity: int, sample_id: str, seed: int = 0) -> np.random.Generator:
    """The stream of random numbers of one image under one corruption."""
    words = hashlib.sha256(f"{seed}/{corruption}/{severity}/{sample_id}".encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(words[:16], "little"))))


def corrupt(image: Image, corruption: str, severity: int, rng: np.random.Generator) -> Image:
    """One corrupted image.

    Args:
        image: (H, W, 3) uint8, sRGB, each side at least 32.
        corruption: one of `COMMON` or `EXTRA`.
        severity: 1 to 5.
        rng: its stream of random numbers.

    Returns:
        (H, W, 3) uint8; values are cut, not rounded, to whole grey levels, as in the original.

    Raises:
        UnknownNameError: no such corruption.
        InputError: severity or image out of range.
    """
    if corruption not in TRANSFORMS:
        raise UnknownNameError("corruption", corruption, TRANSFORMS)
    if severity not in (1, 2, 3, 4, 5):
        raise InputError(f"severity must be 1 to 5, got {severity}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < MINIMUM_SIDE:
        raise InputError(
            f"corruptions need uint8 images (H, W, 3) of at least {MINIMUM_SIDE} x {MINIMUM_SIDE} pixels, "
            f"got {image.dtype} {image.shape}"
        )
    parameters = PARAMETERS[family(min(image.shape[:2]))][corruption][severity - 1]
    values = TRANSFORMS[corruption](image, parameters, rng)
    # Whole values with a rounding error must not fall to the next lower grey level.
    return np.clip(np.asarray(values, np.float64) + 1e-4, 0, 255).astype(np.uint8)


def corrupt_pixels(
    pixels: NDArray[np.uint8],
    sample_ids: Sequence[str] | NDArray[np.str_],
    corruption: str,
    severity: int,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Corrupt a batch (B, 3, H, W) uint8; `sample_ids` are the B ids that seed the random numbers."""
    out = np.empty_like(pixels)
    for index, sample_id in enumerate(sample_ids):
        image = np.ascontiguousarray(pixels[index].transpose(1, 2, 0))
        rng = generator(corruption, severity, str(sample_id), seed)
        out[index] = corrupt(image, corruption, severity, rng).transpose(2, 0, 1)
    return out
