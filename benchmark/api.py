"""Single steps for Python users: a model, its features, its calibration data; no suite, no results folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.bank import FeatureBank
from benchmark.data import Data, PixelCache, Pixels, open_data
from benchmark.engine import prompt_check
from benchmark.engine.embed import embed_classes, embed_images
from benchmark.errors import DataError
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.quantization import Calibration
from benchmark.spec import DataSpec, ModelSpec, parse_spec


def load_model(ref: str, device: str = "cpu") -> ClipModel:
    """A model by its reference (`demo`, `NAME/PRETRAINED`, `local-dir:PATH`, ...), in eval mode.

    Raises:
        ReliquantError: unknown, not on this machine and not to be had, or damaged: one line that says which.
    """
    return resolve(parse_spec(ModelSpec, ref, "model")).load(device)


def embed(model: ClipModel, data: DataSpec, name: str = "data", batch_size: int = 64) -> FeatureBank:
    """What a model, quantized or not, makes of one data set; decodes and embeds every time, keeps nothing on disk.

    Args:
        model: from `load_model` or `quantize`.
        data: one data set; `limit` takes a part of it, `corruption` and `severity` corrupt it.
        name: for messages, and the `dataset` of the bank.

    Returns:
        `image` (N, D) and `text` (C, D) float32, L2-normalised; `text` is (0, D) for data without classes.

    Raises:
        DataError: the data cannot be read, ask for `text: captions`, which needs a suite, or have two classes with one
            prompt for this model.
        NonFiniteError: names the first layer whose output is not finite.
    """
    if data.text == "captions":
        raise DataError(f"data set '{name}': text: captions needs a suite and `run`")
    pixels = _pixels(model, data, name)
    found: Data = pixels.data
    image = embed_images(model, pixels.batches(batch_size), lambda count: None)["image"]
    named = bool(found.class_names) and data.text != "none"
    if named:
        prompt_check.check(found, prompt_check.examine(model, found.class_names, found.templates))
    return FeatureBank(
        dataset=name,
        image=image,
        label=pixels.labels,
        sample_id=pixels.ids,
        text=embed_classes(model, found.class_names, found.templates)
        if named
        else np.zeros((0, image.shape[1]), np.float32),
        class_names=found.class_names if named else (),
        logit_scale=model.logit_scale,
        logit_bias=model.logit_bias,
        group=pixels.groups,
        corruption=data.corruption,
        severity=data.severity,
    )


def load_calibration(model: ClipModel, data: DataSpec, name: str = "calibration") -> Calibration:
    """Image-caption pairs at the model's input size, for methods that need them: `quantize(model, spec, pairs)`.

    Images without captions do for the image tower.

    Raises:
        DataError: the data cannot be read.
    """
    pixels = _pixels(model, data, name)
    return Calibration(pixels.array, pixels.data.first_captions(pixels.rows), pixels.digest)


def _pixels(model: ClipModel, data: DataSpec, name: str) -> Pixels:
    return PixelCache(Path(), budget_bytes=0).open(open_data(data, name), model.preprocess)
