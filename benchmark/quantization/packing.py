"""The stored form of quantized layers: codes of b bits in b bits, scales, and the transformation of the input.

A layer's state is plain JSON values and tensors, from which its method builds the same module again. It contains no
code, so a stored model needs no pickle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.errors import ModelError, QuantizationError
from benchmark.quantization.activation import TensorQuantizer, TokenQuantizer
from benchmark.quantization.affine import QuantizedWeight, Scheme
from benchmark.quantization.hadamard import Rotation
from benchmark.quantization.kernels.selection import replacement
from benchmark.quantization.linear import Scaled, Transform
from benchmark.quantization.state import LayerState


def pack(codes: Tensor, bits: int) -> Tensor:
    """Signed integer codes of any shape, in [-2^(bits-1), 2^(bits-1) - 1] -> uint8 (ceil(N * bits / 8),).

    Codes follow each other without gaps, each shifted to be unsigned, its lowest bit first.

    >>> pack(torch.tensor([-2, -1, 0, 1], dtype=torch.int8), 2)
    tensor([228], dtype=torch.uint8)
    """
    shifted = (codes.detach().cpu().flatten().to(torch.int16) + (1 << (bits - 1))).to(torch.uint8).numpy()
    single = np.unpackbits(shifted[:, None], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(single.reshape(-1), bitorder="little"))


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack`: `count` codes (count,) int8.

    Raises:
        ModelError: there are too few or too many bytes.
    """
    if packed.dtype != torch.uint8 or packed.dim() != 1 or len(packed) != -(-count * bits // 8):
        raise ModelError(f"{count} codes of {bits} bits do not fit a {packed.dtype} tensor {tuple(packed.shape)}")
    single = np.unpackbits(packed.cpu().numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    shifted = np.packbits(single, axis=1, bitorder="little")[:, 0].astype(np.int16)
    return torch.from_numpy((shifted - (1 << (bits - 1))).astype(np.int8))


@dataclass(frozen=True)
class Parts:
    """Classes that a method's simulated layers are made of, by the names under which they are stored."""

    weight: type[QuantizedWeight] = QuantizedWeight
    activations: Mapping[str, type[TokenQuantizer]] = field(
        default_factory=lambda: {"token": TokenQuantizer, "tensor": TensorQuantizer}
    )


def pack_layer(
    layer: nn.Linear | nn.Conv2d,
    weight: QuantizedWeight | None,
    activation: TokenQuantizer | None,
    transform: Transform | None,
    parts: Parts,
) -> LayerState:
    """The state of a simulated layer.

    Args:
        layer: with the transformed weight, which is stored unchanged where it is not quantized.

    Raises:
        QuantizationError: it holds a part of a class that has no stored form.
    """
    about: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    if weight is None:
        tensors["weight"] = layer.weight.detach()
    else:
        scheme = weight.scheme
        about["weight"] = {
            "bits": scheme.bits,
            "granularity": scheme.granularity,
            "group_size": scheme.group_size,
            "symmetric": scheme.symmetric,
        }
        tensors |= {"scale": weight.scale, **_packed_weight(weight)}
    if activation is not None:
        names = [name for name, kind in parts.activations.items() if type(activation) is kind]
        about["activation"] = {
            "kind": names[0] if names else _refuse(activation),
            "bits": activation.bits,
            "symmetric": activation.symmetric,
            "dims": list(activation.dims),
        }
        tensors |= {f"activation.{name}": value for name, value in activation.state_dict().items()}
    if transform is not None:
        kinds = {Scaled: "scaled", Rotation: "rotation"}
        about["transform"] = kinds.get(type(transform)) or _refuse(transform)
        tensors |= {f"transform.{name}": value for name, value in transform.state_dict().items()}
    return LayerState(about, tensors)


def _refuse(part: nn.Module) -> str:
    raise QuantizationError(f"a quantized layer holds a {type(part).__name__}, which has no stored form")


def _packed_weight(weight: QuantizedWeight) -> dict[str, Tensor]:
    """Codes, and zero points as the report counts them: none if symmetric, packed if integer, else float32."""
    bits = weight.scheme.bits
    if weight.codes.is_floating_point():  # FP8: one code is one byte
        return {"codes": weight.codes}
    codes = {"codes": pack(weight.codes, bits)}
    if weight.scheme.symmetric:
        return codes
    inside = bool((weight.zero_point.abs() <= 1 << (bits - 1)).all() and (weight.zero_point < 1 << (bits - 1)).all())
    if weight.integer_zero_point and inside:
        return {**codes, "zero_point": pack(weight.zero_point, bits)}
    return {**codes, "zero_point": weight.zero_point}


def unpack_layer(
    layer: nn.Linear | nn.Conv2d, state: LayerState, parts: Parts, exact_float: bool
) -> tuple[nn.Module, str]:
    """Build a module from a stored state; also returns its engine. See `Quantizer.rebuild`.

    Raises:
        ModelError: a value is missing or does not fit the layer.
    """
    weight, activation, transform = stored_parts(layer, state, parts)
    return replacement(layer, weight, activation, transform, exact_float)


def stored_parts(
    layer: nn.Linear | nn.Conv2d, state: LayerState, parts: Parts
) -> tuple[QuantizedWeight | None, TokenQuantizer | None, Transform | None]:
    """Weight, quantizer of the input and its transformation, from a stored state.

    Raises:
        ModelError: a value is missing or does not fit the layer.
    """
    try:
        return _weight(layer, state, parts), _activation(state, parts), _transform(layer, state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"its stored state is damaged ({type(error).__name__}: {reason})") from error


def _weight(layer: nn.Linear | nn.Conv2d, state: LayerState, parts: Parts) -> QuantizedWeight | None:
    shape, device = tuple(layer.weight.shape), layer.weight.device
    if "weight" not in state.about:
        layer.weight.copy_(state.tensors["weight"])
        return None
    scheme = Scheme(**state.about["weight"])  # type: ignore[arg-type]
    scale, codes = state.tensors["scale"].to(device), state.tensors["codes"]
    rows = scheme.grouped(torch.empty(shape, device="meta")).shape
    if scale.shape != (*rows[:-1], 1):
        raise ValueError(f"scales {tuple(scale.shape)} for codes {tuple(rows)}")
    if codes.dtype == torch.uint8:
        codes = unpack(codes, scheme.bits, math.prod(rows)).reshape(rows)
    zero_point = state.tensors.get("zero_point")
    if zero_point is None:
        zero_point = torch.zeros_like(scale)
    elif zero_point.dtype == torch.uint8:
        zero_point = unpack(zero_point, scheme.bits, scale.numel()).reshape(scale.shape).float()
    return parts.weight(codes.reshape(rows).to(device), scale, zero_point.to(device), scheme, shape)


def _activation(state: LayerState, parts: Parts) -> TokenQuantizer | None:
    about: Any = state.about.get("activation")
    if about is None:
        return None
    kind = parts.activations[about["kind"]]
    if issubclass(kind, TensorQuantizer):
        found: TokenQuantizer = kind(about["bits"], about["symmetric"], 0.0, 1.0)
    else:
        found = kind(about["bits"], about["symmetric"], tuple(about["dims"]))
    found.load_state_dict(_below(state, "activation."))
    return found


def _transform(layer: nn.Linear | nn.Conv2d, state: LayerState) -> Transform | None:
    kind = state.about.get("transform")
    if kind is None:
        return None
    columns = layer.weight.shape[1]
    found: Transform
    if kind == "scaled":
        found = Scaled(torch.ones(columns))
    elif kind == "rotation":
        found = Rotation(columns, 0)
    else:
        raise ValueError(f"unknown transform {kind!r}")
    found.load_state_dict(_below(state, "transform."))
    return found.to(layer.weight.device)


def _below(state: LayerState, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.tensors.items() if name.startswith(prefix)}
