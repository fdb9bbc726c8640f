r"""Means over groups of quantizations and models, and differences of such means, each with two intervals.

Quantizations are averaged within a model first: a model's quantizations see the same pictures and share its full
precision, so they are no independent runs. Of a mean over M models

- *of these models*: how it varies over pictures. Its replicates are the means of the runs' replicates
  (`benchmark.metrics.uncertainty`); the pair of added flips of each record enters with the square of its weight.
- *of models of this kind*, from three models on: how it would vary over other models too,

  .. math:: V = V_{images} + \max(V_{models} - V_{own}, 0)

  with :math:`V_{models}` the variance of the models' means over M, and :math:`V_{own}` what pictures alone add to that:
  the mean over models of the replicate variance of (model - mean), over M - 1. Degrees of freedom by Satterthwaite
  (1946), Biometrics Bulletin 2: :math:`V^2 / \sum V_i^2 / df_i` over the three parts.

A difference of two groups of models has the pictures' variance of the difference and both groups' excess.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from benchmark.metrics.arrays import Bools, Floats, Ints
from benchmark.metrics.uncertainty import GROUPS, Estimate, from_replicates
from benchmark.results.effects import Effect

FEWEST_MODELS = 3
"""Models that a statement about models of their kind takes."""
POWER = 0.8416
"""Normal quantile of 80 %: with how many models or images an interval would clear a bound four times in five."""
MOST_MODELS, MOST_IMAGES = 10_000, 10**9


@dataclass(frozen=True)
class Numbers:
    """A number of each of R runs with its error.

    Attributes:
        value: (R,). replicates: (R, GROUPS). own: (R,) variance that the pair of added flips of the run's own record
            adds. shared: (R,) root of that of its full-precision record, with the number's slope in it, and full: (R,)
            which record that is.
        occupied: (R, GROUPS) which groups hold samples. images: (R,).
    """

    value: Floats
    replicates: Floats
    own: Floats
    shared: Floats
    full: Ints
    occupied: Bools
    images: Ints

    def take(self, rows: Sequence[int]) -> Numbers:
        """Those of some runs."""
        at = np.asarray(rows, dtype=np.int64)
        return Numbers(*(getattr(self, each.name)[at] for each in fields(self)))


@dataclass(frozen=True)
class Mean:
    """A mean over models, or a difference of two.

    Attributes:
        these: of these models. kind: of models of their kind; None where a group has fewer than three. None too where
            nothing varies.
        models: of each group. images: behind the run with the fewest.
        of_images, of_models: variance that pictures bring, and models beyond it (0 with fewer than three).
    """

    value: float
    these: Estimate | None
    kind: Estimate | None
    models: tuple[int, ...]
    images: int
    of_images: float
    of_models: float

    @property
    def widest(self) -> Estimate | None:
        """The estimate that the most can be said with: of models of this kind where there are enough of them."""
        return self.these if min(self.models) < FEWEST_MODELS else self.kind


def changes(effects: Sequence[Effect]) -> Numbers:
    """The change of each effect's metric."""
    now, before = _stacked(effects)
    slopes = np.ones(len(effects))
    return _numbers(effects, now[0] - before[0], now[1] - before[1], slopes, -slopes)


