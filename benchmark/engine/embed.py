"""The one file that runs models: pixels and prompts in, L2-normalised features out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.errors import NonFiniteError
from benchmark.models.base import ClipModel
from benchmark.progress import Advance

VERSION = 1
"""Raise when features can change for the same inputs: it is part of every bank's content hash."""

TEXT_BATCH = 256


def embed_images(
    model: ClipModel,
    batches: Iterable[NDArray[np.uint8]],
    advance: Advance,
    taps: Sequence[str] = (),
) -> dict[str, NDArray[np.float32]]:
    """Run the vision tower over batches of pixels.

    Args:
        model: in eval mode, quantized or not.
        batches: (B, 3, H, W) uint8 each; results do not depend on B beyond float rounding.
        advance: told the number of images done.
        taps: further outputs of the same forward pass, e.g. `local`.

    Returns:
        `image` (N, D) float32, L2-normalised, and one array for each tap.

    Raises:
        NonFiniteError: names the first layer whose output is not finite.
    """
    chunks: dict[str, list[NDArray[np.float32]]] = {}
    start = 0
    for pixels in batches:
        batch = torch.from_numpy(pixels)
        outputs = model.encode_image_with(batch, taps) if taps else {"image": model.encode_image(batch)}
        if not torch.isfinite(outputs["image"]).all():
            layer = first_nonfinite_layer(model.module, lambda batch=batch: model.encode_image(batch))
            raise NonFiniteError(f"features are not finite from image {start} on; first in layer '{layer}'")
        for name, value in outputs.items():
            chunks.setdefault(name, []).append(value.float().cpu().numpy())
        advance(len(batch))
        start += len(batch)
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def embed_texts(model: ClipModel, texts: Sequence[str]) -> NDArray[np.float32]:
    """Run the text tower: T texts -> (T, D) float32, L2-normalised.

    Raises:
        NonFiniteError: names the first layer whose output is not finite.
    """
    parts = []
    for start in range(0, len(texts), TEXT_BATCH):
        batch = list(texts[start : start + TEXT_BATCH])
        features = model.encode_text(batch)
        if not torch.isfinite(features).all():
            layer = first_nonfinite_layer(model.module, lambda batch=batch: model.encode_text(batch))
            raise NonFiniteError(f"text features are not finite ('{batch[0]}' ...); first in layer '{layer}'")
        parts.append(features.float().cpu().numpy())
    return np.concatenate(parts)


def embed_classes(model: ClipModel, names: Sequence[str], templates: Sequence[str]) -> NDArray[np.float32]:
    """Zero-shot class weights (C, D) float32: each template -> encode -> normalise -> mean -> normalise.

    CLIP_benchmark's semantics. `templates` hold one `{}` (or `{c}`) each for the class name.
    """
    prompts = [fill(template, name) for name in names for template in templates]
    features = embed_texts(model, prompts).astype(np.float64)
    mean = features.reshape(len(names), len(templates), -1).mean(axis=1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), dtype=np.float32)


def fill(template: str, name: str) -> str:
    """A template with the class name in it; `{}` and CLIP_benchmark's `{c}` both stand for the name."""
    return template.replace("{c}", name).replace("{}", name)


def first_nonfinite_layer(module: nn.Module, forward: Callable[[], Tensor]) -> str:
    """Name of the first leaf layer, in the order of the forward pass, whose output is not finite."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return hook

    leaves = [(name, layer) for name, layer in module.named_modules() if not any(layer.children())]
    handles = [layer.register_forward_hook(watch(name)) for name, layer in leaves]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "(after the last layer)"
