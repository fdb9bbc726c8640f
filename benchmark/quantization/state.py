"""What a quantized layer is when it is written down, and how modules take a layer's place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerState:
    """A quantized layer written down: `Quantizer.rebuild` makes the same module of it again.

    Attributes:
        about: plain JSON values. tensors: by names without a dot at either end; no `bias`, which is stored by itself.
    """

    about: Mapping[str, JsonValue]
    tensors: Mapping[str, Tensor]


def aliases(module: nn.Module, name: str) -> list[str]:
    """All names of the submodule called `name`, which may be shared."""
    wanted = module.get_submodule(name)
    return [alias for alias, other in module.named_modules(remove_duplicate=False) if other is wanted]


def put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the submodule called `name`, under all its names."""
    for alias in aliases(root, name):
        parent, _, child = alias.rpartition(".")
        setattr(root.get_submodule(parent), child, module)
