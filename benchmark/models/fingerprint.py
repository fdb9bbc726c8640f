"""Fingerprint of a model that is lent to a quantizer and must not change: numbers, structure, hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from benchmark.models.base import ClipModel
from benchmark.utils.checksums import checksum

_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_load_state_dict_pre_hooks"),
)


def fingerprint(model: ClipModel) -> dict[str, object]:
    """Part of the model -> its fingerprint: checksums of parameters and buffers, modules, their hooks and settings.

    Every byte is read: version counters do not see writes to `.data`. About 0.1 s for a ViT-B/32.
    """
    found: dict[str, object] = {}
    named = chain(model.module.named_parameters(), model.module.named_buffers())
    for name, tensor in named:
        found[f"tensor '{name}'"] = (id(tensor), tuple(tensor.shape), str(tensor.dtype), tensor_checksum(tensor))
    for name, module in model.module.named_modules():
        found[f"module '{name}'"] = (id(module), type(module), module.training, tuple(_settings(module)))
        if hooks := [tuple(getattr(module, kind)) for kind in _HOOKS if getattr(module, kind, None)]:
            found[f"hooks of '{name}'"] = tuple(hooks)
    return found


def _settings(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Plain attributes, and the identity of anything else set on the instance, e.g. another `forward`."""
    for name, value in sorted(vars(module).items()):
        if name in ("_parameters", "_buffers", "_modules", *_HOOKS):
            continue
        plain = isinstance(value, bool | int | float | str | tuple | None)
        yield name, repr(value) if plain else id(value)


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Names of the parts that have changed."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def tensor_checksum(tensor: Tensor) -> int:
    """Like `checksum`, for a tensor on any device; 0 for one without values (`meta`)."""
    if tensor.is_meta:
        return 0
    return checksum(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
