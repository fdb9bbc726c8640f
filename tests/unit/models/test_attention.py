"""The rewritten attention equals the original, and is made of layers that are really called."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import Attention as CustomAttention
from open_clip.transformer import AttentionalPooler, ResidualAttentionBlock
from torch import Tensor, nn

from benchmark.errors import ModelError
from benchmark.models.attention import PlainAttention, Projection, unroll

E, H, B, L, S = 24, 3, 2, 5, 7


def _attention(batch_first: bool = True, seed: int = 0, **options: object) -> nn.MultiheadAttention:
    torch.manual_seed(seed)
    source = nn.MultiheadAttention(E, H, batch_first=batch_first, **options).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for value in source.parameters():
            value.normal_(std=0.3)
    return source


def _masks(kind: str, queries: int, keys: int) -> Tensor | None:
    causal = torch.ones(queries, keys, dtype=torch.bool).triu(1)
    if kind == "none":
        return None
    if kind == "bool":
        return causal
    added = torch.zeros(queries, keys).masked_fill(causal, float("-inf"))
    return added if kind == "float" else added.expand(B * H, -1, -1) + torch.randn(B * H, queries, keys)


@given(
    seed=st.integers(0, 1000),
    cross=st.booleans(),
    fused=st.booleans(),
    batch_first=st.booleans(),
    mask=st.sampled_from(["none", "bool", "float", "heads"]),
    padded=st.booleans(),
    need_weights=st.booleans(),
    average=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_equals_multihead_attention(
    seed: int, cross: bool, fused: bool, batch_first: bool, mask: str, padded: bool, need_weights: bool, average: bool
) -> None:
    source = _attention(batch_first, seed)
    query = torch.randn(B, L, E)
    key, value = (torch.randn(B, S, E), torch.randn(B, S, E)) if cross else (query, query)
    padding = torch.zeros(B, key.shape[1], dtype=torch.bool)
    padding[1, -1] = True
    options = {
        "attn_mask": _masks(mask, L, key.shape[1]),
        "key_padding_mask": padding if padded and mask in ("none", "bool") else None,
        "need_weights": need_weights,
        "average_attn_weights": average,
    }
    if not batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    with torch.no_grad():
        expected, weights = source(query, key, value, **options)
        found, found_weights = PlainAttention(source, fused)(query, key, value, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (weights is None) == (found_weights is None)
    if weights is not None:
        torch.testing.assert_close(found_weights, weights, atol=1e-5, rtol=0)


def test_unbatched_input() -> None:
    source, x = _attention(), torch.randn(L, E)
    expected, weights = source(x, x, x)
    found, found_weights = PlainAttention(source, True)(x, x, x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found_weights, weights, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_other_key_and_value_widths(fused: bool) -> None:
    source = _attention(kdim=10, vdim=14)
    query, key, value = torch.randn(B, L, E), torch.randn(B, S, 10), torch.randn(B, S, 14)
    expected = source(query, key, value, need_weights=False)[0]
    found = PlainAttention(source, fused)(query, key, value, need_weights=False)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_without_bias() -> None:
    source, x = _attention(bias=False), torch.randn(B, L, E)
    found = PlainAttention(source, True)
    torch.testing.assert_close(found(x, x, x)[0], source(x, x, x)[0], atol=1e-5, rtol=0)
    assert found.out_proj.bias is None


def test_shares_the_weights() -> None:
    source = _attention()
    plain = PlainAttention(source, True)
    assert isinstance(plain.qkv, nn.Linear)
    assert plain.qkv.weight.data_ptr() == source.in_proj_weight.data_ptr()


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_refuses_what_linears_cannot_say(options: dict[str, bool]) -> None:
    with pytest.raises(ModelError, match="bias_k"):
        PlainAttention(_attention(**options), True)


def test_causal_hint_needs_a_mask() -> None:
    x = torch.randn(B, L, E)
    with pytest.raises(RuntimeError, match="attn_mask"):
        PlainAttention(_attention(), True)(x, x, x, is_causal=True)


class _Zero(nn.Module):
    """What the trap is about: a replaced layer that must change the output."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.out)


@pytest.mark.parametrize("name", ["qkv", "out_proj"])
def test_a_replaced_layer_takes_effect(name: str) -> None:
    plain, x = PlainAttention(_attention(), True), torch.randn(B, L, E)
    setattr(plain, name, _Zero(getattr(plain, name).out_features))
    output = plain(x, x, x)[0]
    expected = torch.zeros_like(output) if name == "out_proj" else plain.out_proj.bias.expand_as(output)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"qk_norm": True, "scale_heads": True, "inner_norm": True}, {"qkv_bias": False}],
)
@pytest.mark.parametrize("mask", ["none", "bool", "float", "heads"])
def test_open_clips_own_attention(options: dict[str, bool], mask: str) -> None:
    torch.manual_seed(0)
    holder = nn.Sequential(CustomAttention(E, H, **options)).eval()
    with torch.no_grad():
        for value in holder.parameters():
            value.normal_(std=0.3)
    x, rewritten = torch.randn(B, L, E), unroll(copy.deepcopy(holder))
    attn_mask = _masks(mask, L, L)
    torch.testing.assert_close(
        rewritten[0](x, attn_mask=attn_mask), holder[0](x, attn_mask=attn_mask), atol=1e-5, rtol=0
    )
    assert {n for n, m in rewritten[0].named_modules() if isinstance(m, nn.Linear)} == {"qkv", "out_proj"}


def test_scaled_cosine_attention_follows_its_formula() -> None:
    """open_clip 3.3 cannot run this option itself (bmm of 4-d tensors): the oracle is the formula, head by head."""
    torch.manual_seed(0)
    source = CustomAttention(E, H, scaled_cosine=True).eval()
    x, width = torch.randn(B, L, E), E // H
    q, k, v = (x @ source.in_proj_weight.T + source.in_proj_bias).split(E, dim=-1)
    heads = []
    for head in range(H):
        part = slice(head * width, (head + 1) * width)
        cosine = torch.einsum("bld,bsd->bls", *(t / t.norm(dim=-1, keepdim=True) for t in (q[..., part], k[..., part])))
        heads.append((cosine * source.logit_scale[head].exp()).softmax(-1) @ v[..., part])
    expected = torch.cat(heads, -1) @ source.out_proj.weight.T + source.out_proj.bias
    found = unroll(nn.Sequential(source))[0](x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_attentional_pooler_and_cross_attention_are_split() -> None:
    torch.manual_seed(0)
    pooler = AttentionalPooler(E, E, n_head=H, n_queries=4).eval()
    block = ResidualAttentionBlock(E, H, is_cross_attention=True).eval()
    x, image = torch.randn(B, L, E), torch.randn(B, S, E)
    expected = pooler(image), block(x, k_x=image, v_x=image)
    found = unroll(pooler)(image), unroll(block)(x, k_x=image, v_x=image)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert {"q", "k", "v", "out_proj"} == {name for name, _ in pooler.attn.named_children()}
    assert {"q", "k", "v", "out_proj"} == {name for name, _ in block.attn.named_children()}


def test_projection_is_called_by_matrix_multiplication() -> None:
    layer = nn.Linear(3, 2, bias=False)
    shim, x, calls = Projection(layer), torch.randn(4, 3), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(x @ shim, x @ layer.weight.T)
    assert calls
