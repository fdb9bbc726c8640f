"""The planted model: an image tower that is linear in the pixels, and a text tower that looks class weights up."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.demo import planted
from benchmark.errors import ModelError
from benchmark.models.base import ClipModel, Preprocess, Tap
from benchmark.models.taps import identity

VOCABULARY = planted.DIMENSION
"""Words: the classes first, then what other words are hashed to. Token 0 is padding."""
SILENT = frozenset(re.findall(r"[a-z]+", " ".join(planted.TEMPLATES).lower()))
"""The words of the templates, which mean nothing."""


class LinearTowers(nn.Module):
    """Pixels -> coefficients -> times gains -> permuted; words -> class weights -> permuted, summed over words.

    The gains are a diagonal matrix, so a quantization with one scale for the whole matrix rounds the small ones to zero
    and all large ones alike. The permutation's ones are rounded alike too: features keep their direction.
    """

    def __init__(self) -> None:
        super().__init__()
        d = planted.DIMENSION
        pixels = 3 * planted.SIDE**2
        self.visual = nn.ModuleDict(
            {
                "blocks": nn.Sequential(nn.Linear(pixels, d), nn.Linear(d, d, bias=False)),
                "proj": nn.Linear(d, d, bias=False),
            }
        )
        self.text = nn.ModuleDict(
            {
                "embedding": nn.Embedding(1 + VOCABULARY, VOCABULARY, padding_idx=0),
                "blocks": nn.Sequential(nn.Linear(VOCABULARY, d, bias=False)),
                "proj": nn.Linear(d, d, bias=False),
            }
        )


def encode_image(module: nn.Module, pixels: Tensor) -> Tensor:
    """Normalised pixels (B, 3, 32, 32) -> (B, 64)."""
    tower = cast(nn.ModuleDict, module.visual)
    features: Tensor = tower["proj"](tower["blocks"](pixels.flatten(1)))
    return features


def encode_text(module: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens (B, L) -> (B, 64); padding adds nothing."""
    tower = cast(nn.ModuleDict, module.text)
    features: Tensor = tower["proj"](tower["blocks"](tower["embedding"](tokens)).sum(1))
    return features


def tokenize(texts: Sequence[str]) -> Tensor:
    """Texts -> tokens (B, L) int64: words, then padding, of which there is at least one."""
    rows = [[_token(word) for word in re.findall(r"[a-z]+", text.lower()) if word not in SILENT] for text in texts]
    length = 1 + max((len(row) for row in rows), default=0)
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.int64).reshape(-1, length)


def _token(word: str) -> int:
    classes = len(planted.CLASS_NAMES)
    if word in planted.CLASS_NAMES:
        return 1 + planted.CLASS_NAMES.index(word)
    spread = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
    return 1 + classes + spread % (VOCABULARY - classes)


def not_padding(tokens: Tensor) -> Tensor:
    """(B, L) bool."""
    return tokens != 0


def state(variant: planted.Variant) -> dict[str, NDArray[np.float64]]:
    """Parameters of `LinearTowers` by name."""
    d, scale = planted.DIMENSION, 127.5 / planted.AMPLITUDE  # normalised pixels are (grey level - 127.5) / 127.5
    constant = np.zeros(d)
    constant[0] = planted.CONSTANT
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((26, 3))))
    turn = np.eye(d)[rng.permutation(d)]
    weights = planted.class_weights(variant)
    length = np.linalg.norm(weights[0])
    others = rng.standard_normal((VOCABULARY - len(weights), d)) / planted.gains()
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    return {
        "visual.blocks.0.weight": scale * planted.atoms(),
        "visual.blocks.0.bias": constant,
        "visual.blocks.1.weight": np.diag(planted.gains()),
        "visual.proj.weight": turn,
        "text.embedding.weight": np.concatenate([np.zeros((1, VOCABULARY)), np.eye(VOCABULARY)]),
        "text.blocks.0.weight": np.concatenate([weights / length, others]).T,
        "text.proj.weight": turn,
    }


def variant_of(name: object, where: str) -> planted.Variant:
    """A variant by its name.

    Raises:
        ModelError: there is none; names `where`.
    """
    for variant in planted.READS:
        if name == variant:
            return variant
    raise ModelError(f"{where}: no planted model of variant {name!r}; known: {', '.join(planted.READS)}")


def build(
    name: str,
    digest: str,
    variant: planted.Variant,
    preprocess: Preprocess,
    device: str,
    restore: Callable[[nn.Module], None] | None = None,
) -> ClipModel:
    """The model on a device, in eval mode. Args: restore: puts other tensors into its module."""
    module = LinearTowers()
    made: dict[str, Any] = {key: torch.from_numpy(value.copy()).float() for key, value in state(variant).items()}
    module.load_state_dict(made)
    if restore is not None:
        restore(module)
    blocks = ("visual.blocks.0", "visual.blocks.1")
    taps = {f"block:{block}": Tap(block, "output", identity) for block in blocks}
    return ClipModel(
        name=name,
        family="linear",
        digest=digest,
        module=module.to(device).eval().requires_grad_(False),
        preprocess=preprocess,
        tokenizer=tokenize,
        image_encoder=encode_image,
        text_encoder=encode_text,
        towers={"vision": ("visual",), "text": ("text",)},
        blocks={"vision": blocks, "text": ("text.blocks.0",)},
        logit_scale=planted.logit_scale(variant),
        token_mask=not_padding,
        taps={**taps, "penultimate": Tap("visual.proj", "input", identity)},
    )
