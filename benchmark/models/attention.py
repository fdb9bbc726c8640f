"""Attention made of plain Linears, so that a quantizer finds every weight and the forward pass calls it.

`nn.MultiheadAttention` keeps its input projection in a bare `in_proj_weight` and reads `out_proj.weight` without
calling `out_proj`, so that a replaced `out_proj` silently changes nothing. The same problem is in ModifiedResNet's
AttentionPool2d, in open_clip's own Attention, in timm's EVA attention (`F.linear(x, qkv.weight)`), and wherever a
tower ends in `x @ self.proj`. `unroll` rewrites them all in place; outputs agree with the original to float32 rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import ModelError


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear that shares the storage of `weight` (out, in) and `bias` (out,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def split_heads(values: Tensor, heads: int) -> Tensor:
    """(B, L, H * d) -> (B, H, L, d)."""
    return values.view(*values.shape[:-1], heads, -1).transpose(1, 2)


def merge_heads(values: Tensor) -> Tensor:
    """(B, H, L, d) -> (B, L, H * d)."""
    return values.transpose(1, 2).flatten(2)


def additive_mask(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """nn.MultiheadAttention's mask (bool: True is hidden; float: added to the scores) -> the added float mask.

    scaled_dot_product_attention reads bool masks the other way round (True takes part), hence no bool is handed on.
    """
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
    return mask.to(like.dtype)


class PlainAttention(nn.Module):
    """nn.MultiheadAttention with the same call signature, made of Linears and scaled_dot_product_attention.

    `fused` keeps one `qkv` Linear (out = 3 * E), as in the checkpoint; otherwise there are three, `q`, `k` and `v`:
    per-tensor scales differ between the two, per-channel and per-group scales do not. Use the fused form where query,
    key and value are the same tensor; for others it is correct too, at three times the cost.
    """

    def __init__(self, source: nn.MultiheadAttention, fused: bool) -> None:
        super().__init__()
        if source.bias_k is not None or source.bias_v is not None or source.add_zero_attn:
            raise ModelError("attention with bias_k, bias_v or add_zero_attn cannot be rewritten into plain Linears")
        self.embed_dim, self.num_heads = source.embed_dim, source.num_heads
        self.batch_first, self.dropout = source.batch_first, source.dropout
        if source._qkv_same_embed_dim:
            weights = list(source.in_proj_weight.detach().chunk(3))
        else:
            weights = [source.q_proj_weight, source.k_proj_weight, source.v_proj_weight]
        bias = source.in_proj_bias
        biases: list[Tensor | None] = [None] * 3 if bias is None else list(bias.detach().chunk(3))
        self.qkv: nn.Module | None = None
        if fused and source._qkv_same_embed_dim:
            self.qkv = linear(source.in_proj_weight, bias)
        else:
            self.q, self.k, self.v = (linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out_proj = linear(source.out_proj.weight, source.out_proj.bias)
        self.train(source.training)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three input projections, each (B, L or S, E)."""
        if self.qkv is None:
            return self.q(query), self.k(key), self.v(value)
        if key is query and value is query:
            q, k, v = self.qkv(query).chunk(3, dim=-1)
            return q, k, v
        return self.qkv(query).chunk(3, -1)[0], self.qkv(key).chunk(3, -1)[1], self.qkv(value).chunk(3, -1)[2]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention.forward; `is_causal` is a hint that must agree with `attn_mask`."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint: give attn_mask with it")
        single = query.dim() == 2
        same_key, same_value = key is query, value is key
        query = self._batched(query, single)
        key = query if same_key else self._batched(key, single)
        value = key if same_value else self._batched(value, single)
        padding = key_padding_mask.unsqueeze(0) if single and key_padding_mask is not None else key_padding_mask
        q, k, v = (split_heads(x, self.num_heads) for x in self.project(query, key, value))
        mask = self._mask(attn_mask, padding, q, k)
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights.squeeze(0) if single else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        output = self.out_proj(merge_heads(mixed))
        if single:
            return output.squeeze(0), weights
        return (output if self.batch_first else output.transpose(0, 1)), weights

    def _batched(self, values: Tensor, single: bool) -> Tensor:
        """Any accepted layout -> (B, L, E)."""
        if single:
            return values.unsqueeze(0)
        return values if self.batch_first else values.transpose(0, 1)

    def _mask(self, attention: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        """attn_mask (L, S) or (B * H, L, S) and key_padding_mask (B, S) -> one added mask, or None."""
        mask = additive_mask(attention, q)
        if mask is not None and mask.dim() == 3:
            mask = mask.view(q.shape[0], self.num_heads, q.shape[2], k.shape[2])
        hidden = additive_mask(padding, q)
        if hidden is None:
            return mask
        hidden = hidden[:, None, None, :]
        return hidden if mask is None else mask + hidden


class PlainCustomAttention(nn.Module):
    """open_clip's own Attention (the `custom` block type) with its bare `in_proj_weight` as a Linear `qkv`."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.num_heads, self.logit_scale_max = source.num_heads, source.logit_scale_max
        self.qkv = linear(source.in_proj_weight, source.in_proj_bias)
        self.ln_q, self.ln_k, self.ln_inner = source.ln_q, source.ln_k, source.ln_inner
        self.logit_scale, self.head_scale = source.logit_scale, source.head_scale
        self.out_proj = source.out_proj
        self.train(source.training)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """x (B, L, C) -> (B, L, C); masks as in PlainAttention, also (B, H, L, L)."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        mask = additive_mask(attn_mask, q)
        if mask is not None and mask.dim() == 3:
            mask = mask.view(x.shape[0], self.num_heads, x.shape[1], x.shape[1])
        if self.logit_scale is None:
            mixed = F.scaled_dot_product_attention(self.ln_q(q), self.ln_k(k), v, mask)
        else:  # Swin v2's cosine attention, its temperature per head
            cosine = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            scores = cosine * self.logit_scale.clamp(max=self.logit_scale_max).exp()
            mixed = (scores if mask is None else scores + mask).softmax(-1) @ v
        if self.head_scale is not None:
            mixed = mixed * self.head_scale
        output: Tensor = self.out_proj(self.ln_inner(merge_heads(mixed)))
        return output


class PlainAttentionPool(nn.Module):
    """ModifiedResNet's AttentionPool2d: the mean token attends to itself and to all positions; Linears are called.

    Only the mean token's output is used, so only its query is computed.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.num_heads, self.positional_embedding = source.num_heads, source.positional_embedding
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = source.q_proj, source.k_proj, source.v_proj, source.c_proj
        self.train(source.training)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map (B, C, H, W) -> (B, D)."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.positional_embedding.to(x.dtype)
        projected = self.q_proj(tokens[:, :1]), self.k_proj(tokens), self.v_proj(tokens)
        q, k, v = (split_heads(part, self.num_heads) for part in projected)
        output: Tensor = self.c_proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        return output[:, 0]


class Projection(nn.Module):
    """Replaces a bare weight in `x @ weight` (or a called Linear) and keeps the weight in a child Linear."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.linear = layer

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        output: Tensor = self.linear(x)
        return output

    def __rmatmul__(self, x: Tensor) -> Tensor:
        output: Tensor = self(x)
        return output


@dataclass(frozen=True)
class Constant:
    """A callable without arguments that always gives `value`; unlike a lambda it can be pickled."""

    value: torch.dtype

    def __call__(self) -> torch.dtype:
        return self.value


def unroll(module: nn.Module) -> nn.Module:
    """Rewrite every attention and every bare projection within `module` in place; returns `module`.

    Output equal to the original within float32 rounding (tested to 1e-5). Weights are shared, not copied.

    Raises:
        ModelError: an attention that cannot be written with plain Linears (bias_k, bias_v, add_zero_attn).
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            replacement = _plain(child, parent)
            if replacement is not None:
                setattr(parent, name, replacement)
        _fold_qkv_bias(parent)
        _wrap_projections(parent)
        if callable(getattr(parent, "get_cast_dtype", None)):
            # open_clip casts text embeddings to the dtype of a weight, which is uint8 once that layer is packed.
            object.__setattr__(parent, "get_cast_dtype", Constant(parent.get_cast_dtype()))  # type: ignore[operator]
    return module


def _plain(child: nn.Module, parent: nn.Module) -> nn.Module | None:
    """The rewritten form of an attention module, None for any other module."""
    if isinstance(child, nn.MultiheadAttention):
        return PlainAttention(child, fused=not _is_cross_attention(parent))
    kind = type(child).__name__
    if kind == "Attention" and isinstance(getattr(child, "in_proj_weight", None), nn.Parameter):
        return PlainCustomAttention(child)
    if kind == "AttentionPool2d" and hasattr(child, "c_proj"):
        return PlainAttentionPool(child)
    return None


def _is_cross_attention(parent: nn.Module) -> bool:
    """Whether the attention within `parent` takes its keys from elsewhere: learned queries, or an image's tokens."""
    return any(hasattr(parent, mark) for mark in ("query", "probe", "ln_1_kv"))


def _fold_qkv_bias(module: nn.Module) -> None:
    """timm's EVA and BEiT keep q, k and v biases beside a Linear that they bypass: put them into the Linear."""
    qkv, q_bias = getattr(module, "qkv", None), getattr(module, "q_bias", None)
    if not isinstance(qkv, nn.Linear) or qkv.bias is not None or not isinstance(q_bias, Tensor):
        return
    parts = [getattr(module, name) for name in ("q_bias", "k_bias", "v_bias")]
    known = [torch.zeros_like(q_bias) if part is None else part for part in parts]
    qkv.bias = nn.Parameter(torch.cat(known).detach(), requires_grad=False)
    for name in ("q_bias", "k_bias", "v_bias"):
        setattr(module, name, None)


def _wrap_projections(module: nn.Module) -> None:
    """`proj` and `text_projection`: a bare matrix (in, out), or a Linear whose class is checked -> Projection."""
    for name in ("proj", "text_projection"):
        held = getattr(module, name, None)
        if isinstance(held, nn.Parameter) and held.dim() == 2:
            delattr(module, name)
            setattr(module, name, Projection(linear(held.t().contiguous(), None)))
        elif name == "text_projection" and isinstance(held, nn.Linear) and hasattr(module, "token_embedding"):
            setattr(module, name, Projection(held))
