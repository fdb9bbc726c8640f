"""A tower as a module of its own, the inputs that it is traced and calibrated with, and its place in a ClipModel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.errors import QuantizationError
from benchmark.models.base import ClipModel
from benchmark.models.texts import whole_tokens
from benchmark.quantization.calibration import Calibration
from benchmark.runtimes import GraphTower, Session, TowerEncoder
from benchmark.spec import Tower

INPUTS: dict[Tower, str] = {"vision": "pixels", "text": "tokens"}
"""Name of a graph's input: normalised pixels (B, 3, H, W) float32, tokens (B, L) int64 of the whole context."""
_TEXTS = ("a photo of a cat", "two red circles")


class TowerModule(nn.Module):
    """One tower of a model: its input -> features (B, D), not normalised."""

    def __init__(self, model: ClipModel, tower: Tower) -> None:
        super().__init__()
        self.module = model.module
        self.encode = model.image_encoder if tower == "vision" else model.text_encoder

    def forward(self, inputs: Tensor) -> Tensor:
        """Pixels or tokens -> features."""
        return self.encode(self.module, inputs)


class InGraph(nn.Module):
    """Stands where a layer was whose product the tower's graph computes."""

    def forward(self, x: Tensor) -> Tensor:
        """It has no arithmetic.

        Raises:
            QuantizationError: always.
        """
        raise QuantizationError("this layer is computed within its tower's graph; run the tower, not its layers")


class WholeTokens:
    """The tokens of a model's tokenizer at their whole length, which a graph is made for."""

    def __init__(self, model: ClipModel) -> None:
        self.inner = model.tokenizer

    def __call__(self, texts: Any) -> Tensor:
        """Texts -> tokens (B, L)."""
        return whole_tokens(self.inner, texts)


def example(model: ClipModel, tower: Tower) -> Tensor:
    """Two inputs of a tower."""
    if tower == "text":
        return whole_tokens(model.tokenizer, list(_TEXTS))
    height, width = model.preprocess.size
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, height, width), dtype=np.uint8)
    return model.normalise(torch.from_numpy(noise))


def inputs(model: ClipModel, tower: Tower, calibration: Calibration, most: int) -> Iterator[NDArray[Any]]:
    """The first `most` calibration inputs of a tower, one at a time: (1, 3, H, W) float32, or (1, L) int64."""
    if tower == "text":
        for text in calibration.captions[:most]:
            yield whole_tokens(model.tokenizer, [text]).numpy()
        return
    for row in range(min(most, len(calibration.pixels))):
        pixels = torch.from_numpy(calibration.pixels[row : row + 1].copy())
        yield np.ascontiguousarray(model.normalise(pixels).numpy())


def layer_weights(model: ClipModel, tower: Tower) -> dict[str, NDArray[np.float32]]:
    """Weights (out, ...) of a tower's Linear and Conv2d layers by name."""
    layers = model.layers(tower).items()
    return {name: layer.get_parameter("weight").detach().float().cpu().numpy() for name, layer in layers}


def with_session(model: ClipModel, tower: Tower, session: Session) -> ClipModel:
    """The model with a tower that runs in a session; an image tower has no taps then."""
    encoder = TowerEncoder(GraphTower(session))
    if tower == "vision":
        return replace(model, image_encoder=encoder, taps={})
    return replace(model, text_encoder=encoder, tokenizer=WholeTokens(model))
