"""The stored state of a quantized layer, and the replacement of modules by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerState:
    """The stored state of a quantized layer, from which `Quantizer.rebuild` makes the same module.

    Attributes:
        about: plain JSON values. tensors: by names without a dot at either end; no `bias`: it is stored separately.
    """

    about: Mapping[str, JsonValue]
    tensors: Mapping[str, Tensor]


def aliases(module: nn.Module, name: str) -> list[str]:
    """All names of the submodule called `name`, which may be shared."""
    wanted = module.get_submodule(name)
    return [alias for alias, other in module.named_modules(remove_duplicate=False) if other is wanted]


def put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule called `name` by a module, under all its names."""
    for alias in aliases(root, name):
        parent, _, child = alias.rpartition(".")
        setattr(root.get_submodule(parent), child, module)
