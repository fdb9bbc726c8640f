"""What hypotheses are about: means, contrasts and shares over runs, each with the interval that decides.

A *term* is a kind of effect with a factor; a quantity of several terms is their weighted sum, over the runs that have
all of them. Means are nested: quantizations within a data set, data sets within a model, models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmark.metrics.arrays import Floats
from benchmark.metrics.uncertainty import Estimate
from benchmark.results.aggregate import (
    FEWEST_MODELS,
    Mean,
    Numbers,
    by_model,
    changes,
    combine,
    images_needed,
    needed,
    relative_changes,
)
from benchmark.results.effects import Effect
from benchmark.results.groups import Run

Terms = Mapping[str, float]
Where = Callable[[Run], bool]
SURE = 0.999
"""Level at which the direction of one run's change counts as known: of a thousand one may be wrong."""
ONE_SIDED = 0.025
NOTHING_VARIES = "nothing varies over the images"


@dataclass(frozen=True)
class Frame:
    """Effects as columns: their kinds are their keys.

    Attributes:
        runs: the run of each effect. change, relative: their numbers, stacked.
        missing: kind and run of effects without a value or an interval.
    """

    effects: tuple[Effect, ...]
    runs: tuple[Run, ...]
    change: Numbers
    relative: Numbers
    missing: tuple[tuple[str, Run], ...] = ()

    def rows(self, kind: str, where: Where | None = None) -> list[int]:
        """Those of a kind, of runs that are wanted."""
        pairs = enumerate(zip(self.effects, self.runs, strict=True))
        return [at for at, (effect, run) in pairs if effect.key == kind and (where is None or where(run))]

    def name(self, row: int) -> tuple[str, str]:
        """Model and quantization."""
        return self.effects[row].model, self.effects[row].quantization


def frame_of(effects: Iterable[Effect], runs: Mapping[tuple[str, str], Run]) -> Frame:
    """The effects of the runs, as far as they have an interval."""
    known = [(each, runs[name]) for each in effects if (name := (each.model, each.quantization)) in runs]
    kept = [each for each, _ in known if not each.reason]
    own = tuple(run for each, run in known if not each.reason)
    missing = tuple((each.key, run) for each, run in known if each.reason)
    return Frame(tuple(kept), own, changes(kept), relative_changes(kept), missing)


@dataclass(frozen=True)
class Found:
    """A quantity with the 95 % interval that decides.

    Attributes:
        population: what the interval is about: models of this kind, or only these. models: of each group.
        left_out: evaluations that would belong to it, but have no value or no interval.
        needs: distance to a bound -> how many models or images would clear it.
    """

    value: float
    low: float
    high: float
    population: str
    models: tuple[int, ...]
    images: int
    needs: Callable[[float], str]
    left_out: int = 0


def found(mean: Mean | None, nothing: str, left_out: int = 0) -> Found | str:
    """A mean with its widest interval. Args: nothing: what is missing where there is no mean."""
    if mean is None:
        return nothing
    if mean.widest is None:
        return NOTHING_VARIES
    low, high = mean.widest.interval()
    fewest = min(mean.models)
    these = "this model" if fewest == 1 else f"these {fewest} models"
    population = these if fewest < FEWEST_MODELS else "models of this kind"
    return Found(
        mean.value, low, high, population, mean.models, mean.images, lambda distance: needed(mean, distance), left_out
    )


def _left_out(frame: Frame, terms: Iterable[str], *wheres: Where | None) -> int:
    """Evaluations of these terms without a value or an interval."""
    return sum(kind in terms and any(where is None or where(run) for where in wheres) for kind, run in frame.missing)


def average(
    frame: Frame, terms: Terms, nothing: str, where: Where | None = None, relative: bool = False
) -> Found | str:
    """Mean over models of the wanted runs."""
    numbers = frame.relative if relative else frame.change
    selected = _complete(frame, {kind: frame.rows(kind, where) for kind in terms})
    mean = combine(numbers, _weights(frame, numbers, selected, terms)[1])
    return found(mean, nothing, _left_out(frame, terms, where))


