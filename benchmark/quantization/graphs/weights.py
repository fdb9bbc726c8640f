"""What a graph says of the layers that have a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOAT_BITS = 16
"""From so many bits on a weight counts as not quantized."""


@dataclass(frozen=True)
class GraphWeight:
    """The weight of one matrix product or convolution in a graph.

    Attributes:
        dense: the weight that acts on the layer's input, dequantized and with a smoothing of the input undone, float32:
            (out, in) of a product, (out, in / groups, h, w) of a convolution.
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


def matched(
    layers: Mapping[str, NDArray[np.float32]], said: Sequence[str | None], weights: Sequence[NDArray[np.float32]]
) -> list[str | None]:
    """The layer of each weight in a graph.

    Args:
        layers: name -> weight (out, ...), in the model's order. said: the name that the graph gives, if any.
        weights: (out, ...) each. One without a known name belongs to the first layer left whose rows have the same
            directions: a batch norm that is folded into a convolution scales its rows.
    """
    found = [name if name in layers else None for name in said]
    for place, weight in enumerate(weights):
        if found[place] is None:
            left = (name for name in layers if name not in found)
            found[place] = next((name for name in left if _parallel(layers[name], weight)), None)
    return found


def _parallel(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    if first.size != second.size or len(first) != len(second):
        return False
    one, other = first.reshape(len(first), -1), second.reshape(len(second), -1)
    dots = np.abs(np.einsum("ij,ij->i", one, other))
    return bool((dots >= (1 - 1e-4) * np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)).all())


def granularity(scales: int, channels: int, weights: int) -> str:
    """In words, from the number of scales, output channels and weights."""
    if scales == 1:
        return "tensor"
    return "channel" if scales <= channels else f"group {weights // scales}"
