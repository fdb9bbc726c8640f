"""How often 95 % intervals of changes hold the truth, and how often a true null is rejected, metric by metric."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from benchmark import Outcome, compare
from benchmark.metrics.uncertainty import Estimate
from tests.statistics.worlds import CASES, FULL, NULL, WORLDS, WORSE, Model, World, task_of

MANY = 150_000
"""Pictures on which the truth is taken."""
ALPHA = 0.05


@dataclass
class Seen:
    """Experiments with one metric: whether the interval held the truth, and whether p was below 5 %."""

    held: list[bool] = field(default_factory=list)
    rejected: list[bool] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    none: int = 0

    @property
    def coverage(self) -> float:
        """Share of intervals that held the truth."""
        return float(np.mean(self.held)) if self.held else float("nan")

    @property
    def null_rate(self) -> float:
        """Share of p values below 5 %."""
        return float(np.mean(self.rejected)) if self.rejected else float("nan")


def outcome(world: World, seed: int, n: int, model: Model) -> Outcome:
    """What a model shows on the pictures of a seed."""
    task = task_of(world)
    banks = world.banks(np.random.default_rng(seed), n, model)
    return task.run(replace(banks, options=task.parse_options(world.options, "world")))


@cache
def truth(name: str) -> Mapping[str, float]:
    """The change of every metric from full precision to the worse model, on very many pictures."""
    world = {**WORLDS, **CASES}[name]
    task = task_of(world)
    now, before = (outcome(world, 12345, MANY, model) for model in (WORSE, FULL))
    found = {key: now.metrics[key] - before.metrics[key] for key in now.metrics if key in before.metrics}
    compared = task.run_comparison(now.columns, before.columns, task.parse_options(world.options, "world"))
    neutral = {key: task.metric(key).neutral or 0.0 for key in compared.metrics}
    found |= {key: value - neutral[key] for key, value in compared.metrics.items()}
    if "ece_15_debiased" in found:  # of so many pictures the plug-in has no bias left
        found |= {f"ece_15_debiased{tuned}": found[f"ece_15{tuned}"] for tuned in ("", "_tuned")}
    return found


def repeated(name: str, n: int) -> Mapping[str, float]:
    """The mean change over many experiments of n pictures, where more pictures would be another question."""
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(100_000, 100_000 + 1500):
        now, before = (outcome(CASES[name], seed, n, model).metrics for model in (WORSE, FULL))
        for key in now:
            found[key].append(now[key] - before[key])
    return {key: float(np.mean(values)) for key, values in found.items()}


def simulate(name: str, n: int, seeds: Iterable[int]) -> dict[str, Seen]:
    """Each metric's record over experiments with n pictures: the worse model for coverage, the null for rejection."""
    world = {**WORLDS, **CASES}[name]
    task, right = task_of(world), truth(name) if name != "one_a_class" else repeated(name, n)
    options = task.parse_options(world.options, "world")
    seen: dict[str, Seen] = defaultdict(Seen)
    for seed in seeds:
        before = outcome(world, seed, n, FULL)
        for model in (WORSE, NULL):
            found = compare(task, outcome(world, seed, n, model), before, options)
            for key, estimate in found.items():
                if not isinstance(estimate, Estimate):
                    seen[key].none += 1
                    continue
                if model is NULL:
                    seen[key].rejected.append(estimate.p < ALPHA)
                    continue
                low, high = estimate.interval()
                seen[key].held.append(low <= right[key] <= high)
                seen[key].errors.append(estimate.error)
                seen[key].changes.append(estimate.value)
    return seen