def contrast(
    frame: Frame,
    terms: Terms,
    nothing: str,
    sides: tuple[Where, Where],
    rest: Callable[[Run], Hashable],
    relative: bool = False,
) -> Found | str:
    """Mean over models of the first side's runs minus the second's, on the same models and data.

    Args: rest: what else two runs must have in common; only what both sides have is compared.
    """
    numbers = frame.relative if relative else frame.change
    pairs = [_complete(frame, {kind: frame.rows(kind, side) for kind in terms}) for side in sides]
    first, second = (
        {(kind, _stratum(frame, row, rest)) for kind, rows in selected.items() for row in rows} for selected in pairs
    )
    both = first & second
    kept = [
        {kind: [row for row in rows if (kind, _stratum(frame, row, rest)) in both] for kind, rows in selected.items()}
        for selected in pairs
    ]
    (models, now), (others, before) = (_weights(frame, numbers, selected, terms, rest) for selected in kept)
    if models != others:
        return nothing
    return found(combine(numbers, now - before), nothing, _left_out(frame, terms, *sides))


def _stratum(frame: Frame, row: int, rest: Callable[[Run], Hashable]) -> Hashable:
    return frame.effects[row].model, frame.effects[row].data, rest(frame.runs[row])


def between(
    frame: Frame, terms: Terms, nothing: str, sides: tuple[Where, Where], names: tuple[str, str]
) -> Found | str:
    """Mean over the first group of models minus that over the second, on what all of them have: quantizations, data."""
    numbers = frame.change
    groups = [_complete(frame, {kind: frame.rows(kind, side) for kind in terms}) for side in sides]
    models = [{frame.effects[row].model for rows in group.values() for row in rows} for group in groups]
    if min(len(each) for each in models) < FEWEST_MODELS:
        counts = ", ".join(f"{len(each)} {name}" for each, name in zip(models, names, strict=True))
        return f"needs at least {FEWEST_MODELS} models of each kind ({counts} here)"
    everyone = models[0] | models[1]
    seen: dict[tuple[str, str, str], set[str]] = {}
    for kind, rows in ((kind, rows) for group in groups for kind, rows in group.items()):
        for row in rows:
            seen.setdefault(_cell(frame, kind, row), set()).add(frame.effects[row].model)
    common = {cell for cell, has in seen.items() if has == everyone}
    weights = []
    for group in groups:
        kept = {kind: [row for row in rows if _cell(frame, kind, row) in common] for kind, rows in group.items()}
        weights.append(_weights(frame, numbers, _complete(frame, kept), terms))
    if [set(own) for own, _ in weights] != models:
        return nothing
    return found(combine(numbers, *(own for _, own in weights)), nothing, _left_out(frame, terms, *sides))


def _cell(frame: Frame, kind: str, row: int) -> tuple[str, str, str]:
    return kind, frame.effects[row].data, frame.effects[row].quantization