def relative_changes(effects: Sequence[Effect]) -> Numbers:
    """The change over the absolute value in full precision; NaN where that is zero."""
    now, before = _stacked(effects)
    base = np.where(before[0] == 0.0, np.nan, before[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = (now[1] - before[1]) / np.abs(before[1])
    return _numbers(
        effects, (now[0] - base) / np.abs(base), replicates, 1.0 / np.abs(base), -now[0] / (base * abs(base))
    )


def _stacked(effects: Sequence[Effect]) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Values (R,) and replicates (R, GROUPS), quantized and in full precision."""
    found = []
    for side in ([effect.now for effect in effects], [effect.before for effect in effects]):
        values = np.array([each.value for each in side], dtype=np.float64)
        found.append((values, np.array([each.replicates for each in side], np.float64).reshape(-1, GROUPS)))
    return found[0], found[1]


def _numbers(
    effects: Sequence[Effect], value: Floats, replicates: Floats, slope_now: Floats, slope_before: Floats
) -> Numbers:
    ids = {name: at for at, name in enumerate(dict.fromkeys(effect.full for effect in effects))}
    slack = np.array([(effect.now.slack, effect.before.slack) for effect in effects]).reshape(-1, 2)
    occupied = np.array([effect.occupied for effect in effects], dtype=bool).reshape(-1, GROUPS)
    return Numbers(
        value,
        replicates,
        slope_now**2 * slack[:, 0],
        slope_before * np.sqrt(slack[:, 1]),
        np.array([ids[effect.full] for effect in effects], dtype=np.int64),
        occupied,
        np.array([effect.images for effect in effects], dtype=np.int64),
    )


def nested(*levels: Sequence[Hashable]) -> Floats:
    """(R,) weights of a mean of means of means: children of one parent count alike; they add up to 1.

    Args: levels: (R,) labels, the outermost first; rows count alike within the innermost.

    >>> nested(["a", "a", "a", "b"], ["x", "x", "y", "x"]).tolist()
    [0.125, 0.125, 0.25, 0.5]
    """
    parent = np.zeros(len(levels[0]), dtype=np.int64)
    weights = np.ones(len(parent))
    for level in levels:
        ids: dict[tuple[int, Hashable], int] = {}
        child = np.array(
            [ids.setdefault(pair, len(ids)) for pair in zip(parent.tolist(), level, strict=True)], dtype=np.int64
        )
        children = np.bincount([up for up, _ in ids], minlength=int(parent.max(initial=0)) + 1)
        weights /= children[parent]
        parent = child
    return np.asarray(weights / np.bincount(parent)[parent] if len(parent) else weights)


def by_model(models: Sequence[str], *levels: Sequence[Hashable]) -> tuple[list[str], Floats]:
    """The models, and (M, R) weights of each one's mean over its rows; `levels` as in `nested`."""
    names = list(dict.fromkeys(models))
    weights = nested(models, *levels) * len(names)
    return names, np.where(np.array(models)[None] == np.array(names)[:, None], weights[None], 0.0)


def combine(numbers: Numbers, *sides: Floats) -> Mean | None:
    """The mean over models of one group, or that of the first group minus that of the second.

    Args: sides: (M, R) weights of the numbers in each model's mean, one group or two. None where a group is empty.
    """
    if not all(len(side) for side in sides):
        return None
    used = np.any([side.any(axis=0) for side in sides], axis=0)
    values, replicates = numbers.value[used], numbers.replicates[used]
    groups = [(sign, side[:, used]) for sign, side in zip((1.0, -1.0), sides, strict=False)]
    total = np.sum([sign * side.mean(axis=0) for sign, side in groups], axis=0)
    value, images, models = float(total @ values), int(numbers.images[used].min()), tuple(len(s) for _, s in groups)
    if not (np.isfinite(values).all() and np.isfinite(replicates).all()):
        return Mean(value, None, None, models, images, math.nan, math.nan)
    full = np.bincount(numbers.full[used], weights=total * numbers.shared[used])
    slack = float(total**2 @ numbers.own[used] + full @ full)
    merged = total @ replicates
    occupied = int(numbers.occupied[used].any(axis=0).sum())
    these = from_replicates(value, merged, occupied, slack)
    of_images = float(_variance(merged)) + slack
    excess = [_models(side @ values, side @ replicates) for _, side in groups if len(side) >= FEWEST_MODELS]
    kind, of_models = None, 0.0
    if len(excess) == len(groups):
        of_models = sum(max(between - own, 0.0) for between, own in excess)
        kind = _kind(value, these, of_images, excess, models, occupied)
    return Mean(value, these, kind, models, images, of_images, of_models)


def _variance(replicates: Floats) -> Floats:
    """Of numbers whose replicates are (..., GROUPS)."""
    squares = (replicates - replicates.mean(axis=-1, keepdims=True)) ** 2
    return np.asarray((GROUPS - 1) / GROUPS * squares.sum(axis=-1))


def _models(values: Floats, replicates: Floats) -> tuple[float, float]:
    """Variance of the mean of M models over models, and the part of it that pictures bring: V_models and V_own."""
    count = len(values)
    own = _variance(replicates - replicates.mean(axis=0)).mean() / (count - 1)
    return float(values.var(ddof=1) / count), float(own)


def _kind(
    value: float,
    these: Estimate | None,
    of_images: float,
    excess: Sequence[tuple[float, float]],
    models: Sequence[int],
    occupied: int,
) -> Estimate | None:
    """The estimate for models of this kind."""
    total = of_images + sum(max(between - own, 0.0) for between, own in excess)
    if not (math.isfinite(total) and total > 1e-24 * max(1.0, value * value)):
        return None
    free = these.df if these is not None else max(occupied - 1, 1)
    parts = [of_images**2 / free]
    for (between, own), count in zip(excess, models, strict=True):
        if between > own:
            parts += [between**2 / (count - 1), own**2 / free]
    return Estimate(value, math.sqrt(total), max(total**2 / sum(parts), 1.0), value)


def needed(mean: Mean, distance: float) -> str:
    """How many models or images would clear a bound at this distance, with a power of 80 %; "" if none would.

    The pictures' part of the variance falls with their number, the models' part with theirs.
    """
    if not distance > 0:
        return ""
    enough_models = min(mean.models) >= FEWEST_MODELS
    target = (distance / (1.96 + POWER)) ** 2
    if mean.of_models < min(mean.of_images, target) or not enough_models:
        more = mean.of_images / (target - mean.of_models)
        if more > 1.0:
            return images_needed(mean.images * more)
    models = _models_for(mean, distance, mean.of_images) if enough_models else None
    each = " in each group" if len(mean.models) > 1 else ""
    if models is not None:
        return f"about {models} models{each}"
    more = max(2.0 * mean.of_images / target, 1.0)
    models = _models_for(mean, distance, mean.of_images / more) if enough_models else None
    images = images_needed(mean.images * more)
    return f"about {models} models{each} and {images}" if models is not None and images else ""


def images_needed(count: float) -> str:
    """A number of images with two digits, rounded up; "" for more than there are."""
    if not count <= MOST_IMAGES:
        return ""
    step = 10 ** max(len(str(int(count))) - 2, 0)
    return f"about {math.ceil(count / step) * step:,} images"


def _models_for(mean: Mean, distance: float, of_images: float) -> int | None:
    """The fewest models whose interval would clear a bound; more than there are, as these do not."""
    from scipy.special import stdtrit  # late: most commands need none

    fewest = min(mean.models)

    def enough(count: int) -> bool:
        error = math.sqrt(of_images + mean.of_models * fewest / count)
        return bool((float(stdtrit(count - 1.0, 0.975)) + POWER) * error <= distance)

    counts = range(fewest + 1, MOST_MODELS)
    at = bisect.bisect_left(counts, True, key=enough)
    return counts[at] if at < len(counts) else None
