r"""The integer path of x86 CPUs: oneDNN's product of unsigned input codes with signed weight codes.

With AVX512-VNNI, AVX-VNNI or AMX it adds in 32 bits and is exact for all codes. AVX2 and AVX512 alone add pairs
`p_1 q_1 + p_2 q_2` in 16 bits and saturate, so there it is exact only where

.. math:: 2\,(2^{b_x} - 1)\,2^{b_w - 1} \le 2^{15} - 1 \iff b_x + b_w \le 15

holds: W7A8, W6A8, W4A8, W8A7, but not W8A8, which is computed in float there. Weights must be symmetric. What holds is
tried once per process with the largest codes, not assumed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.quantization.activation import TensorQuantizer, TokenQuantizer
from benchmark.quantization.affine import QuantizedWeight
from benchmark.quantization.int8 import INT8_ENGINE, ONEDNN_ENGINE, Int8Layer, int8_available

_ALL_CODES = 16
ENGINES = ("none", INT8_ENGINE, ONEDNN_ENGINE, f"{ONEDNN_ENGINE}-{_ALL_CODES}")
"""Every answer of `integer_engine`, on whatever machine."""


@cache
def exact_bits() -> int:
    """Largest sum of weight and activation bits whose product is exact here: 16, 15, or 0 where there is no product."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return 0
    if not (_is_exact(7, 8) and _is_exact(8, 7)):
        return 0
    return _ALL_CODES if _is_exact(8, 8) else _ALL_CODES - 1


def _is_exact(weight_bits: int, activation_bits: int) -> bool:
    top, half = 2**activation_bits - 1, 2 ** (weight_bits - 1)
    rows = torch.full((3, 64), top, dtype=torch.uint8)
    rows[1, ::3] = 0
    codes = torch.full((8, 64), -half, dtype=torch.int8)
    codes[1], codes[2, ::2] = half - 1, half - 1
    exact = rows.double() @ codes.double().t()
    try:
        found = _linear(rows, 0, _packed(codes), torch.ones(8), None)
    except (AttributeError, RuntimeError):  # torch was built without oneDNN, or its operators changed
        return False
    return torch.equal(found.double(), exact)


def integer_engine(device: torch.device | str) -> str:
    """The integer arithmetic that simulated quantizations use on a device where their codes fit, or `none`.

    It belongs into every key of numbers: its rounding differs from the float path's in the last bits.
    """
    if torch.device(device).type == "cpu" and exact_bits():
        return ONEDNN_ENGINE if exact_bits() < _ALL_CODES else f"{ONEDNN_ENGINE}-{_ALL_CODES}"
    return INT8_ENGINE if int8_available(device) else "none"


def fits_onednn(weight: QuantizedWeight, activation: TokenQuantizer) -> bool:
    """Whether the product of these codes is exact on oneDNN."""
    return weight.scheme.symmetric and weight.scheme.bits + activation.bits <= exact_bits()


class OneDnnLayer(Int8Layer):
    """A Linear or patchwise Conv2d through oneDNN; see `Int8Layer` for its arguments."""

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        quantized: QuantizedWeight,
        activation: TokenQuantizer,
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__(layer, quantized, activation, transform)
        self._packed: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Without oneDNN's own copy of the codes, which can be neither copied nor stored."""
        return {**self.__dict__, "_packed": None}

    def _product(self, rows: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """codes (M, K) int8, scale and zero (M, 1) or (1, 1) -> (M, O) float32."""
        if self._packed is None:
            self._packed = _packed(self.codes)
        shift = 1 << (self.activation.bits - 1)
        shifted = rows.view(torch.uint8).add_(shift)  # bytes wrap around: code + 2^(bits-1), from 0 on
        if isinstance(self.activation, TensorQuantizer):  # one scale and zero point: oneDNN does the rest
            point, scale_x = int(zero) + shift, float(scale)
            return _linear(shifted, point, self._packed, self.scale, self.bias, scale_x)
        sums = _linear(shifted, shift, self._packed, self.scale, None)
        if not self.activation.symmetric:
            sums.addmm_(zero, (self.code_sum * self.scale).unsqueeze(0), alpha=-1)
        return sums.mul_(scale) if self.bias is None else torch.addcmul(self.bias, sums, scale)


def _packed(codes: Tensor) -> Any:
    """oneDNN's copy of codes (O, K)."""
    return torch.ops.onednn.qlinear_prepack(codes, None)


def _linear(rows: Tensor, zero: int, packed: Any, scale: Tensor, bias: Tensor | None, scale_x: float = 1.0) -> Tensor:
    """scale_x * ((rows - zero) @ codes^T) * scale + bias in float32; rows (M, K) uint8."""
    none = torch.zeros(len(scale), dtype=torch.int64)
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, scale_x, zero, packed, scale, none, bias, 1.0, 0, torch.float32, "none", [], ""
    )
    return result