def _complete(frame: Frame, selected: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Only runs that have all terms."""
    runs = set.intersection(*({frame.name(row) for row in rows} for rows in selected.values()))
    return {kind: [row for row in rows if frame.name(row) in runs] for kind, rows in selected.items()}


def _weights(
    frame: Frame,
    numbers: Numbers,
    selected: Mapping[str, Sequence[int]],
    terms: Terms,
    rest: Callable[[Run], Hashable] | None = None,
) -> tuple[list[str], Floats]:
    """Models and the (M, R) weights of each one's quantity; models that lack a term are left out."""
    defined = {kind: [row for row in rows if np.isfinite(numbers.value[row])] for kind, rows in selected.items()}
    models = sorted(set.intersection(*({frame.effects[row].model for row in rows} for rows in defined.values())))
    weights = np.zeros((len(models), len(frame.effects)))
    for kind, factor in terms.items():
        rows = [row for row in defined[kind] if frame.effects[row].model in models]
        levels = [[frame.effects[row].data for row in rows]]
        if rest is not None:
            levels.append([rest(frame.runs[row]) for row in rows])  # type: ignore[misc]
        names, own = by_model([frame.effects[row].model for row in rows], *levels)
        for name, line in zip(names, own, strict=True):
            weights[models.index(name), rows] += factor * line
    return models, weights


# --- single runs ---------------------------------------------------------------------------------------------------


def each_run(frame: Frame, kind: str, factor: float) -> dict[tuple[str, str], Estimate | None]:
    """(model, quantization) -> its change of a kind, mean over data sets, times 1 or -1; None without an error."""
    parts: dict[tuple[str, str], list[int]] = {}
    for row in frame.rows(kind):
        parts.setdefault(frame.name(row), []).append(row)
    return {name: _signed(_of_run(frame, rows), factor) for name, rows in parts.items()}


def _of_run(frame: Frame, rows: Sequence[int]) -> Estimate | None:
    if len(rows) == 1:
        return frame.effects[rows[0]].alone
    mean = combine(frame.change.take(rows), np.full((1, len(rows)), 1.0 / len(rows)))
    return None if mean is None else mean.these


def _signed(estimate: Estimate | None, factor: float) -> Estimate | None:
    if estimate is None:
        return None
    return replace(estimate, value=factor * estimate.value, center=factor * estimate.center)


def share(frame: Frame, kind: str, factor: float, nothing: str) -> Found | str:
    """Share of a model's quantizations whose change, times 1 or -1, is positive; mean over models of their kind.

    Runs of a model are no independent trials: a model's share is one observation. A run whose direction is not known
    (`SURE`) counts as not positive at the lower end and as positive at the upper end. Half a model with the share 0 and
    half a one with the share 1 join the models for the interval, so that it has width where all shares are alike
    (Agresti & Coull 1998, American Statistician 52).
    """
    shares: dict[str, list[tuple[float, float, float]]] = {}
    wanted: list[float] = []
    for (model, _), estimate in each_run(frame, kind, factor).items():
        low, high = (-math.inf, math.inf) if estimate is None else estimate.interval(SURE)
        value = 0.0 if estimate is None else float(estimate.value > 0)
        shares.setdefault(model, []).append((float(low > 0), value, float(high > 0)))
        if estimate is not None and low <= 0 <= high and estimate.value:
            wanted.append(((high - low) / 2.0 / abs(estimate.value)) ** 2)
    if not shares:
        return nothing
    count = len(shares)
    if count < FEWEST_MODELS:
        return f"needs at least {FEWEST_MODELS} models, as a model's runs are not independent ({count} here)"
    lows, values, highs = np.array([np.mean(own, axis=0) for own in shares.values()]).T
    low, high = _padded(lows)[0], _padded(highs)[1]
    images = min(frame.effects[row].images for row in frame.rows(kind))

    def needs(distance: float) -> str:
        unknown = float(np.mean(highs - lows))
        if unknown > distance and wanted:
            return images_needed(images * float(np.median(wanted)))
        models = next((m for m in range(count + 1, 10_000) if _half(values, m) <= distance), None)
        return "" if models is None else f"about {models} models"

    population = "models of this kind"
    ends, left_out = (max(low, 0.0), min(high, 1.0)), _left_out(frame, (kind,), None)
    return Found(float(values.mean()), *ends, population, (count,), images, needs, left_out)


def _padded(shares: Floats, models: int | None = None) -> tuple[float, float]:
    """Interval of a mean share. Args: models: as if so many had these shares."""
    from scipy.special import stdtrit  # late: most commands need none

    count = len(shares) if models is None else models
    values = np.append(shares, (0.0, 1.0))
    weights = np.append(np.full(len(shares), count / len(shares)), (0.5, 0.5))
    center = float(weights @ values) / (count + 1)
    variance = float(weights @ (values - center) ** 2) / count
    half = float(stdtrit(count, 0.975)) * math.sqrt(variance / (count + 1))
    return center - half, center + half


def _half(shares: Floats, models: int) -> float:
    low, high = _padded(shares, models)
    return (high - low) / 2.0


@dataclass(frozen=True)
class Shown:
    """Runs that improve in every term at once.

    Attributes:
        better: runs whose changes are all in the right direction. shown: those of them that are shown to be, over all
            runs together. tested: runs that have all terms. p: smallest adjusted p value, and whose it is.
    """

    tested: int
    better: tuple[tuple[str, str], ...]
    shown: tuple[tuple[str, str], ...]
    p: float
    nearest: tuple[str, str]


def all_at_once(frame: Frame, terms: Terms) -> Shown | None:
    """Which runs improve in all terms: a run's p value is its largest (intersection-union), then Holm over runs.

    Sources: Berger (1982), Technometrics 24; Holm (1979), Scandinavian Journal of Statistics 6. One-sided, at 2.5 %.
    """
    kinds = [each_run(frame, kind, factor) for kind, factor in terms.items()]
    names = [name for name in kinds[0] if all(name in kind for kind in kinds)]
    if not names:
        return None
    p = np.array([max(_p(kind[name]) for kind in kinds) for name in names])
    better = [name for name in names if all((each := kind[name]) is not None and each.value > 0 for kind in kinds)]
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    shown = [names[at] for at, value in zip(order, adjusted, strict=True) if value <= ONE_SIDED]
    return Shown(len(names), tuple(better), tuple(shown), float(adjusted[0]), names[order[0]])


def _p(estimate: Estimate | None) -> float:
    return 1.0 if estimate is None else estimate.p_above(0.0)
