"""Coverage of both intervals of a mean, simulated: over models, and over pictures that all runs share."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.metrics.uncertainty import GROUPS, groups_of
from benchmark.results.aggregate import Mean, Numbers, by_model, combine

pytestmark = pytest.mark.slow
WORLDS = 400
TAILS = 4


def numbers(value: NDArray[np.float64], replicates: NDArray[np.float64]) -> Numbers:
    """(R,) and (R, GROUPS) without added flips."""
    runs = len(value)
    return Numbers(
        value,
        replicates,
        np.zeros(runs),
        np.zeros(runs),
        np.zeros(runs, dtype=np.int64),
        np.ones((runs, GROUPS), dtype=bool),
        np.full(runs, 1000),
    )


def mean_over(models: int, runs: int, stack: Numbers) -> Mean:
    _, weights = by_model(np.repeat([str(m) for m in range(models)], runs).tolist())
    found = combine(stack, weights)
    assert found is not None
    return found


@pytest.mark.parametrize("differ", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("models", [3, 5, 10])
def test_models_of_their_kind(models: int, differ: float) -> None:
    """The truth is 0 over models that differ by `differ` times the error of a model; ten runs each, heavy tails."""
    held = 0
    for seed in range(WORLDS):
        rng = np.random.default_rng(seed)

        def tails(*shape: int, rng: np.random.Generator = rng) -> NDArray[np.float64]:
            return np.asarray(rng.standard_t(TAILS, (*shape, GROUPS)) * np.sqrt(GROUPS * (TAILS - 2) / TAILS))

        error = tails(1, 1) + tails(models, 1) + 3.0 * tails(models, 10)
        seen = (differ * rng.standard_normal(models))[:, None, None] + error
        value = seen.mean(axis=-1)
        replicates = (GROUPS * value[..., None] - seen) / (GROUPS - 1)
        mean = mean_over(models, 10, numbers(value.ravel(), replicates.reshape(-1, GROUPS)))
        assert mean.kind is not None
        low, high = mean.kind.interval()
        held += low <= 0.0 <= high
    assert held >= 0.93 * WORLDS


def quantized(rng: np.random.Generator, images: int, runs: int) -> NDArray[np.float64]:
    """(runs, images) change of the answers, -1, 0 or 1; a picture that is near the border flips in many runs."""
    margin = rng.standard_normal(images)
    difficulty = 0.15 * rng.standard_normal(images)
    before = margin > -1.2
    now = margin + difficulty + 0.1 * rng.standard_normal((runs, images)) > -1.2
    return np.asarray(now.astype(np.float64) - before)


@pytest.mark.parametrize(("salted", "covers"), [(False, True), (True, False)])
def test_pictures_that_all_runs_share(salted: bool, covers: bool) -> None:
    """The mean over 20 quantizations on 2,400 pictures. With groups of its own for each run, errors seem to cancel."""
    images, runs, held = 2400, 20, 0
    ids = np.array([f"picture {at}" for at in range(images)])
    groups = [groups_of(np.char.add(ids, str(run) if salted else "")) for run in range(runs)]
    member = np.stack([np.eye(GROUPS)[own] for own in groups])
    counts = member.sum(axis=1)
    truth = quantized(np.random.default_rng(12345), 2_000_000, 1).mean()
    for seed in range(WORLDS):
        change = quantized(np.random.default_rng(seed), images, runs)
        total = change.sum(axis=1, keepdims=True)
        replicates = (total - np.einsum("rn,rng->rg", change, member)) / (images - counts)
        mean = mean_over(1, runs, numbers(change.mean(axis=1), replicates))
        assert mean.these is not None
        low, high = mean.these.interval()
        held += low <= truth <= high
    assert (held >= 0.93 * WORLDS) == covers
