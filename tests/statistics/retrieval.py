"""Intervals of retrieval's changes on worlds of a known kind: `python -m tests.statistics.retrieval`.

The truth is the mean change over the experiments themselves: more images would be another index, and another question.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, FeatureBank, compare, tasks
from benchmark.metrics.uncertainty import Estimate

DIMENSION = 16
FULL, NULL, WORSE = (1, 0.05), (2, 0.05), (2, 0.25)
"""Seed and width of what a model adds to each feature."""
Floats = NDArray[np.float64]


def banks(seed: int, images: int, captions: int, model: tuple[int, float]) -> Banks:
    """Pairs of pictures and noisy captions, seen by a model and by full precision."""
    rng = np.random.default_rng([seed, 0])
    meaning = rng.standard_normal((images, DIMENSION))
    image = meaning + 0.45 * rng.standard_normal(meaning.shape)
    text = np.repeat(meaning, captions, axis=0)
    text = text + 0.75 * rng.standard_normal(text.shape)

    def seen(by: tuple[int, float]) -> FeatureBank:
        own = np.random.default_rng([seed, by[0]])
        moved = (unit(x + by[1] * own.standard_normal(x.shape)) for x in (image, text))
        features = dict(zip(("image", "caption"), moved, strict=True))
        ids = np.array([f"{seed}/{place}" for place in range(images)])
        return FeatureBank(
            dataset="pairs", label=np.zeros(images, np.int64), sample_id=ids, text=np.zeros((0, DIMENSION), np.float32),
            class_names=(), logit_scale=1.0, caption_image=np.repeat(np.arange(images), captions), **features,
        )  # fmt: skip

    return Banks({"test": [seen(model)]}, full_precision={"test": [seen(FULL)]})


def unit(x: Floats) -> NDArray[np.float32]:
    """Rows of length 1."""
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def simulate(images: int, captions: int, experiments: int) -> dict[str, tuple[float, float, float]]:
    """Metric -> mean change, coverage of the worse model's 95 % intervals, and share of rejected nulls.

    An overlap with full precision falls for any other model: it has no null.
    """
    task, found = tasks.get("retrieval"), defaultdict[tuple[str, bool], list[Estimate]](list)
    for seed in range(experiments):
        own = banks(seed, images, captions, FULL)
        full = task.run(replace(own, by_role=dict(own.full_precision)))
        for model in (WORSE, NULL):
            quantized = task.run(banks(seed, images, captions, model))
            for key, estimate in compare(task, quantized, full, own.options).items():
                if isinstance(estimate, Estimate):
                    found[key, model is WORSE].append(estimate)
    rows = {}
    for key in [key for key, worse in found if worse]:
        worse, null = found[key, True], found[key, False]
        truth = float(np.mean([each.value for each in worse]))
        held = [low <= truth <= high for low, high in (each.interval() for each in worse)]
        rejected = float("nan") if key.endswith("overlap_at_10") else float(np.mean([each.p < 0.05 for each in null]))
        rows[key] = truth, float(np.mean(held)), rejected
    return rows


def main() -> None:
    """Print a row for each metric."""
    parser = argparse.ArgumentParser(prog="python -m tests.statistics.retrieval")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--captions", type=int, default=3)
    parser.add_argument("--experiments", type=int, default=150)
    asked = parser.parse_args()
    for key, (truth, coverage, rejected) in simulate(asked.images, asked.captions, asked.experiments).items():
        print(f"| {key} | {truth:+.4f} | {coverage:.1%} | {rejected:.1%} |", flush=True)


if __name__ == "__main__":
    main()
