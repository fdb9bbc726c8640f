"""What somebody needs to make features elsewhere: the exact pixels, prompts and tokens of a suite, with their ids."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.pixels import PixelCache, Pixels
from benchmark.engine.artifacts import feature_id, needed_texts
from benchmark.engine.plan import Plan
from benchmark.errors import InputError, StorageError, why
from benchmark.models.texts import whole_tokens
from benchmark.utils.progress import Progress

FORMAT = 1
ABOUT, IMAGES, IMAGE_IDS = "inputs.json", "image.npy", "image_id.npy"
TEXTS, TOKENS = "text_id.npy", "tokens.npy"
BATCH = 256


@dataclass(frozen=True)
class Written:
    """What was written: the numbers of images and texts, and the bytes of the pixels."""

    images: int
    texts: int
    bytes: int


def write_inputs(plan: Plan, folder: Path, cache: PixelCache, progress: Progress) -> Written:
    """Write every image and text that the evaluations of a plan with one model embed.

    `image.npy` (N, 3, H, W) uint8 and `image_id.npy` (N,); `text_id.npy` (T,), the texts, and `tokens.npy` (T, L)
    int64; `inputs.json`, written last, says how pixels are normalised: (x / 255 - mean) / std.

    Raises:
        InputError: the plan has several models, or the folder holds something else. StorageError: no room for it.
    """
    names = list(dict.fromkeys(model.ref for model in (c.model for c in plan.configurations)))
    if len(names) != 1:
        raise InputError(
            f"suite '{plan.suite.name}' has {len(names)} models ({', '.join(names)}). Name one by --model."
        )
    _prepare(folder)
    model, evaluations = plan.configurations[0].model, plan.configurations[0].evaluations
    used = dict.fromkeys(name for e in evaluations for bound in e.roles.values() for name in bound)
    opened = {name: cache.open(plan.data[name], model.preprocess, progress, plan.settings.workers) for name in used}
    texts = list(dict.fromkeys(text for name in used for text in needed_texts(plan.data[name])))
    texts = list(dict.fromkeys([*texts, *(t for e in evaluations for asked in e.texts.values() for t in asked)]))
    size = sum(map(len, opened.values())) * 3 * int(np.prod(model.preprocess.size))
    try:
        _check_room(folder, size)
        with progress.phase(f"write {folder}", sum(map(len, opened.values()))) as advance:
            for rows in _write_images(folder, opened, model.preprocess.size):
                advance(rows)
        tokens = whole_tokens(model.load("cpu").tokenizer, texts).numpy() if texts else np.zeros((0, 0), np.int64)
        np.save(folder / TEXTS, np.array(texts, dtype=str))
        np.save(folder / TOKENS, tokens)
        about = _about(plan, {name: len(pixels) for name, pixels in opened.items()}, tokens.shape)
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"--to {folder}: cannot be written ({why(error)})") from error
    return Written(sum(map(len, opened.values())), len(texts), size)


def _prepare(folder: Path) -> None:
    """An empty folder, or one that this command wrote before; what says that it is whole goes first."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--to {folder}: it is a file. Name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ABOUT).is_file():
        raise InputError(f"--to {folder}: it holds other files. Name a new folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ABOUT).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"--to {folder}: cannot be written ({why(error)})") from error


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StorageError(
            f"--to {folder}: the pixels take {size / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free. "
            "Name another folder, or fewer images with --limit or --task."
        )


def _write_images(folder: Path, opened: dict[str, Pixels], size: tuple[int, int]) -> Iterator[int]:
    """Write ids and pixels, batch by batch; yields how many."""
    ids = [feature_id(name, sample) for name, pixels in opened.items() for sample in pixels.ids]
    np.save(folder / IMAGE_IDS, np.array(ids, dtype=str))
    place = np.lib.format.open_memmap(folder / IMAGES, mode="w+", dtype=np.uint8, shape=(len(ids), 3, *size))
    row = 0
    for pixels in opened.values():
        for batch in pixels.batches(BATCH):
            place[row : row + len(batch)] = batch
            row += len(batch)
            yield len(batch)
    place.flush()


def _about(plan: Plan, images: dict[str, int], tokens: Sequence[int]) -> dict[str, Any]:
    model = plan.configurations[0].model
    preprocess = model.preprocess
    return {
        "format": FORMAT,
        "suite": plan.suite.name,
        "limit": plan.suite.limit,
        "model": {"ref": model.ref, "digest": model.digest},
        "pixels": {
            "file": IMAGES,
            "layout": "NCHW",
            "channels": "RGB",
            "dtype": "uint8",
            "size": list(preprocess.size),
        },
        "normalise": {"formula": "(x / 255 - mean) / std", "mean": list(preprocess.mean), "std": list(preprocess.std)},
        "tokens": {"file": TOKENS, "shape": list(tokens)},
        "images": images,
        "features": "image_id, image (N, width) float32; text_id, text (T, width) float32; in one .npz",
    }
