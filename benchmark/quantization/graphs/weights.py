"""What a graph says of the layers that have a weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOAT_BITS = 16
"""From so many bits on a weight counts as not quantized."""


@dataclass(frozen=True)
class GraphWeight:
    """The weight of one matrix product or convolution in a graph.

    Attributes:
        dense: the weight that acts on the layer's input, dequantized and with a smoothing of the input undone, float32,
            in the graph's own layout.
        bits: of a code; 32 or 16 where it is stored as floats.
        granularity: "tensor", "channel", "group 64", in words.
        stored_bits: of codes, scales and zero points.
        integer_input: whether the product takes integer codes of its input, so that it runs on integers.
    """

    dense: NDArray[np.float32]
    bits: int
    granularity: str
    stored_bits: int
    integer_input: bool

    @property
    def quantized(self) -> bool:
        """Whether the weight is stored as integer codes."""
        return self.bits < FLOAT_BITS

    @property
    def arithmetic(self) -> str:
        """`w8a8`, `w4`, ... for the name of an engine; empty for float."""
        return f"w{self.bits}{'a8' if self.integer_input else ''}" if self.quantized else ""


def granularity(scales: int, channels: int, weights: int) -> str:
    """In words, from the number of scales, output channels and weights."""
    if scales == 1:
        return "tensor"
    return "channel" if scales <= channels else f"group {weights // scales}"
