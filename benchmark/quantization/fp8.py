r"""FP8 E4M3: weights, and activations if asked for, as 8-bit floats with a scale.

.. math:: \hat x = s \cdot \mathrm{e4m3}(x / s), \qquad s = \max|x| / 448

with one sign, four exponent and three mantissa bits, no infinity, rounding half to even, through
`torch.float8_e4m3fn`. Scales per tensor, channel or group of a weight; per tensor (calibrated, saturating) or token of
an input. Simulated: products run in float32. Paper: Micikevicius et al., "FP8 Formats for Deep Learning", 2022
(arXiv 2209.05433).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.errors import SpecError
from benchmark.quantization.activation import TensorQuantizer, TokenQuantizer
from benchmark.quantization.affine import QuantizedWeight, Scheme
from benchmark.quantization.base import COMMON_FIELDS, TowerJob
from benchmark.quantization.observers import Seen
from benchmark.quantization.packing import Parts
from benchmark.quantization.simulated import Prepared, Simulated
from benchmark.spec import QuantSpec

LARGEST = 448.0
_SMALLEST_NORMAL = 2.0**-6
_EXPONENT = 0x7F800000
"""Bits of a float32's exponent: alone they are the power of two below its magnitude."""
_SHIFT = 1.5 * 2.0**20


def cast(values: Tensor, scale: Tensor) -> Tensor:
    """values / scale as float8_e4m3fn, saturating."""
    return (values / scale).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def rounded_(values: Tensor) -> Tensor:
    r"""Round float32 values to E4M3 in place: the same numbers as through `torch.float8_e4m3fn`, several times faster.

    With :math:`2^e \le |v|` (e >= -6: below are the subnormals) the step is :math:`2^{e-3}`, which is the distance of
    float32 numbers around :math:`M = 1.5 \cdot 2^{e+20}`, so v + M - M rounds half to even.

    Args:
        values: of magnitude 448 at most.
    """
    power = values.view(torch.int32).bitwise_and(_EXPONENT).view(torch.float32).clamp_(min=_SMALLEST_NORMAL)
    return values.add_(power, alpha=_SHIFT).sub_(power, alpha=_SHIFT)


def float8_scale(largest: Tensor) -> Tensor:
    """Scale for a largest magnitude; 1 where that is zero, NaN where that is NaN."""
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(largest == 0, 1.0, (largest / LARGEST).clamp(min=tiny))


@dataclass(frozen=True)
class Float8Weight(QuantizedWeight):
    """Codes are float8_e4m3fn."""

    def dequantize(self) -> Tensor:
        """codes * scale in float32."""
        return (self.codes.float() * self.scale).reshape(self.shape)

    @property
    def integer_zero_point(self) -> bool:
        """Not integer codes at all."""
        return False


class Float8Token(TokenQuantizer):
    """Inputs as E4M3 with a scale per token."""

    def forward(self, x: Tensor) -> Tensor:
        """x, quantized and dequantized."""
        scale = float8_scale(torch.maximum(x.amax(self.dims, True), -x.amin(self.dims, True)))
        return rounded_(x / scale).mul_(scale)


class Float8Tensor(TensorQuantizer):
    """Inputs as E4M3 with one calibrated scale."""

    def forward(self, x: Tensor) -> Tensor:
        """x, quantized and dequantized."""
        return rounded_((x / self.scale).clamp_(-LARGEST, LARGEST)).mul_(self.scale)


class Float8(Simulated):
    """E4M3 codes."""

    parts = Parts(Float8Weight, {"token": Float8Token, "tensor": Float8Tensor})

    def check(self, spec: QuantSpec) -> None:
        """The format has 8 bits."""
        super().check(spec)
        for field in ("weight_bits", "activation_bits"):
            if getattr(spec, field) not in (8, None):
                raise SpecError(f"quantization '{spec.name}': fp8 has 8 bits, so {field} must be 8")

    def quantize_weight(self, job: TowerJob, item: Prepared, scheme: Scheme, seen: Seen) -> QuantizedWeight:
        """Cast each tensor, channel or group by its largest magnitude."""
        weight = item.target.layer.weight.detach().float()
        grouped = scheme.grouped(weight)
        scale = float8_scale(grouped.abs().amax(-1, keepdim=True))
        return Float8Weight(cast(grouped, scale), scale, torch.zeros_like(scale), scheme, tuple(weight.shape))

    def static_activation(self, spec: QuantSpec, bits: int, low: float, high: float) -> TokenQuantizer:
        """One scale for the largest magnitude of the calibration data."""
        quantizer = Float8Tensor(bits, True, low, high)
        quantizer.scale = float8_scale(torch.tensor(max(-low, high)))
        return quantizer

    def dynamic_activation(self, spec: QuantSpec, bits: int, dims: tuple[int, ...]) -> TokenQuantizer:
        """A scale per token."""
        return Float8Token(bits, True, dims)


quantizer = Float8(
    name="fp8",
    version=1,
    title="8-bit floats E4M3 (simulated)",
    paper="Micikevicius et al. 2022, arXiv 2209.05433",
    fields=COMMON_FIELDS
    | {"weight_bits", "weight_granularity", "group_size", "activation_bits", "activation_granularity"},
    required=frozenset({"weight_bits"}),
)
