r"""Quantized layers on integer arithmetic: the same codes as the float reference, through an int8 matrix product.

With input codes `p` (zero point `z_x`, scale `s_x`) and weight codes `q` (zero point `z_w`, scale `s_w`)

.. math:: y = s_x s_w \Big( \sum_k p_k q_k - z_w \sum_k p_k - z_x \sum_k q_k + K z_x z_w \Big) + b

The bracket is exact in int32 (|sum| <= 2^16 K, so K < 2^15). Applies where codes of weights (per tensor or channel)
and of activations (per tensor or token) fit int8. CPUs take `kernels.onednn` where that is exact: it is
two to three times faster than torch._int_mm where there is AMX, and also has convolutions whose patches overlap.
torch._int_mm is for CUDA, and for CPUs whose torch has no oneDNN; on CPUs without AVX512-VNNI it falls back to a scalar
loop, and the float path is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.quantization.activation import TensorQuantizer, TokenQuantizer
from benchmark.quantization.affine import QuantizedWeight

_MAX_COLUMNS = 1 << 15
_CUDA_MIN_ROWS = 17


def int8_available(device: torch.device | str) -> bool:
    """Whether torch._int_mm is faster than float on a device."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return kind == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512" and _has("vnni")


def _has(feature: str) -> bool:
    """Whether the CPU has a feature, by a private function of torch (there is no public one)."""
    supported = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return supported is not None and bool(supported())


def cpu_capability() -> str:
    """E.g. `AVX2`, `AVX512`, `AVX512+VNNI`, `AVX512+VNNI+AMX`; recorded, since rounding differs between them."""
    found = ("+VNNI" if _has("vnni") else "") + ("+AMX" if _has("amx_tile") else "")
    return f"{torch.backends.cpu.get_cpu_capability()}{found}"


def fits_int8(layer: nn.Linear | nn.Conv2d, weight: QuantizedWeight, device: torch.device) -> bool:
    """Whether the codes of a layer's weight fit an int8 product, and its shape the device's."""
    columns = layer.weight[0].numel()
    if weight.scheme.granularity == "group" or columns >= _MAX_COLUMNS or not weight.integer_zero_point:
        return False
    return device.type != "cuda" or (columns % 8 == 0 and layer.weight.shape[0] % 8 == 0)


def is_product(layer: nn.Linear | nn.Conv2d) -> bool:
    """Whether a layer is one matrix product: a Linear, or a convolution that cuts its input into patches."""
    return isinstance(layer, nn.Linear) or is_patchwise(layer)


def is_patchwise(layer: nn.Conv2d) -> bool:
    """Whether a convolution reads every pixel at most once (a patch embedding, a 1 x 1 convolution)."""
    return (
        layer.groups == 1
        and tuple(layer.stride) == tuple(layer.kernel_size)
        and layer.padding in ("valid", 0, (0, 0))
        and tuple(layer.dilation) == (1, 1)
    )


class Int8Layer(nn.Module):
    """A Linear or patchwise Conv2d on int8 codes.

    Args:
        layer: the layer to replace.
        quantized: its weight, per tensor or per channel, at most 8 bits.
        activation: quantizer of the input, at most 8 bits.
        transform: applied to the input first, or None.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    code_sum: Tensor

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        quantized: QuantizedWeight,
        activation: TokenQuantizer,
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__()
        rows, self.columns = layer.weight.shape[0], layer.weight[0].numel()
        codes = quantized.codes.reshape(rows, self.columns)
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scale", quantized.scale.reshape(-1).expand(rows).contiguous())
        self.register_buffer("zero_point", quantized.zero_point.reshape(-1).expand(rows).to(torch.int32))
        self.register_buffer("code_sum", codes.sum(1, dtype=torch.int32))
        self.bias, self.activation, self.transform = layer.bias, activation, transform
        self.kernel = tuple(layer.kernel_size) if isinstance(layer, nn.Conv2d) else None
        self.shape, self.weight_symmetric = tuple(layer.weight.shape), quantized.scheme.symmetric

    @property
    def weight(self) -> Tensor:
        """The dequantized weight, in the replaced layer's shape; some models ask it for its dtype."""
        dense = (self.codes.float() - self.zero_point.unsqueeze(1)) * self.scale.unsqueeze(1)
        return dense.reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out), or (B, C, H, W) -> (B, O, H', W')."""
        if self.transform is not None:
            x = self.transform(x)
        codes, scale, zero_point = self.activation.integer_codes(x)  # new tensors, which the product may overwrite
        if self.kernel is None:
            rows = codes.reshape(-1, self.columns)
            return self._product(rows, _per_row(scale), _per_row(zero_point)).reshape(*x.shape[:-1], -1)
        rows, height, width = _patches(codes, self.kernel)
        repeat = 1 if isinstance(self.activation, TensorQuantizer) else height * width
        product = self._product(
            rows, _per_row(scale).repeat_interleave(repeat, 0), _per_row(zero_point).repeat_interleave(repeat, 0)
        )
        return product.reshape(x.shape[0], height, width, -1).permute(0, 3, 1, 2)

    def _product(self, rows: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Codes (M, K), scale and zero point (M, 1) or (1, 1) -> (M, O) float32; the codes may be overwritten."""
        total = _int_mm(rows, self.codes)
        if not self.activation.symmetric:
            whole = zero_point.to(torch.int32)
            total -= whole * (self.code_sum - self.columns * self.zero_point)
        if not self.weight_symmetric:
            total -= rows.sum(1, keepdim=True, dtype=torch.int32) * self.zero_point
        scaled = torch.mul(total, scale)
        if self.bias is None:
            return scaled.mul_(self.scale)
        return torch.addcmul(self.bias, scaled, self.scale)


def _per_row(values: Tensor) -> Tensor:
    return values.reshape(-1, 1)


def _int_mm(rows: Tensor, codes: Tensor) -> Tensor:
    """(M, K) int8 times (O, K) int8 transposed -> (M, O) int32; CUDA asks for more than 16 rows."""
    count = len(rows)
    if rows.device.type == "cuda" and count < _CUDA_MIN_ROWS:
        rows = nn.functional.pad(rows, (0, 0, 0, _CUDA_MIN_ROWS - count))
        return torch._int_mm(rows, codes.t())[:count]
    return torch._int_mm(rows.contiguous(), codes.t())


def _patches(codes: Tensor, kernel: tuple[int, ...]) -> tuple[Tensor, int, int]:
    """(B, C, H, W) -> ((B * H' * W'), C * kh * kw), H', W'; pixels that do not fill a patch are cut off."""
    kh, kw = kernel
    batch, channels = codes.shape[:2]
    height, width = codes.shape[2] // kh, codes.shape[3] // kw
    cut = codes[:, :, : height * kh, : width * kw].reshape(batch, channels, height, kh, width, kw)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch * height * width, -1), height, width
