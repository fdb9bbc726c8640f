"""The structure of a tower: its repeated blocks by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

_BLOCK = re.compile(r"(^|\.)(resblocks|blocks|block|layers|layer|layer[1-4])\.\d+$")
"""Members of a stack of blocks in open_clip (resblocks, layer1-4), timm (blocks) and transformers (layers, layer)."""


def block_names(module: nn.Module, prefixes: Sequence[str]) -> tuple[str, ...]:
    """Names of a tower's innermost repeated blocks in module order, which is the forward order in all families.

    A stage that holds blocks itself (ConvNeXt, Swin) is not a block; a patch stem is none either.
    """
    found = []
    for name, child in module.named_modules():
        inside = any(name.startswith(prefix + ".") for prefix in prefixes)
        if inside and _BLOCK.search(name) and not any(_BLOCK.search(inner) for inner, _ in child.named_modules()):
            found.append(name)
    return tuple(found)
