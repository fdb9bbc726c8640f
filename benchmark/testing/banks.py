"""Synthetic feature banks, for tests of tasks."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.bank import FeatureBank
from benchmark.plugins import Banks


def make_bank(
    seed: int = 0,
    samples: int = 200,
    classes: int = 8,
    dimension: int = 32,
    accuracy: float | None = None,
    captions: int = 0,
    **fields: Any,
) -> FeatureBank:
    """A synthetic bank: class weights at random, images near their class's weight.

    Args:
        accuracy: exact share of images that the zero-shot classifier gets right (rounded to whole images);
            None leaves it to the noise.
        captions: so many captions for each image, near its features.
        fields: replace FeatureBank's fields, e.g. `group`, `corruption`.
    """
    rng = np.random.default_rng(seed)
    text = _unit(rng.standard_normal((classes, dimension)))
    label = rng.integers(0, classes, samples)
    if accuracy is None:
        image = _unit(text[label] + 0.35 * rng.standard_normal((samples, dimension)))
    else:
        wrong = np.arange(samples) >= round(accuracy * samples)
        image = text[np.where(wrong, (label + 1) % classes, label)]
    near = np.repeat(image, captions, axis=0)
    near = _unit(near + 0.3 * rng.standard_normal(near.shape)).astype(np.float32)
    defaults: dict[str, Any] = {
        "dataset": "synthetic",
        "image": image.astype(np.float32),
        "label": label.astype(np.int64),
        "sample_id": np.array([f"synthetic/{i:05d}" for i in range(samples)]),
        "text": text.astype(np.float32),
        "class_names": tuple(f"class {i}" for i in range(classes)),
        "logit_scale": 20.0,
        "caption": near if captions else None,
        "caption_image": np.repeat(np.arange(samples), captions) if captions else None,
    }
    return FeatureBank(**{**defaults, **fields})


def _unit(values: Any) -> Any:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def shuffle(banks: Banks, seed: int) -> Banks:
    """The same banks with their rows in another order; banks of equal length share the order."""

    def shuffled(bank: FeatureBank) -> FeatureBank:
        return bank.take(np.random.default_rng(seed + len(bank)).permutation(len(bank)))

    return banks.each(shuffled)
