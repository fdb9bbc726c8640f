"""Run a model under automatic mixed precision or compiled. Both can change numbers, so both are hashed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from benchmark.errors import InputError
from benchmark.models.base import ClipModel

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(name: str) -> Precision:
    """A precision by name.

    Raises:
        InputError: an unknown name; lists the known ones.
    """
    for known in PRECISIONS:
        if name == known:
            return known
    raise InputError(f"--precision '{name}': expected one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class Encoder:
    """An encoder under autocast, compiled, or both.

    Autocast computes matrix products in the smaller type and norms in float32, on float32 weights. It skips the layers
    of a quantizer: their codes are exact in float32 only.
    """

    inner: Callable[[nn.Module, Tensor], Tensor]
    precision: Precision
    compiled: Callable[[nn.Module, Tensor], Tensor] | None = field(default=None, repr=False)

    def __call__(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Like the inner encoder; the result is float32."""
        encode = self.inner if self.compiled is None or _watched(module) else self.compiled
        if self.precision == "fp32":
            return encode(module, inputs)
        kind = inputs.device.type
        with torch.autocast(kind, _TYPES[self.precision]), exact_layers(module, kind):
            return encode(module, inputs).float()


def prepared(model: ClipModel, precision: Precision, compiled: bool) -> ClipModel:
    """The model with this precision and compilation; the model itself for uncompiled fp32.

    A forward pass with taps is not compiled, because compiled code does not call the hooks.
    """
    if precision == "fp32" and not compiled:
        return model

    def wrapped(encoder: Callable[[nn.Module, Tensor], Tensor]) -> Encoder:
        return Encoder(encoder, precision, torch.compile(encoder) if compiled else None)

    return replace(model, image_encoder=wrapped(model.image_encoder), text_encoder=wrapped(model.text_encoder))


@contextmanager
def exact_layers(module: nn.Module, kind: str) -> Iterator[None]:
    """Within the block, layers of `benchmark.quantization` compute in float32 even under autocast."""

    def leave(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        torch.set_autocast_enabled(kind, False)
        return tuple(value.float() if isinstance(value, Tensor) else value for value in inputs)

    def enter(*_: object) -> None:
        torch.set_autocast_enabled(kind, True)

    handles = []
    for layer in quantized_layers(module):
        handles += [layer.register_forward_pre_hook(leave), layer.register_forward_hook(enter, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def quantized_layers(module: nn.Module) -> list[nn.Module]:
    """The outermost modules inserted by a quantizer."""
    found: list[nn.Module] = []
    for child in module.children():
        if type(child).__module__.startswith("benchmark.quantization"):
            found.append(child)
        else:
            found += quantized_layers(child)
    return found


def _watched(module: nn.Module) -> bool:
    return any(each._forward_hooks for each in module.modules())
