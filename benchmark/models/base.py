"""ClipModel: the interface of all CLIP-like models. Adapters build it, quantizers rewrite it, the engine runs it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark.errors import UnknownNameError
from benchmark.models.preprocess import Preprocess, Resize
from benchmark.spec import Tower

__all__ = ["ClipModel", "Preprocess", "Resize", "Tap"]


@dataclass(frozen=True)
class Tap:
    """Features read inside the image tower while it runs.

    Attributes:
        module: name of the module that is watched, within the ClipModel's module.
        side: whether its (first) input or its output is read.
        read: (whole module, watched tensor) -> features with the batch first.
    """

    module: str
    side: Literal["input", "output"]
    read: Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class ClipModel:
    """A loaded model with attention made of plain Linears, in eval mode.

    Attributes:
        name: short display name, e.g. `demo` or `ViT-B-32.laion2b_s34b_b79k`.
        family: `ViT`, `ConvNeXt`, `ResNet`, `SigLIP`, `CoCa`, `EVA`, `ALIGN`, ...
        digest: SHA-256 of the weights and the architecture's configuration.
        module: the torch module; every Linear and Conv2d in it is really called by the forward pass.
        image_encoder, text_encoder: (module, normalised float pixels (B, 3, H, W) / tokens (B, L)) -> (B, D).
        tokenizer: texts -> tokens (B, L) int64; L is what these texts need, at most the context length.
        towers: for each tower the prefixes of the names of its modules within `module`.
        blocks: for each tower the names of its repeated blocks in forward order (for block-by-block calibration).
        token_mask: tokens (B, L) -> bool (B, S), True where a position counts for calibration; None: all count. S is
            the length of the sequence inside the tower: L, or L + 1 for CoCa, which appends a class token.
        taps: features inside the image tower by name: `penultimate` (B, P), the pooled features before the projection
            into the joint space; `local` (B, N, D), patch features in the joint space, L2-normalised, where the
            family has them; `block:NAME` (B, C) for each block of the image tower. All float32.
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
    taps: Mapping[str, Tap] = field(default_factory=dict)

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
    def encode_image_with(self, pixels: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """As `encode_image`, under "image", and the named taps, all from one forward pass.

        Raises:
            UnknownNameError: this model has no such tap.
        """
        for name in taps:
            if name not in self.taps:
                raise UnknownNameError(f"tap of {self.name}", name, self.taps)
        watched: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name in taps:
                stack.enter_context(_watch(self.module, name, self.taps[name], watched))
            image = self.encode_image(pixels)
        return {"image": image} | watched

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """B texts -> L2-normalised features (B, D) float32."""
        return _unit(self.text_encoder(self.module, self.tokenizer(texts).to(self.device)))


def _unit(features: Tensor) -> Tensor:
    return nn.functional.normalize(features.float(), dim=-1)


@contextmanager
def _watch(module: nn.Module, name: str, tap: Tap, watched: dict[str, Tensor]) -> Iterator[None]:
    """Put the tap's features into `watched[name]` whenever the watched module runs."""

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        value = args[0] if tap.side == "input" else output
        watched[name] = tap.read(module, value[0] if isinstance(value, tuple) else value).float()

    handle = module.get_submodule(tap.module).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
