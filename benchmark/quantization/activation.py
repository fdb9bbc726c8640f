"""Activation quantizers: dynamic per token, static per tensor.

Dynamic per-tensor ranges are not offered: their result would depend on which inputs share a batch. A "token" of a
Linear is one row of its input; of a Conv2d it is one image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.errors import NonFiniteError
from benchmark.quantization import affine


class TokenQuantizer(nn.Module):
    """Dynamic quantizer: the min-max range of each token, computed when the model runs."""

    def __init__(self, bits: int, symmetric: bool, dims: tuple[int, ...] = (-1,)) -> None:
        super().__init__()
        self.bits, self.symmetric, self.dims = bits, symmetric, dims

    def span(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point per token, broadcastable to x (..., K)."""
        return affine.choose_qparams(x.amin(self.dims, True), x.amax(self.dims, True), self.bits, self.symmetric)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (float), scale and zero point of x."""
        scale, zero_point = self.span(x)
        return _codes(x, scale, zero_point, self.bits, self.symmetric), scale, zero_point

    def integer_codes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (int8), scale and zero point of x. Integer codes cannot show a NaN; the scale of its token does."""
        codes, scale, zero_point = self.codes(x)
        return codes.to(torch.int8), scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        """x, quantized and dequantized."""
        codes, scale, zero_point = self.codes(x)
        return codes.mul_(scale) if self.symmetric else codes.sub_(zero_point).mul_(scale)

    def extra_repr(self) -> str:
        """Bits and symmetry."""
        return f"bits={self.bits}, symmetric={self.symmetric}"


class TensorQuantizer(TokenQuantizer):
    """Static quantizer: one calibrated range for the whole tensor; `low` and `high` are scalars."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, symmetric: bool, low: float, high: float) -> None:
        super().__init__(bits, symmetric)
        scale, zero_point = affine.choose_qparams(torch.tensor(low), torch.tensor(high), bits, symmetric)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def span(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The calibrated scale and zero point, whatever x is."""
        return self.scale, self.zero_point

    def integer_codes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (int8), scale and zero point of x.

        Raises:
            NonFiniteError: x holds a NaN, which neither codes nor the calibrated scale could show.
        """
        codes, scale, zero_point = self.codes(x)
        if codes.sum().isnan():
            raise NonFiniteError(
                "quantized layer: its input is NaN. Check the images and the quantization of earlier layers."
            )
        return codes.to(torch.int8), scale, zero_point


def _codes(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, symmetric: bool) -> Tensor:
    bottom = -(2 ** (bits - 1))
    codes = torch.mul(x, scale.reciprocal()).round_()
    if not symmetric:
        codes.add_(zero_point)
    return codes.clamp_(bottom, bottom + 2**bits - 1)
