"""Choose the replacement of a layer: an integer kernel where codes and machine allow it, else float."""

from __future__ import annotations

import torch
from torch import nn

from benchmark.quantization.activation import TokenQuantizer
from benchmark.quantization.affine import QuantizedWeight
from benchmark.quantization.kernels.int8 import Int8Layer, fits_int8, int8_available, is_product
from benchmark.quantization.kernels.onednn import ALL_CODES, exact_bits, on_onednn
from benchmark.quantization.linear import Transform, simulated_layer

INT8_ENGINE = "int8-gemm"
ONEDNN_ENGINE = "int8-onednn"
FLOAT_ENGINE = "float-simulated"
ENGINES = ("none", INT8_ENGINE, ONEDNN_ENGINE, f"{ONEDNN_ENGINE}-{ALL_CODES}")
"""Every value that `integer_engine` can return, on any machine."""


def integer_engine(device: torch.device | str) -> str:
    """The integer arithmetic that simulated quantizations use on a device where their codes fit, or `none`.

    It is part of every content hash: its rounding differs from the float path's in the last bits.
    """
    if torch.device(device).type == "cpu" and exact_bits():
        return ONEDNN_ENGINE if exact_bits() < ALL_CODES else f"{ONEDNN_ENGINE}-{ALL_CODES}"
    return INT8_ENGINE if int8_available(device) else "none"


def replacement(
    layer: nn.Linear | nn.Conv2d,
    weight: QuantizedWeight | None,
    activation: TokenQuantizer | None,
    transform: Transform | None,
    exact_float: bool,
) -> tuple[nn.Module, str]:
    """The module that replaces a layer, and the name of its engine.

    Where the input is not quantized, its transformation is undone within the dequantized weight.
    """
    if activation is None and weight is not None and transform is not None:
        return simulated_layer(layer, transform.undo(weight.dequantize())), FLOAT_ENGINE
    device = layer.weight.device
    if not exact_float and weight is not None and activation is not None and fits_int8(layer, weight, device):
        if device.type == "cpu" and (module := on_onednn(layer, weight, activation, transform)) is not None:
            return module, ONEDNN_ENGINE
        if int8_available(device) and is_product(layer):
            return Int8Layer(layer, weight, activation, transform).to(device), INT8_ENGINE
    dense = layer.weight.detach() if weight is None else weight.dequantize()
    return simulated_layer(layer, dense, activation, transform), FLOAT_ENGINE
