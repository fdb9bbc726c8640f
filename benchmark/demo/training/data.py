"""Batches and captions for the training of the demo's checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.demo.catalogue import (
    CLASS_NAMES,
    COLOUR_NAMES,
    DIGIT_NAMES,
    DIGIT_TEMPLATES,
    SEEN,
    SHAPE_NAMES,
    SPLITS,
    TEMPLATES,
    Split,
    easier,
)
from benchmark.demo.scenes import draw, render, split_labels
from benchmark.demo.training.model import CELLS, CONFIG, MEAN, STD
from benchmark.errors import DataError


@dataclass(frozen=True)
class Stage:
    """From step `start` on, train on `images` scenes of `difficulty` in [0, 1] and on `small` of `train_small`."""

    difficulty: float
    images: int
    start: int
    small: int = 0


class Batch(NamedTuple):
    """Scenes first, then digits: pixels (B, 3, 64, 64); distances (scenes, patches, CELLS^2) over about 10 pixels."""

    pixels: Tensor
    labels: Tensor
    digits: Tensor
    distances: Tensor


class Scenes(NamedTuple):
    """uint8 (N, 64, 64, 3), int64 (N,), and distances in twelfths of a pixel, clipped: int8 (N, grid, grid)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    distances: NDArray[np.int8]


class Captions:
    """Tokenised captions of all training classes, digits, shapes and colours, in the numbering of the tokens used."""

    def __init__(self) -> None:
        tokenize = open_clip.SimpleTokenizer(context_length=CONFIG.context)
        anything = tuple(template.replace("a {}", "{}").replace("one {}", "{}") for template in TEMPLATES)
        groups = (
            ([CLASS_NAMES[label] for label in SEEN], TEMPLATES),
            (DIGIT_NAMES, DIGIT_TEMPLATES),
            (SHAPE_NAMES, TEMPLATES),
            ([f"something {colour}" for colour in COLOUR_NAMES], anything),
        )
        tables = [
            torch.stack([tokenize([template.format(name) for template in templates]) for name in names])
            for names, templates in groups
        ]
        self.words: Tensor = torch.unique(torch.cat([table.flatten() for table in tables]))
        length = max(int((table != 0).sum(-1).max()) for table in tables)
        self.tables = [torch.searchsorted(self.words, table[..., :length].contiguous()) for table in tables]
        self.sizes = [len(table) for table in tables]
        self.position = torch.full((len(CLASS_NAMES),), -1)
        self.position[list(SEEN)] = torch.arange(len(SEEN))

    def draw(self, rng: np.random.Generator) -> Tensor:
        """One caption each, with a template drawn at random: int64 (84 + 10 + 12 + 8, length)."""
        picks = [table[range(len(table)), rng.integers(table.shape[1], size=len(table))] for table in self.tables]
        return torch.cat(picks)

    def targets(self, labels: Tensor, digits: Tensor) -> Tensor:
        """Where among the class and digit captions each image's own one stands."""
        return torch.cat([self.position[labels], len(SEEN) + digits])


def load(stage: Stage, cache: Path | None) -> Scenes:
    """The scenes of a stage, rendered or read from `cache`."""
    train = SPLITS["train"]
    scenes = _drawn(replace(train, style=easier(train.style, stage.difficulty), size=stage.images), cache)
    if not stage.small:
        return scenes
    small = _drawn(replace(SPLITS["train_small"], size=stage.small), cache)
    return Scenes(
        np.concatenate([scenes.images, small.images]),
        np.concatenate([scenes.labels, small.labels]),
        np.concatenate([scenes.distances, small.distances]),
    )


def _drawn(split: Split, cache: Path | None) -> Scenes:
    name = hashlib.sha256(repr(split).encode()).hexdigest()[:16]
    file = None if cache is None else cache / f"{name}.npz"
    if file is not None and file.exists():
        with np.load(file) as saved:
            return Scenes(saved["images"], saved["labels"], saved["distances"])
    points = np.floor((np.arange(CONFIG.side // CONFIG.patch * CELLS) + 0.5) * CONFIG.patch / CELLS).astype(np.int64)
    labels = split_labels(split, split.size)
    images = np.empty((split.size, CONFIG.side, CONFIG.side, 3), np.uint8)
    distances = np.empty((split.size, len(points), len(points)), np.int8)
    for index, label in enumerate(labels.tolist()):
        drawing = draw(split, index, label)
        if drawing.distance is None:
            raise DataError(f"training scene {index} shows no shape")
        images[index] = drawing.image
        distances[index] = np.clip(np.rint(12 * drawing.distance[np.ix_(points, points)]), -127, 127)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, images=images, labels=labels, distances=distances)
    return Scenes(images, labels, distances)


def _normalised(images: NDArray[np.float32]) -> Tensor:
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - MEAN) / STD


def _mirrored(scenes: Scenes, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pixels and distances of some rows, half of them mirrored left to right."""
    flip = rng.random(len(rows)) < 0.5
    images, distances = scenes.images[rows], scenes.distances[rows]
    images[flip], distances[flip] = images[flip, :, ::-1], distances[flip, :, ::-1]
    grid = CONFIG.side // CONFIG.patch
    blocks = torch.from_numpy(distances).float().reshape(-1, grid, CELLS, grid, CELLS).transpose(2, 3)
    return _normalised(images.astype(np.float32)), blocks.reshape(len(rows), grid * grid, CELLS * CELLS) / 127


def _moved(images: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Digits shifted by up to 6 pixels, with noise, normalised."""
    shifted = np.stack([np.roll(image, rng.integers(-6, 7, 2), (0, 1)) for image in images]).astype(np.float32)
    return _normalised(shifted + rng.uniform(0, 25) * rng.standard_normal(shifted.shape, dtype=np.float32))


def batches(
    stage: Stage, scenes: int, digits: int, rng: np.random.Generator, cache: Path | None = None
) -> Iterator[Batch]:
    """Endless batches of `scenes` scenes of a stage and `digits` digits, drawn with replacement."""
    data = load(stage, cache)
    digit_images, digit_labels, _ = render("digits_train")
    while True:
        rows, picks = rng.integers(len(data.labels), size=scenes), rng.integers(len(digit_labels), size=digits)
        pixels, distances = _mirrored(data, rows, rng)
        pixels = torch.cat([pixels, _moved(digit_images[picks], rng).float()])
        yield Batch(pixels, torch.from_numpy(data.labels[rows]), torch.from_numpy(digit_labels[picks]), distances)
