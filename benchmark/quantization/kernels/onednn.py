r"""The integer path of x86 CPUs: oneDNN's product of unsigned input codes with signed weight codes.

With AVX512-VNNI, AVX-VNNI or AMX it adds in 32 bits and is exact for all codes. AVX2 and AVX512 alone add pairs
`p_1 q_1 + p_2 q_2` in 16 bits and saturate, so there it is exact only where

.. math:: 2\,(2^{b_x} - 1)\,2^{b_w - 1} \le 2^{15} - 1 \iff b_x + b_w \le 15

holds: W7A8, W6A8, W4A8, W8A7, but not W8A8, which is computed in float there. Each process tests it once with the
largest codes, for products and for convolutions. The zero points of asymmetric weights need the sums
of the input codes: they come as one more output, whose weight codes are all 1. Convolutions in groups (depthwise) are
no faster on integers and stay in float.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.quantization.activation import TensorQuantizer, TokenQuantizer
from benchmark.quantization.affine import QuantizedWeight
from benchmark.quantization.kernels.int8 import Int8Layer, is_product

ALL_CODES = 16
_Pair = tuple[int, int]


@cache
def exact_bits() -> int:
    """Largest sum of weight and activation bits whose product is exact here: 16, 15, or 0 where there is no product."""
    return _largest_exact(lambda rows, codes: _linear(rows, 0, _packed(codes), torch.ones(len(codes)), None))


@cache
def exact_convolution_bits() -> int:
    """The same for convolutions."""
    return _largest_exact(_tried_convolution)


def _largest_exact(product: Callable[[Tensor, Tensor], Tensor]) -> int:
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return 0
    if not (_is_exact(product, 7, 8) and _is_exact(product, 8, 7)):
        return 0
    return ALL_CODES if _is_exact(product, 8, 8) else ALL_CODES - 1


def _is_exact(product: Callable[[Tensor, Tensor], Tensor], weight_bits: int, activation_bits: int) -> bool:
    top, half = 2**activation_bits - 1, 2 ** (weight_bits - 1)
    rows = torch.full((3, 64), top, dtype=torch.uint8)
    rows[1, ::3] = 0
    codes = torch.full((8, 64), -half, dtype=torch.int8)
    codes[1], codes[2, ::2] = half - 1, half - 1
    exact = rows.double() @ codes.double().t()
    try:
        found = product(rows, codes)
    except (AttributeError, RuntimeError):  # torch was built without oneDNN, or its operators changed
        return False
    return torch.equal(found.double(), exact)


def _tried_convolution(rows: Tensor, codes: Tensor) -> Tensor:
    """rows @ codes^T as a convolution whose kernel is as large as its images: 16 channels of 2 x 2."""
    geometry = _Geometry((1, 1), (0, 0), (1, 1))
    packed = geometry.pack(codes.reshape(len(codes), 16, 2, 2), 0)
    return geometry.convolve(rows.reshape(len(rows), 16, 2, 2), 0, packed, torch.ones(len(codes))).flatten(1)


def on_onednn(
    layer: nn.Linear | nn.Conv2d, weight: QuantizedWeight, activation: TokenQuantizer, transform: nn.Module | None
) -> nn.Module | None:
    """The layer on oneDNN; None where it would not be exact, or not faster."""
    bits = weight.scheme.bits + activation.bits
    if is_product(layer):
        return OneDnnLayer(layer, weight, activation, transform) if bits <= exact_bits() else None
    if isinstance(layer, nn.Conv2d) and is_dense(layer) and bits <= exact_convolution_bits():
        return OneDnnConv2d(layer, weight, activation, transform)
    return None


def is_dense(layer: nn.Conv2d) -> bool:
    """Whether a convolution has one group, and pads with a given number of zeros."""
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class _OneDnn(Int8Layer):
    """Codes, and oneDNN's own copy of them, which is made when it is first needed."""

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        quantized: QuantizedWeight,
        activation: TokenQuantizer,
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__(layer, quantized, activation, transform)
        self.shift = 1 << (activation.bits - 1)
        self._ready: tuple[Any, Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without oneDNN's own copy of the codes, which can be neither copied nor stored."""
        return {**self.__dict__, "_ready": None}

    @property
    def point(self) -> int:
        """The unsigned code that stands for 0, where all inputs share one; else for a signed code of 0."""
        one = isinstance(self.activation, TensorQuantizer)
        return self.shift + (int(self.activation.zero_point) if one else 0)  # type: ignore[arg-type]

    @property
    def zero_point_per_token(self) -> bool:
        """Whether each token has its own zero point, which oneDNN does not support."""
        return not self.activation.symmetric and not isinstance(self.activation, TensorQuantizer)

    def kernel_parts(self) -> tuple[Any, Tensor, Tensor]:
        """oneDNN's copy of the codes (O, K), their scales, and their sums times the scales; both (O,).

        There is one more output, the sum of the input's codes, where the weights are asymmetric.
        """
        if self._ready is None:
            codes, scale, sums = self.codes, self.scale, self.code_sum
            if not self.weight_symmetric:
                codes = torch.cat([codes, codes.new_ones(1, self.columns)])
                scale = torch.cat([scale, scale.new_ones(1)])
                sums = torch.cat([sums, sums.new_full((1,), self.columns)])
            self._ready = self.pack(codes), scale, sums * scale
        return self._ready

    def finished(self, sums: Tensor, scale: Tensor, zero_point: Tensor, weight_sum: Tensor) -> Tensor:
        """Outputs (N, O, ...) from sums of codes times the weights' scales, which may be overwritten.

        Args:
            scale, zero_point: of the inputs, broadcastable. weight_sum: from `kernel_parts`.
        """
        outputs = (1, -1, *(1 for _ in sums.shape[2:]))
        if self.zero_point_per_token:
            sums.addcmul_(zero_point, weight_sum.reshape(outputs), value=-1)
        if not self.weight_symmetric:
            weight_zero_point = (self.zero_point * self.scale).reshape(outputs)
            sums = torch.addcmul(sums[:, :-1], sums[:, -1:], weight_zero_point, value=-1)
        return sums.mul_(scale) if self.bias is None else torch.addcmul(self.bias.reshape(outputs), sums, scale)

    @abstractmethod
    def pack(self, codes: Tensor) -> Any:
        """oneDNN's copy of codes (O, K)."""


class OneDnnLayer(_OneDnn):
    """A Linear or patchwise Conv2d through oneDNN; see `Int8Layer` for its arguments."""

    def pack(self, codes: Tensor) -> Any:
        """For the product."""
        return _packed(codes)

    def _product(self, rows: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """codes (M, K) int8, scale and zero point (M, 1) or (1, 1) -> (M, O) float32."""
        packed, weight_scale, weight_sum = self.kernel_parts()
        shifted = rows.view(torch.uint8).add_(self.shift)  # bytes wrap around: code + 2^(bits-1), from 0 on
        if self.weight_symmetric and isinstance(self.activation, TensorQuantizer):  # oneDNN does the rest
            return _linear(shifted, self.point, packed, weight_scale, self.bias, float(scale))
        return self.finished(_linear(shifted, self.point, packed, weight_scale, None), scale, zero_point, weight_sum)


class OneDnnConv2d(_OneDnn):
    """A Conv2d without groups whose patches may overlap; see `Int8Layer` for its arguments."""

    def __init__(
        self,
        layer: nn.Conv2d,
        quantized: QuantizedWeight,
        activation: TokenQuantizer,
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__(layer, quantized, activation, transform)
        self.edges = list(layer._reversed_padding_repeated_twice)
        padding = (0, 0) if self.zero_point_per_token else layer.padding
        self.geometry = _Geometry(layer.stride, padding, layer.dilation)  # type: ignore[arg-type]

    def pack(self, codes: Tensor) -> Any:
        """For the convolution."""
        return self.geometry.pack(codes.reshape(-1, *self.shape[1:]), self.point)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, O, H', W') float32."""
        if self.transform is not None:
            x = self.transform(x)
        codes, scale, zero_point = self.activation.integer_codes(x)
        packed, weight_scale, weight_sum = self.kernel_parts()
        if self.zero_point_per_token:  # each image is padded with its own zero
            codes = self._padded(codes, zero_point)
        shifted = codes.view(torch.uint8).add_(self.shift)  # bytes wrap around
        return self.finished(
            self.geometry.convolve(shifted, self.point, packed, weight_scale), scale, zero_point, weight_sum
        )

    def _padded(self, codes: Tensor, zero_point: Tensor) -> Tensor:
        left, right, top, bottom = self.edges
        batch, channels, height, width = codes.shape
        shape = (batch, channels, top + height + bottom, left + width + right)
        padded = zero_point.nan_to_num().to(torch.int8).expand(shape).contiguous()
        padded[:, :, top : top + height, left : left + width] = codes
        return padded


class _Geometry:
    """How a kernel goes over images: stride, zero padding and dilation."""

    def __init__(self, stride: _Pair, padding: _Pair, dilation: _Pair) -> None:
        self.arguments = list(stride), list(padding), list(dilation), 1

    def pack(self, codes: Tensor, point: int) -> Any:
        """oneDNN's copy of codes (O, C, kh, kw), for inputs whose code `point` stands for 0."""
        return torch.ops.onednn.qconv_prepack(codes, torch.ones(len(codes)), 1.0, point, *self.arguments)

    def convolve(self, images: Tensor, point: int, packed: Any, scale: Tensor) -> Tensor:
        """Codes (B, C, H, W) uint8 minus `point`, convolved, times scale (O,) -> (B, O, H', W') float32."""
        none = torch.zeros(len(scale), dtype=torch.int64)
        result: Tensor = torch.ops.onednn.qconv_pointwise(
            images.contiguous(memory_format=torch.channels_last),
            *(1.0, point, packed, scale, none, None, *self.arguments, 1.0, 0, torch.float32, "none", [], ""),
        )
        return result


def _packed(codes: Tensor) -> Any:
    """oneDNN's copy of codes (O, K)."""
    return torch.ops.onednn.qlinear_prepack(codes, None)


def _linear(
    rows: Tensor, zero_point: int, packed: Any, scale: Tensor, bias: Tensor | None, scale_x: float = 1.0
) -> Tensor:
    """scale_x * ((rows - zero_point) @ codes^T) * scale + bias in float32; rows (M, K) uint8."""
    none = torch.zeros(len(scale), dtype=torch.int64)
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, scale_x, zero_point, packed, scale, none, bias, 1.0, 0, torch.float32, "none", [], ""
    )
    return result
