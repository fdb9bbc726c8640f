"""The architecture of the demo's checkpoint, its fresh weights, and how it is saved."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmark.demo.catalogue import COLOUR_NAMES, DIGIT_NAMES, SHAPE_NAMES

CELLS = 5
"""The patch head predicts distances at CELLS x CELLS points of each patch."""

MEAN, STD = 0.5, 0.25


@dataclass(frozen=True)
class Config:
    """Sizes of the two towers."""

    embed: int = 64
    side: int = 64
    patch: int = 16
    width: int = 128
    layers: int = 4
    head_width: int = 32
    context: int = 16
    vocabulary: int = 49408
    text_width: int = 64
    text_heads: int = 2
    text_layers: int = 2

    def vision(self) -> dict[str, object]:
        """open_clip's `vision_cfg`."""
        sizes: dict[str, object] = {"image_size": self.side, "layers": self.layers, "width": self.width}
        return sizes | {"head_width": self.head_width, "patch_size": self.patch}

    def text(self) -> dict[str, object]:
        """open_clip's `text_cfg`."""
        sizes: dict[str, object] = {"context_length": self.context, "vocab_size": self.vocabulary}
        return sizes | {"width": self.text_width, "heads": self.text_heads, "layers": self.text_layers}

    def as_json(self) -> dict[str, dict[str, object]]:
        """The contents of open_clip_config.json."""
        model = {"embed_dim": self.embed, "vision_cfg": self.vision(), "text_cfg": self.text()}
        preprocess: dict[str, object] = {"size": [self.side, self.side], "mean": [MEAN] * 3, "std": [STD] * 3}
        preprocess |= {"interpolation": "bicubic", "resize_mode": "shortest"}
        return {"model_cfg": model, "preprocess_cfg": preprocess}


CONFIG = Config()


def _waves(grid: int, width: int) -> Tensor:
    """Sine-cosine position embeddings of a square grid: float32 (grid * grid, width)."""
    frequency = 10 ** -torch.linspace(0, 1.5, width // 4)
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (x, y)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)


def build(words: Tensor) -> CLIP:
    """The model with fresh weights and an embedding table of only the tokens `words` (sorted), which is much faster."""
    model = CLIP(CONFIG.embed, CLIPVisionCfg(**CONFIG.vision()), CLIPTextCfg(**CONFIG.text()))
    model.visual.output_tokens = True
    with torch.no_grad():
        model.visual.positional_embedding[1:] = 0.3 * _waves(CONFIG.side // CONFIG.patch, CONFIG.width)
        table = nn.Embedding(len(words), CONFIG.text_width)
        table.weight.copy_(model.token_embedding.weight[words])
    model.token_embedding = table
    return model


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """Unit text features (C, D) of tokens (C, L) cut to L places, L <= context; the last token has the highest id."""
    length = tokens.shape[1]
    hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    ends: Tensor = hidden[torch.arange(len(tokens)), tokens.argmax(-1)] @ model.text_projection
    return F.normalize(ends, dim=-1)


def encode_vision(model: CLIP, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Unit image features (B, D) and the last patch tokens (B, patches, width)."""
    pooled, tokens = model.visual(pixels)
    return F.normalize(pooled, dim=-1), tokens


class PatchHead(nn.Module):
    """Predicts, from each patch token, the signed distance at its points and the image's shape and colour, or digit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [CELLS * CELLS, len(SHAPE_NAMES), len(COLOUR_NAMES)]
        self.read = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(self.sizes)))
        self.read_digit = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(DIGIT_NAMES)))

    def digits(self, tokens: Tensor, digits: Tensor) -> Tensor:
        """Cross entropy of every patch token of the digits' images (B, patches, width)."""
        return F.cross_entropy(self.read_digit(tokens).flatten(0, 1), digits.repeat_interleave(tokens.shape[1]))

    def scenes(self, tokens: Tensor, distances: Tensor, shapes: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum of the three losses, and the loss of the distances alone."""
        patches = tokens.shape[1]
        distance, shape, colour = self.read(tokens).split(self.sizes, -1)
        away = 4 * F.smooth_l1_loss(distance, distances, beta=0.2)
        kind = F.cross_entropy(shape.flatten(0, 1), shapes.repeat_interleave(patches))
        paint = F.cross_entropy(colour.flatten(0, 1), colours.repeat_interleave(patches))
        return away + 0.5 * kind + 0.2 * paint, away


def finished(model: CLIP, words: Tensor) -> CLIP:
    """A copy of `model` with the full embedding table; tokens that never occurred keep small seeded values."""
    whole = copy.deepcopy(model)
    table = nn.Embedding(CONFIG.vocabulary, CONFIG.text_width)
    with torch.no_grad():
        table.weight.copy_(0.02 * torch.randn(table.weight.shape, generator=torch.Generator().manual_seed(0)))
        table.weight[words] = model.token_embedding.weight
    whole.token_embedding = table
    whole.visual.output_tokens = False
    return whole.eval()


def save(model: CLIP, out: Path) -> str:
    """Write open_clip's `local-dir:` layout, weights in fp16; returns the SHA-256 of the weights file."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "open_clip_config.json").write_text(json.dumps(CONFIG.as_json(), indent=2) + "\n")
    weights = out / "open_clip_model.safetensors"
    save_file({key: value.half().contiguous() for key, value in model.state_dict().items()}, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (out / "DIGEST").write_text(f"{digest}  {weights.name}\n")
    return digest
