"""Calibration data: the image-caption pairs that data-dependent quantizers use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Calibration:
    """Image-caption pairs, or images alone for methods that look at the image tower only.

    Attributes:
        pixels: (N, 3, H, W) uint8, possibly memory-mapped, at the model's input size.
        captions: N texts, or none.
        digest: content hash of the pairs and of their order; part of every evaluation's key.
    """

    pixels: NDArray[np.uint8]
    captions: Sequence[str]
    digest: str
