"""Shorten texts to the positions that their features depend on.

Prompts are some 10 tokens long and padded to 77. After the end-of-text token a causal tower's positions cannot change
the features, nor can padding that the tower masks out: running them makes a text several times as expensive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tokenize = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class UpToEnd:
    """Positions up to and with the end-of-text token: the last that a causal tower's pooled output depends on."""

    end: int | None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) -> bool (B, L); the end token is the largest id unless `end` names it."""
        last = tokens.argmax(-1) if self.end is None else (tokens == self.end).int().argmax(-1)
        return torch.arange(tokens.shape[1], device=tokens.device) <= last[:, None]


@dataclass(frozen=True)
class NotPadding:
    """Positions that hold no padding; `appended` for CoCa, whose class token makes the sequence one longer.

    open_clip keeps the released CoCa weights' mask, which is shifted right by one position unless `correct`.
    """

    pad: int
    appended: bool = False
    correct: bool = True

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) -> bool (B, L), or (B, L + 1) with the appended class token."""
        kept = tokens != self.pad
        if not self.appended:
            return kept
        ones = kept.new_ones(len(kept), 1)
        if self.correct:
            return torch.cat([kept, ones], 1)
        mask = torch.cat([ones, kept], 1)
        mask[:, -1] = True
        return mask


TokenMask = UpToEnd | NotPadding


@dataclass(frozen=True)
class Shortened:
    """Texts -> tokens (B, S) int64, cut behind the last position that counts in any of the B texts."""

    inner: Tokenize
    mask: TokenMask

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens = self.inner(texts)
        used = self.mask(tokens).any(0).nonzero()
        return tokens[:, : int(used[-1]) + 1] if len(used) else tokens


LONGER = 4
"""Times its own context length at which a tokenizer is asked whether a text fits."""


def whole_tokens(tokenizer: Tokenize, texts: Sequence[str]) -> Tensor:
    """Tokens (B, L) as the tokenizer makes them, padded and not shortened."""
    return tokenizer.inner(texts) if isinstance(tokenizer, Shortened) else tokenizer(texts)


def cut_texts(tokenizer: Tokenize, texts: Sequence[str], tokens: Tensor | None = None) -> NDArray[np.bool_] | None:
    """Which texts (B,) are longer than the context, so that their end does not count.

    A text is cut where a longer context would hold other tokens. Only those that leave no room in their own are asked:
    the end token may be the padding too, so two places of padding are room.

    Args:
        tokens: (B, L) of `whole_tokens`, where they are known.

    Returns:
        None for a tokenizer without `longer(texts, times)`.
    """
    inner = tokenizer.inner if isinstance(tokenizer, Shortened) else tokenizer
    if not hasattr(inner, "longer"):
        return None
    own = inner(texts) if tokens is None else tokens
    padding, length = inner.longer(["a"], LONGER)[0, -1], own.shape[1]
    full = (own[:, -2:] != padding).any(1).nonzero()[:, 0]
    cut = torch.zeros(len(texts), dtype=torch.bool)
    if len(full):
        longer = inner.longer([texts[row] for row in full.tolist()], LONGER)
        cut[full] = (longer[:, length:] != padding).any(1) | (longer[:, :length] != own[full]).any(1)
    return np.asarray(cut.numpy(), bool)


def shortened(tokenizer: Tokenize, mask: TokenMask | None) -> Tokenize:
    """The tokenizer, shortened to the positions that the features depend on.

    It stays unchanged where all positions count (SigLIP attends to its padding) and for CoCa, whose class token takes
    the position behind the last.
    """
    if mask is None or (isinstance(mask, NotPadding) and mask.appended):
        return tokenizer
    return Shortened(tokenizer, mask)


def encode_causal(module: Any, tokens: Tensor) -> Tensor:
    """open_clip's causal text towers on tokens (B, S), S up to the context length -> features (B, D), not normalised.

    As open_clip's `CLIP.encode_text` and `TextTransformer.forward`, which want the whole context. The module is
    unrolled: its `text_projection` is a `Projection`, also where open_clip has a Linear.
    """
    from open_clip.transformer import text_global_pool

    plain = not hasattr(module, "text")
    tower = module if plain else module.text
    pool, end = (module.text_pool_type, module.text_eos_id) if plain else (tower.pool_type, tower.eos_id)
    length, dtype = tokens.shape[1], tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    pooled: Tensor = text_global_pool(x, tokens, pool, eos_token_id=end)
    if tower.text_projection is None:
        return pooled
    projected: Tensor = pooled @ tower.text_projection
    return projected
