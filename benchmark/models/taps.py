"""Taps of open_clip image towers: features before the projection, patch features, and the output of each block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.models.attention import PlainAttention, PlainAttentionPool, Projection
from benchmark.models.base import Tap


def open_clip_taps(module: Any, blocks: Sequence[str]) -> dict[str, Tap]:
    """The taps of an unrolled open_clip model; `blocks` are the names of its image tower's blocks."""
    visual = module.visual
    taps = {f"block:{name}": Tap(name, "output", _pooling(visual)) for name in blocks}
    if isinstance(getattr(visual, "proj", None), Projection):
        taps["penultimate"] = Tap("visual.proj", "input", identity)
        last = blocks[-1] if blocks else ""
        if _has_value_path(visual, module.get_submodule(last)):
            taps["local"] = Tap(last, "input", LocalViT(last))
    elif isinstance(getattr(visual, "attnpool", None), PlainAttentionPool):
        taps["penultimate"] = Tap("visual.attnpool.c_proj", "input", first_token)
        taps["local"] = Tap("visual.attnpool", "input", local_resnet)
    elif hasattr(visual, "trunk") and not hasattr(visual.head, "pool"):
        taps["penultimate"] = _timm_penultimate(visual)
    return taps


def _timm_penultimate(visual: Any) -> Tap:
    """The input of open_clip's head, or else of timm's own; SigLIP has neither: its attention pool ends the tower."""
    if len(visual.head):
        return Tap("visual.head", "input", identity)
    classifier = visual.trunk.get_classifier() if hasattr(visual.trunk, "get_classifier") else None
    for name, child in visual.named_modules():
        if child is classifier and isinstance(child, nn.Linear):
            return Tap(f"visual.{name}", "input", identity)
    return Tap("visual.trunk", "output", identity)


def identity(_: nn.Module, features: Tensor) -> Tensor:
    """The watched features, unchanged."""
    return features


def first_token(_: nn.Module, features: Tensor) -> Tensor:
    """(B, N, C) -> (B, C): the first token (a class token); a tensor (B, C) stays."""
    return features[:, 0] if features.dim() == 3 else features


def mean_token(_: nn.Module, features: Tensor) -> Tensor:
    """(B, N, C) tokens -> (B, C): their mean."""
    return features.mean(1)


def mean_map(_: nn.Module, features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C): the mean over positions; tokens (B, N, C) of hybrid towers likewise."""
    return features.mean((2, 3)) if features.dim() == 4 else features.mean(1)


def mean_map_last(_: nn.Module, features: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C): the mean over positions, for towers with channels last (Swin)."""
    return features.mean((1, 2))


def _pooling(visual: Any) -> Any:
    """How a block's output becomes one vector: the class token if the tower pools by it, otherwise the mean."""
    trunk = getattr(visual, "trunk", None)
    if trunk is None:
        if not hasattr(visual, "transformer"):
            return mean_map
        return first_token if visual.pool_type == "tok" and visual.attn_pool is None else mean_token
    if getattr(trunk, "output_fmt", "NCHW") == "NHWC":
        return mean_map_last
    if getattr(trunk, "global_pool", "") == "token" and hasattr(trunk, "blocks"):
        return first_token if not hasattr(trunk.patch_embed, "backbone") else mean_map
    return mean_map


def _has_value_path(visual: Any, block: nn.Module) -> bool:
    """Whether GL-MCM's local features are defined: a CLIP ViT without attentional pooling."""
    plain = isinstance(getattr(block, "attn", None), PlainAttention)
    return plain and visual.attn_pool is None and visual.pool_type == "tok"


@dataclass(frozen=True)
class LocalViT:
    """Local features of GL-MCM (Miyai et al., 2025, arXiv 2304.04521; their released code): the value path.

    In the last block every patch keeps its own value vector instead of attending: v = x + out_proj(value(ln_1(x))),
    then v + mlp(ln_2(v)), then the model's ln_post and projection, L2-normalised. The class token is left out.
    """

    block: str

    def __call__(self, module: Any, x: Tensor) -> Tensor:
        """Input of the last block (B, 1 + N, C) -> (B, N, D)."""
        visual, block = module.visual, module.get_submodule(self.block)
        normed = block.ln_1(x)
        attention = block.attn
        value = attention.v(normed) if attention.qkv is None else attention.qkv(normed).chunk(3, dim=-1)[2]
        v = x + block.ls_1(attention.out_proj(value))
        v = v + block.ls_2(block.mlp(block.ln_2(v)))
        return F.normalize((visual.ln_post(v) @ visual.proj)[:, 1:].float(), dim=-1)


def local_resnet(module: Any, x: Tensor) -> Tensor:
    """GL-MCM's local features of a ModifiedResNet: feature map (B, C, H, W) -> c_proj(v_proj(.)) (B, H * W, D)."""
    pool = module.visual.attnpool
    return F.normalize(pool.c_proj(pool.v_proj(x.flatten(2).transpose(1, 2))).float(), dim=-1)
