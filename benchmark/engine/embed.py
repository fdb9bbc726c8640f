"""The one file that runs models: pixels and prompts in, L2-normalised features out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.data import prompts
from benchmark.errors import NonFiniteError
from benchmark.models.base import ClipModel
from benchmark.utils.memory import keep_freed_memory
from benchmark.utils.progress import Advance

VERSION = 2
"""Raise it when features can change for the same inputs: it is part of every bank's content hash."""

TEXT_BATCH = 256
T = TypeVar("T")


def stream_features(
    model: ClipModel,
    batches: Iterable[NDArray[np.uint8]],
    advance: Advance,
    taps: Sequence[str] = (),
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Run the vision tower over batches of pixels, one batch at a time: memory does not grow with their number.

    Args:
        model: in eval mode, quantized or not.
        batches: (B, 3, H, W) uint8 each; results do not depend on B beyond float rounding.
        advance: called with the number of images done.
        taps: further outputs of the same forward pass, e.g. `local`, `penultimate`, `block:NAME`.

    Yields:
        For each batch `image` (B, D) float32, L2-normalised, and one array for each tap.

    Raises:
        NonFiniteError: names the first layer whose output is not finite.
    """
    keep_freed_memory()
    pinned = model.device.type == "cuda"
    start = 0
    for batch, outputs in _one_ahead(_forward(model, pixels, taps, pinned) for pixels in batches):
        if not torch.isfinite(outputs["image"]).all():
            layer = first_nonfinite_layer(model.module, partial(model.encode_image, batch))
            raise NonFiniteError(f"features are not finite from image {start} on; first in layer '{layer}'")
        yield {name: value.float().cpu().numpy() for name, value in outputs.items()}
        advance(len(batch))
        start += len(batch)


def _forward(
    model: ClipModel, pixels: NDArray[np.uint8], taps: Sequence[str], pinned: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Start a batch without waiting: the copy from pinned memory and the work on a GPU are asynchronous."""
    batch = torch.from_numpy(pixels)
    batch = batch.pin_memory() if pinned else batch
    return batch, model.encode_image_with(batch, taps) if taps else {"image": model.encode_image(batch)}


def _one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each yielded after the next one has started, so that a GPU works while a result is fetched."""
    waiting: list[T] = []
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting


def write_features(
    batches: Iterable[Mapping[str, NDArray[np.float32]]],
    count: int,
    arrays: Sequence[str],
    room: Callable[[str, tuple[int, ...]], NDArray[np.float32]],
) -> None:
    """Write batches of features of `count` images, in order, where `room(name, shape)` says: none of them is held."""
    whole: dict[str, NDArray[np.float32]] = {}
    done = 0
    for outputs in batches:
        stop = done + len(outputs["image"])
        for name in arrays:
            if name not in whole:
                whole[name] = room(name, (count, *outputs[name].shape[1:]))
            whole[name][done:stop] = outputs[name]
        done = stop


def embed_images(
    model: ClipModel,
    batches: Iterable[NDArray[np.uint8]],
    advance: Advance,
    taps: Sequence[str] = (),
) -> dict[str, NDArray[np.float32]]:
    """`stream_features` concatenated over all batches: `image` (N, D) float32 and one array for each tap."""
    chunks: dict[str, list[NDArray[np.float32]]] = {}
    for outputs in stream_features(model, batches, advance, taps):
        for name, value in outputs.items():
            chunks.setdefault(name, []).append(value)
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


@torch.inference_mode()
def projection_matrix(model: ClipModel, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The affine map from the tap `penultimate` (width P) to the joint space: matrix (P, D) and offset (D,).

    Found by running the module behind the tap on the rows of an identity matrix. The caller must check on features
    that the module is affine. None where there is no such tap, or its module does not take plain rows.
    """
    tap = model.taps.get("penultimate")
    if tap is None:
        return None
    if tap.side == "output":  # the tower ends here
        return np.eye(width), np.zeros(width)
    rows = torch.cat([torch.eye(width), torch.zeros(1, width)]).to(model.device)
    try:
        output = model.module.get_submodule(tap.module)(rows).double().cpu().numpy()
    except (RuntimeError, IndexError, ValueError):  # a head that takes maps or token sequences
        return None
    return output[:-1] - output[-1], output[-1]


def _ignore(_: int) -> None:
    """Show no progress."""


def embed_texts(model: ClipModel, texts: Sequence[str], advance: Advance = _ignore) -> NDArray[np.float32]:
    """Run the text tower: T texts -> (T, D) float32, L2-normalised.

    Args: advance: called with the number of texts done.

    Raises:
        NonFiniteError: names the first layer whose output is not finite.
    """
    keep_freed_memory()
    parts = []
    for start in range(0, len(texts), TEXT_BATCH):
        batch = list(texts[start : start + TEXT_BATCH])
        features = model.encode_text(batch)
        if not torch.isfinite(features).all():
            layer = first_nonfinite_layer(model.module, partial(model.encode_text, batch))
            raise NonFiniteError(f"text features are not finite ('{batch[0]}' ...); first in layer '{layer}'")
        parts.append(features.float().cpu().numpy())
        advance(len(batch))
    return np.concatenate(parts)


def embed_classes(
    model: ClipModel, names: Sequence[str], templates: Sequence[str], advance: Advance = _ignore
) -> NDArray[np.float32]:
    """Zero-shot class weights (C, D) float32: each template -> encode -> normalise -> mean -> normalise.

    CLIP_benchmark's semantics. `templates` hold one `{}` (or `{c}`) each for the class name; `advance` is called with
    the number of prompts done.

    Raises:
        DataError: a template that has none, or several.
    """
    features = embed_texts(model, filled_prompts(names, templates), advance).astype(np.float64)
    mean = features.reshape(len(names), len(templates), -1).mean(axis=1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), dtype=np.float32)


def filled_prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every name in every template, name by name."""
    return [prompts.fill(prompts.normalise(template), name) for name in names for template in templates]


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
