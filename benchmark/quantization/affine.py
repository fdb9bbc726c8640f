r"""Affine quantization in plain torch: the reference of every simulated method.

.. math:: c = \mathrm{clamp}(\mathrm{round}(x / s) + z,\ -2^{b-1},\ 2^{b-1} - 1), \qquad \hat{x} = (c - z)\, s

with scale `s` and zero point `z` shared by a whole tensor, an output channel, or a group of consecutive input
weights of a channel. Rounding is half to even. Codes are signed whatever the symmetry. Source: Jacob et al., 2018
(arXiv 1712.05877); the range conventions are those of torchao's quantization primitives:

- symmetric: `s = max|x| / ((2^b - 1) / 2)`, `z = 0`; all 2^b codes are used;
- asymmetric: the range is widened to hold 0, `s = (max - min) / (2^b - 1)`, `z` is an integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.quantization.base import Granularity


@dataclass(frozen=True)
class Scheme:
    """Bits, granularity and symmetry of an affine quantization."""

    bits: int
    granularity: Granularity = "channel"
    group_size: int | None = None
    symmetric: bool = True

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1

    def grouped(self, weight: Tensor) -> Tensor:
        """Weight (O, ...) as a view (O, G, S): S weights share a scale; per tensor, all of them do (1, 1, O * S)."""
        if self.granularity == "tensor":
            return weight.reshape(1, 1, -1)
        flat = weight.reshape(weight.shape[0], -1)
        return flat.reshape(flat.shape[0], -1, self.group_size or flat.shape[1])


@dataclass(frozen=True)
class QuantizedWeight:
    """Integer codes with their scales and zero points.

    Attributes:
        codes: (R, G, S) int8, as `Scheme.grouped` lays the weight out.
        scale: (R, G, 1) float32, positive.
        zero_point: (R, G, 1) float32; integers, except for methods with a float zero point (HQQ).
        scheme: how they were made.
        shape: of the weight.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    scheme: Scheme
    shape: tuple[int, ...]

    def dequantize(self) -> Tensor:
        """The weight that the codes stand for, float32, in the weight's own shape."""
        return dequantize(self.codes, self.scale, self.zero_point).reshape(self.shape)

    @property
    def packed_bits(self) -> int:
        """Bits of codes, float32 scales and zero points (asymmetric only: `bits` each, 32 where not an integer)."""
        total = self.codes.numel() * self.scheme.bits + self.scale.numel() * 32
        if self.scheme.symmetric:
            return total
        return total + self.zero_point.numel() * (self.scheme.bits if self.integer_zero_point else 32)

    @property
    def integer_zero_point(self) -> bool:
        """Whether all zero points are integers."""
        return bool((self.zero_point == self.zero_point.round()).all())


def value_range(values: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum over the last dimension, kept as size 1."""
    return values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)


def choose_qparams(low: Tensor, high: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point (float32, same shape) for a range; a range of zero width gets scale 1, NaN stays NaN.

    Args:
        low, high: the range to cover.
        bits: of the codes.
        symmetric: use the larger magnitude on both sides and zero point 0.
    """
    levels = float(2**bits - 1)
    if symmetric:
        span = torch.maximum(low.abs(), high.abs()) * 2
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)
        span = high - low
    tiny = torch.finfo(torch.float32).tiny
    scale = torch.where(span == 0, 1.0, (span.float() / levels).clamp(min=tiny))
    if symmetric:
        return scale, torch.zeros_like(scale)
    bottom = -(2 ** (bits - 1))
    zero_point = bottom - torch.round(low.float() / scale)
    return scale, zero_point.clamp(float(bottom), bottom + levels)


def quantize(values: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Integer codes as float values (shape of `values`); not a new dtype, so that callers choose it."""
    bottom = -(2 ** (bits - 1))
    return (values * (1.0 / scale)).round_().add_(zero_point).clamp_(bottom, bottom + 2**bits - 1)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """(codes - zero_point) * scale in float32."""
    return (codes.float() - zero_point) * scale


def quantize_weight(weight: Tensor, scheme: Scheme, span: tuple[Tensor, Tensor] | None = None) -> QuantizedWeight:
    """Quantize a weight by rounding to nearest.

    Args:
        weight: (O, ...) of a Linear or Conv2d.
        scheme: bits, granularity and symmetry.
        span: range (low, high), each (R, G, 1); None takes the minimum and maximum of each group.
    """
    low, high = value_range(scheme.grouped(weight.detach().float())) if span is None else span
    return encode(weight, scheme, *choose_qparams(low, high, scheme.bits, scheme.symmetric))


def encode(weight: Tensor, scheme: Scheme, scale: Tensor, zero_point: Tensor) -> QuantizedWeight:
    """Round a weight to nearest with given scales and zero points, each (R, G, 1)."""
    codes = quantize(scheme.grouped(weight.detach().float()), scale, zero_point, scheme.bits).to(torch.int8)
    return QuantizedWeight(codes, scale, zero_point, scheme, tuple(weight.shape))


def error(weight: Tensor, other: Tensor) -> tuple[float, float | None]:
    """Relative Frobenius error ||other - weight|| / ||weight|| and its SQNR in dB (None: no error); float64 sums."""
    signal = float(weight.square().sum(dtype=torch.float64))
    noise = float((other - weight).square_().sum(dtype=torch.float64))
    if noise == 0:
        return 0.0, None
    if signal == 0:
        return float("inf"), float("-inf")
    ratio = noise / signal
    return ratio**0.5, -10 * float(torch.log10(torch.tensor(ratio, dtype=torch.float64)))
