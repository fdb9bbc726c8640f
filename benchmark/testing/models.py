"""A two-tower transformer that is quick to quantize, its calibration data, and a version with outliers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.models.base import ClipModel, Preprocess
from benchmark.quantization import Calibration

WIDTH = 64
LENGTH = 16
PAD = ord("~")


class Block(nn.Module):
    """Attention and MLP, each in a residual branch behind a LayerNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, width) -> the same shape."""
        q, k, v = self.qkv(self.ln_1(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        output: Tensor = x + self.fc2(nn.functional.gelu(self.fc1(self.ln_2(x))))
        return output


class TwoTowers(nn.Module):
    """An image tower (patches of 8 pixels) and a text tower (one token a character), joint space of 32."""

    def __init__(self, width: int = WIDTH, depth: int = 2) -> None:
        super().__init__()
        self.visual = nn.ModuleDict(
            {
                "conv": nn.Conv2d(3, width, 8, 8, bias=False),
                "blocks": nn.Sequential(*(Block(width) for _ in range(depth))),
                "proj": nn.Linear(width, 32, bias=False),
            }
        )
        self.text = nn.ModuleDict(
            {
                "embedding": nn.Embedding(128, width),
                "blocks": nn.Sequential(Block(width)),
                "proj": nn.Linear(width, 32),
            }
        )


def image_encoder(module: nn.Module, pixels: Tensor) -> Tensor:
    """Normalised pixels (B, 3, 32, 32) -> features (B, 32)."""
    tower = cast(nn.ModuleDict, module.visual)
    tokens = tower["conv"](pixels).flatten(2).transpose(1, 2)
    features: Tensor = tower["proj"](tower["blocks"](tokens).mean(1))
    return features


def text_encoder(module: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens (B, 16) -> features (B, 32)."""
    tower = cast(nn.ModuleDict, module.text)
    features: Tensor = tower["proj"](tower["blocks"](tower["embedding"](tokens))[:, 0])
    return features


def tokenizer(texts: Sequence[str]) -> Tensor:
    """Texts -> code points (B, 16), cut or padded."""
    return torch.tensor([[ord(c) % 128 for c in text[:LENGTH].ljust(LENGTH, chr(PAD))] for text in texts])


def toy_model(seed: int = 0, width: int = WIDTH) -> ClipModel:
    """A CLIP-like model with random weights: two image blocks, one text block, 32 x 32 pixels."""
    torch.manual_seed(seed)
    module = TwoTowers(width).eval()
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "ln_" in name:
                value.add_(0.2 * torch.randn_like(value))
    return ClipModel(
        name="toy",
        family="ViT",
        digest=f"toy-{seed}-{width}",
        module=module,
        preprocess=Preprocess((32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        tokenizer=tokenizer,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        towers={"vision": ("visual",), "text": ("text",)},
        blocks={"vision": ("visual.blocks.0", "visual.blocks.1"), "text": ("text.blocks.0",)},
        logit_scale=10.0,
        token_mask=lambda tokens: tokens != PAD,
    )


def with_outliers(model: ClipModel, channels: int = 5, factor: float = 30.0) -> ClipModel:
    """Scale some LayerNorm channels up and the columns that read them down: the function stays, ranges explode."""
    module = copy.deepcopy(model.module)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in (layer for layer in module.modules() if isinstance(layer, Block)):
            for norm, linear in ((block.ln_1, block.qkv), (block.ln_2, block.fc1)):
                chosen = torch.randperm(norm.weight.numel(), generator=generator)[:channels]
                norm.weight[chosen] *= factor
                norm.bias[chosen] *= factor
                linear.weight[:, chosen] /= factor
    return replace(model, module=module, digest=model.digest + "-outliers")


def make_calibration(count: int = 64, size: int = 32, seed: int = 0) -> Calibration:
    """`count` coarse random images (3, size, size) uint8 with captions."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    pixels = coarse.repeat(size // 4, 2).repeat(size // 4, 3)
    captions = [f"a photo of {random.integers(1000)}" for _ in range(count)]
    return Calibration(pixels, captions, f"calibration-{count}-{size}-{seed}")
