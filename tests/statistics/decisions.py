"""Simulated error rates of the rule for deciding: `python -m tests.statistics.decisions`.

Six headline metrics, three shares of right answers (Bonett & Price) and three means of scores (replicates), on images
that all candidates share; changes of an image are correlated between candidates and between metrics. Decisions come
from `benchmark.results.decide` as table, report and gate get them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from benchmark.metrics.uncertainty import GROUPS, Estimate, from_replicates, paired_proportions
from benchmark.plugins import MARGIN
from benchmark.results.compare import Change
from benchmark.results.decide import NON_INFERIOR, Candidate, Decision, choose, decide

SHARES = tuple(f"zero_shot/{name}/accuracy" for name in "abc")
SCORES = tuple(f"ood/{name}/mcm/auroc" for name in "abc")
HEADLINE = (*SHARES, *SCORES)
CANDIDATES, FLIPS, SPREAD, SHARED = 20, 0.03, 0.25, 0.5
"""Candidates of a sweep; share of images that change an answer besides the loss; standard deviation of a score's
change; correlation of what happens to an image under two candidates, or in two metrics.
"""
Floats = NDArray[np.float64]


def estimate(key: str, loss: float, noise: Floats, groups: NDArray[np.int64]) -> Estimate:
    """The change of one metric with its error. Args: loss: the true one. noise: (N,) standard normal."""
    if key in SHARES:
        lost = noise > -ndtri(FLIPS / 2 + max(loss, 0.0))
        gained = noise < ndtri(FLIPS / 2 + max(-loss, 0.0))
        return paired_proportions(~gained, ~lost)
    change = SPREAD * noise - loss
    count = np.bincount(groups, minlength=GROUPS)
    sums = np.bincount(groups, weights=change, minlength=GROUPS)
    found = from_replicates(float(change.mean()), (change.sum() - sums) / (len(change) - count), int((count > 0).sum()))
    if found is None:
        raise ValueError("scores that do not vary")
    return found


def decision(losses: Sequence[float], images: int, shared: Floats, rng: np.random.Generator) -> Decision:
    """Of one candidate. Args: losses: true ones, one a headline metric. shared: (N,) what befalls an image anyway."""
    changes = {}
    groups = np.random.default_rng(0).integers(GROUPS, size=images)
    for key, loss in zip(HEADLINE, losses, strict=True):
        noise = np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * rng.standard_normal(images)
        found = estimate(key, loss, noise, groups)
        changes[key] = Change("m", "q", "q", key, "higher", 0.0, 0.0, found.value, found, images=images)
    return decide(HEADLINE, changes, {})


def false_recommendations(sweeps: int, images: int, others: float, seed: int = 0) -> tuple[float, float]:
    """Share of sweeps of just inferior candidates in which one is recommended, and in which one passes on its own.

    Each candidate loses exactly the margin in one metric, drawn at random. Args: others: true loss in the other five.
    """
    rng = np.random.default_rng(seed)
    recommended = alone = 0
    for _ in range(sweeps):
        shared = rng.standard_normal(images)
        candidates = []
        for cost in range(CANDIDATES):
            losses = [others] * len(HEADLINE)
            losses[rng.integers(len(HEADLINE))] = MARGIN
            candidates.append(Candidate(f"c{cost}", cost, decision(losses, images, shared, rng)))
        recommended += choose(candidates).recommended is not None
        alone += any(each.decision.verdict == NON_INFERIOR for each in candidates)
    return recommended / sweeps, alone / sweeps


def power(repeats: int, images: int, seed: int = 0) -> tuple[float, int]:
    """Share of candidates that lose nothing and are shown so with the images that a first look asked for.

    Args:
        images: of the first look.

    Returns:
        The share, and the median number of images that were asked for.
    """
    rng = np.random.default_rng(seed)
    nothing = [0.0] * len(HEADLINE)
    shown, asked = [], []
    while len(asked) < repeats:
        first = decision(nothing, images, rng.standard_normal(images), rng)
        needed = first.images
        if first.verdict == NON_INFERIOR or needed is None:
            continue  # nobody asks for more
        again = decision(nothing, needed, rng.standard_normal(needed), rng)
        shown.append(again.verdict == NON_INFERIOR)
        asked.append(needed)
    return float(np.mean(shown)), int(np.median(asked))


def main() -> None:
    """Print the table of the documentation."""
    print(f"{CANDIDATES} candidates that lose exactly the margin in one of six metrics, 1,000 sweeps:")
    print("| images | the other five | one is recommended | one passes on its own |\n|---:|---|---:|---:|")
    for images in (300, 2400):
        for others, words in ((0.0, "lose nothing"), (-MARGIN, "gain as much")):
            wrong, alone = false_recommendations(1000, images, others)
            print(f"| {images:,} | {words} | {wrong:.1%} | {alone:.1%} |")
    print("\nCandidates that lose nothing, 1,000 of which a first look could not tell:")
    print("| images of the first look | it asks for (median) | shown to be non-inferior then |\n|---:|---:|---:|")
    for images in (100, 300):
        share, asked = power(1000, images)
        print(f"| {images:,} | {asked:,} | {share:.0%} |")


if __name__ == "__main__":
    main()
