"""ClipModel: the one face of every CLIP-like model. Adapters build it, quantizers rewrite it, the engine runs it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.spec import Tower, digest

Resize = Literal["shortest", "longest", "squash"]


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes pixels of the size that the model takes; the same meaning as open_clip's PreprocessCfg.

    Decoding, resizing and cropping give uint8 pixels, which are stored; `mean` and `std` (of values in [0, 1]) are
    applied when the model runs.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Resize = "shortest"
    fill: int = 0

    def pixel_digest(self) -> str:
        """Content hash of what determines the stored uint8 pixels (mean and std do not)."""
        return digest([list(self.size), self.interpolation, self.resize, self.fill])


@dataclass(frozen=True)
class ClipModel:
    """A loaded model with attention made of plain Linears, in eval mode.

    Attributes:
        name: short display name, e.g. `demo` or `ViT-B-32.laion2b_s34b_b79k`.
        family: `ViT`, `ConvNeXt`, `ResNet`, `SigLIP`, `CoCa`, `EVA`, `ALIGN`, ...
        digest: SHA-256 of the weights and the architecture's configuration.
        module: the torch module; every Linear and Conv2d in it is really called by the forward pass.
        image_encoder, text_encoder: (module, normalised float pixels (B, 3, H, W) / tokens (B, L)) -> (B, D).
        tokenizer: texts -> tokens (B, L) int64.
        towers: for each tower the prefixes of the names of its modules within `module`.
        blocks: for each tower the names of its repeated blocks in forward order (for block-by-block calibration).
        token_mask: tokens (B, L) -> bool (B, L), True where a position counts for calibration; None: all count.
    """

    name: str
    family: str
    digest: str
    module: nn.Module
    preprocess: Preprocess
    tokenizer: Callable[[Sequence[str]], Tensor]
    image_encoder: Callable[[nn.Module, Tensor], Tensor]
    text_encoder: Callable[[nn.Module, Tensor], Tensor]
    towers: Mapping[Tower, tuple[str, ...]]
    blocks: Mapping[Tower, tuple[str, ...]]
    logit_scale: float
    logit_bias: float = 0.0
    token_mask: Callable[[Tensor], Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def clone(self) -> ClipModel:
        """An independent copy, to be quantized."""
        return replace(self, module=copy.deepcopy(self.module))

    def layers(self, tower: Tower) -> dict[str, nn.Module]:
        """The Linear and Conv2d layers of a tower by full dotted name, in module order."""
        kinds = (nn.Linear, nn.Conv2d)
        return {
            name: layer
            for name, layer in self.module.named_modules()
            if isinstance(layer, kinds) and self.in_tower(name, tower)
        }

    def in_tower(self, name: str, tower: Tower) -> bool:
        """Whether a module or parameter name belongs to a tower."""
        return any(name == prefix or name.startswith(prefix + ".") for prefix in self.towers[tower])

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B, 3, H, W) -> float32, scaled to [0, 1], minus mean, over std, on the model's device."""
        values = pixels.to(self.device, non_blocking=True).float().div_(255)
        mean = torch.tensor(self.preprocess.mean, device=values.device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocess.std, device=values.device).view(1, 3, 1, 1)
        return values.sub_(mean).div_(std)

    @torch.inference_mode()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B, 3, H, W) -> L2-normalised features (B, D) float32."""
        return _unit(self.image_encoder(self.module, self.normalise(pixels)))

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """B texts -> L2-normalised features (B, D) float32."""
        return _unit(self.text_encoder(self.module, self.tokenizer(texts).to(self.device)))


def _unit(features: Tensor) -> Tensor:
    return nn.functional.normalize(features.float(), dim=-1)
