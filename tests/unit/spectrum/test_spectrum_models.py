"""What the spectral study reads off models: the projection, features in their own basis, bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.engine.embed import embed_images, projection_matrix, stream_features
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.quantization import Calibration, parse, quantize
from benchmark.spec import ModelSpec
from tests.models_zoo import write_checkpoint


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """family -> model, loaded once."""

    @cache
    def load(family: str) -> ClipModel:
        folder: Path = tmp_path_factory.mktemp("zoo") / family
        return resolve(ModelSpec(ref=write_checkpoint(family, folder))).load("cpu")

    return load


def pixels_for(model: ClipModel, count: int = 16) -> np.ndarray:
    height, width = model.preprocess.size
    coarse = np.random.default_rng(0).integers(0, 256, (count, 3, height // 8, width // 8), dtype=np.uint8)
    return coarse.repeat(8, 2).repeat(8, 3)


def first(model: ClipModel, pixels: np.ndarray, *taps: str) -> dict[str, np.ndarray]:
    return dict(next(stream_features(model, [pixels], lambda _: None, taps)))


@pytest.mark.parametrize("family", ["ViT", "ResNet", "ConvNeXt", "SigLIP"])
def test_the_projection_is_read_off_exactly(zoo: Any, family: str) -> None:
    """ResNet's has an offset, SigLIP's is the identity."""
    model = zoo(family)
    found = first(model, pixels_for(model), "penultimate")
    x = found["penultimate"].astype(np.float64)
    head = projection_matrix(model, x.shape[1])
    assert head is not None
    joint = x @ head[0] + head[1]
    joint /= np.linalg.norm(joint, axis=1, keepdims=True)
    assert np.abs(joint - found["image"]).max() < 1e-6
    assert bool(head[1].any()) == (family == "ResNet")


def sqnr(x: np.ndarray, y: np.ndarray) -> float:
    return float(10 * np.log10(np.square(x).sum() / np.square(x - y).sum()))


@pytest.mark.parametrize("method", ["smoothquant", "awq"])
@pytest.mark.parametrize("family", ["ConvNeXt", "ViT", "SigLIP"])
def test_penultimate_features_keep_their_basis(zoo: Any, family: str, method: str) -> None:
    """At 8 bits they agree as well as those behind the projection do: no scaling is folded in front of it."""
    model = zoo(family)
    pixels = pixels_for(model)
    quantized, _ = quantize(model, parse(f"{method}-w8a8"), Calibration(pixels, ["a"] * len(pixels), "d"))
    full, other = (first(m, pixels, "penultimate") for m in (model, quantized))
    assert sqnr(full["penultimate"], other["penultimate"]) > sqnr(full["image"], other["image"]) - 6


def test_streamed_features_are_those_of_the_banks(zoo: Any) -> None:
    model = zoo("ViT")
    pixels = pixels_for(model, 11)
    batches = [pixels[:4], pixels[4:8], pixels[8:]]
    whole = embed_images(model, batches, lambda _: None, ["penultimate"])
    parts = list(stream_features(model, batches, lambda _: None, ["penultimate"]))
    assert [len(part["image"]) for part in parts] == [4, 4, 3]
    for name in ("image", "penultimate"):
        assert np.array_equal(whole[name], np.concatenate([part[name] for part in parts]))


def test_streaming_blocks_keeps_nothing(zoo: Any) -> None:
    """A further batch costs less than a tenth of its own features (its pixels would be five times as much)."""
    model = zoo("ViT")
    taps = [name for name in model.taps if name.startswith("block:")]
    pixels = pixels_for(model, 32)

    def batches(count: int) -> Iterator[np.ndarray]:
        for _ in range(count):
            yield pixels.copy()

    def peak(count: int) -> tuple[int, int]:
        size = 0
        tracemalloc.start()
        for found in stream_features(model, batches(count), lambda _: None, taps):
            size = sum(array.nbytes for array in found.values())
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, size

    peak(2)
    (few, size), (many, _) = peak(4), peak(40)
    assert (many - few) / 36 < 0.1 * size
