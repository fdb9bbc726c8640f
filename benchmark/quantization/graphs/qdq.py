r"""Fake-quantized layers as pairs of QuantizeLinear and DequantizeLinear, for an ONNX file with the same codes.

.. math:: y = \mathrm{DQ}(\mathrm{Q}(x, s_x, z_x))\,\mathrm{DQ}(c_W, s_W, z_W)^T + b

The codes of weights are those that were measured. Inputs are rounded by `QuantizeLinear`, which divides by the scale
where `benchmark.quantization.affine` multiplies by its inverse: a value between two codes may get the other one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import QuantizationError
from benchmark.models.base import ClipModel
from benchmark.quantization.activation import TensorQuantizer, TokenQuantizer
from benchmark.quantization.affine import QuantizedWeight
from benchmark.quantization.base import Quantizer
from benchmark.quantization.linear import Transform
from benchmark.quantization.packing import Parts, stored_parts
from benchmark.quantization.state import LayerState, put
from benchmark.spec import QuantSpec

BITS = 8
OPSET = 21


class QdqLayer(nn.Module):
    """A Linear or Conv2d whose weight, and input, pass through integer codes; runs within `torch.onnx.export` only."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        weight: QuantizedWeight,
        activation: TensorQuantizer,
        transform: Transform | None,
    ) -> None:
        super().__init__()
        self.conv = isinstance(layer, nn.Conv2d)
        codes = weight.codes.reshape(weight.shape)
        self.register_buffer("codes", (codes if self.conv else codes.t()).contiguous())
        one = weight.scale.numel() == 1
        self.register_buffer("scale", weight.scale.reshape(() if one else (-1,)).contiguous())
        zero_point = weight.zero_point.expand_as(weight.scale).to(torch.int8)
        self.register_buffer("zero_point", zero_point.reshape(self.scale.shape).contiguous())
        self.bias, self.activation, self.transform = layer.bias, activation, transform
        if isinstance(layer, nn.Conv2d):
            self.geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out), or (B, C, H, W) -> (B, O, H', W')."""
        if self.transform is not None:
            x = self.transform(x)
        x = self.rounded(x)
        weight = _dequantize(self.codes, self.scale, self.zero_point, 0 if self.conv else 1)
        if not self.conv:
            product = torch.matmul(x, weight)
            return product if self.bias is None else product + self.bias
        stride, padding, dilation, groups = self.geometry
        return F.conv2d(x, weight, self.bias, stride, padding, dilation, groups)

    def rounded(self, x: Tensor) -> Tensor:
        """The input, quantized and dequantized with its calibrated scale."""
        scale, zero_point = self.activation.scale, self.activation.zero_point.to(torch.int8)
        codes = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, scale, zero_point), {}, dtype=torch.int8, shape=x.shape, version=OPSET
        )
        return _dequantize(codes, scale, zero_point)


def _dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int = 0) -> Tensor:
    attributes: dict[str, Any] = {"axis": axis} if scale.dim() else {}
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (codes, scale, zero_point),
        attributes,
        dtype=torch.float32,
        shape=codes.shape,
        version=OPSET,
    )


def with_qdq(
    full: ClipModel, quantized: ClipModel, spec: QuantSpec, method: Quantizer, kept: Mapping[str, LayerState]
) -> ClipModel:
    """A copy of a model whose quantized layers are pairs of QuantizeLinear and DequantizeLinear.

    Args:
        full: in full precision. quantized: whose norms and biases may have changed, too. kept: the states of the
            quantized layers by name.

    Raises:
        QuantizationError: the quantization has no such form; says which field is the reason.
    """
    parts = getattr(method, "parts", None)
    if not isinstance(parts, Parts):
        raise QuantizationError(
            f"quantization '{spec.name}': layers of {method.name} have no QDQ form. Export it without --format"
        )
    clone = full.clone()
    own, changed = clone.module.state_dict(), quantized.module.state_dict()
    clone.module.load_state_dict(
        {n: v for n, v in changed.items() if n in own and v.shape == own[n].shape}, strict=False
    )
    for name, state in kept.items():
        layer = clone.module.get_submodule(name)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise QuantizationError(f"{full.name}: '{name}' is a {type(layer).__name__}, not a layer")
        weight, activation, transform = stored_parts(layer, state, parts)
        reason = _obstacle(layer, weight, activation)
        if reason or weight is None or not isinstance(activation, TensorQuantizer):
            raise QuantizationError(
                f"quantization '{spec.name}': '{name}' has no QDQ form: {reason}. Static W8A8 has one, e.g. "
                f"{spec.method}-w8a8-channel-tensor-{spec.scope}"
            )
        put(clone.module, name, QdqLayer(layer, weight, activation, transform))
    return replace(clone, module=clone.module.eval())


def _obstacle(layer: nn.Linear | nn.Conv2d, weight: QuantizedWeight | None, activation: TokenQuantizer | None) -> str:
    """Why a layer has no such form; empty where it has.

    With a weight alone, or a scale for each token, onnxruntime would round inputs once more (it fuses the pair before a
    product into `MatMulNBits`): other codes than those that were measured.
    """
    if weight is None or activation is None:
        return "its weight or its input stays in full precision"
    if type(activation) is not TensorQuantizer:
        return "the scale of its input is found when it runs, QuantizeLinear has a fixed one"
    if activation.bits != BITS:
        return f"inputs of {activation.bits} bits, QuantizeLinear has {BITS}"
    if weight.codes.dtype != torch.int8 or not weight.integer_zero_point:
        return "its codes or zero points are no integers"
    if weight.scheme.granularity == "group":
        return f"its weights share scales in groups of {weight.scheme.group_size}"
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"padding '{layer.padding_mode}'"
    return ""
