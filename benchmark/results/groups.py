"""Mean changes of groups of runs (`reliquant compare --by`): what a table of a paper shows, in all formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmark.errors import InputError, ReliquantError, UnknownNameError
from benchmark.ledger.records import Record
from benchmark.metrics.significance import benjamini_hochberg, stars
from benchmark.plugins import Better, tasks
from benchmark.quantization.registry import read
from benchmark.results.aggregate import FEWEST_MODELS, Mean, Numbers, by_model, changes, combine, relative_changes
from benchmark.results.effects import Effect
from benchmark.results.notation import Direction, direction
from benchmark.spec import QuantSpec
from benchmark.spec.base import ModelFacts, ModelSpec
from benchmark.spec.models import facts

SIMPLE = ("rtn", "percentile", "mse")
"""Methods that only choose ranges and round: what the study calls simple."""
CONTROL = "control"
"""How the names of controls begin: they quantize nothing, and are in no mean."""
NONE = "-"
NOWHERE: Mapping[tuple[str, str], str] = MappingProxyType({})


@dataclass(frozen=True)
class Run:
    """What a run is grouped by: its model's name and what is known of it, its quantization.

    `calibration`: what its suite calls the calibration set, None where the quantization looks at none.
    """

    model: str
    facts: ModelFacts
    quantization: str
    spec: QuantSpec
    calibration: str | None = None


def _bits(spec: QuantSpec) -> str | None:
    parts = [f"{mark}{bits}" for mark, bits in (("W", spec.weight_bits), ("A", spec.activation_bits)) if bits]
    return "".join(parts) or None


def _granularity(spec: QuantSpec) -> str | None:
    weights = f"g{spec.group_size}" if spec.group_size else spec.weight_granularity
    return "-".join(part for part in (weights, spec.activation_granularity) if part) or None


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)


BY: Mapping[str, Callable[[Run], str | None]] = MappingProxyType(
    {
        "method_family": lambda run: "simple" if run.spec.method in SIMPLE else run.spec.method,
        "method": lambda run: run.spec.method,
        "bits": lambda run: _bits(run.spec),
        "weight_bits": lambda run: _number(run.spec.weight_bits),
        "activation_bits": lambda run: _number(run.spec.activation_bits),
        "granularity": lambda run: _granularity(run.spec),
        "scope": lambda run: run.spec.scope,
        "calibration": lambda run: run.calibration,
        "quantization": lambda run: run.quantization,
        "family": lambda run: run.facts.family,
        "architecture": lambda run: run.facts.architecture,
        "pretraining": lambda run: run.facts.pretraining,
        "model": lambda run: run.model,
    }
)
"""What runs can be grouped by."""
OF_MODELS = ("family", "architecture", "pretraining")


def keys_of(by: str) -> tuple[str, ...]:
    """The keys of `--by`.

    Raises:
        UnknownNameError: one that is none.
    """
    keys = tuple(dict.fromkeys(key.strip() for key in by.split(",")))
    for key in keys:
        if key not in BY:
            raise UnknownNameError("--by", key, BY)
    return keys


def facts_by_model(records: Sequence[Record], models: Sequence[ModelSpec]) -> Callable[[str], ModelFacts]:
    """What is known of a model by its name in the ledger. Args: models: of the suite, which may say more."""
    refs = {record.model: str(record.identity["model"]["ref"]) for record in records if "model" in record.identity}
    specs = {spec.ref: spec for spec in models} | {spec.name: spec for spec in models if spec.name}

    def known(model: str) -> ModelFacts:
        ref = refs.get(model, model)
        return facts(specs.get(ref) or specs.get(model) or ModelSpec(ref=ref))

    return known


def runs_of(
    names: Sequence[tuple[str, str]],
    known: Callable[[str], ModelFacts],
    calibrated: Mapping[tuple[str, str], str] = NOWHERE,
) -> dict[tuple[str, str], Run]:
    """(model, quantization) -> the run; without controls and names that cannot be read.

    Args: calibrated: (model, quantization) -> its calibration set (`calibrated_on`).
    """
    specs = {name: spec for name in dict.fromkeys(name for _, name in names) if (spec := readable(name))}
    told = {model: known(model) for model in dict.fromkeys(model for model, _ in names)}
    placed = [(m, name) for m, name in dict.fromkeys(names) if name in specs]
    return {(m, name): Run(m, told[m], name, specs[name], calibrated.get((m, name))) for m, name in placed}


def calibrated_on(records: Iterable[Record]) -> dict[tuple[str, str], str]:
    """(model, quantization) -> the calibration set that the quantization looked at."""
    named = [(record, record.provenance.get("calibrated_on")) for record in records]
    return {(record.model, record.quantization): name for record, name in named if name is not None}


def readable(name: str) -> QuantSpec | None:
    """The quantization that a name in the ledger means; None for controls, and for what is not known here."""
    try:
        spec = read(name)
    except ReliquantError:
        return None
    return None if spec.method.startswith(CONTROL) else spec


def require_keys(runs: Mapping[tuple[str, str], Run], keys: Sequence[str]) -> None:
    """Every key means something for some run.

    Raises:
        InputError: one that nothing has, with the way out; or there are no runs.
    """
    if not runs:
        raise InputError("--by: these results hold no quantization to group (controls and unknown methods are none)")
    for key in keys:
        if any(BY[key](run) is not None for run in runs.values()):
            continue
        models = ", ".join(dict.fromkeys(run.model for run in runs.values()))
        if key in OF_MODELS:
            raise InputError(
                f"--by {key}: not known of {models}; say it in a suite's YAML (models: [{{ref: ..., {key}: ...}}]) and "
                "name that file with --suite"
            )
        raise InputError(f"--by {key}: no quantization of these results has it; leave it out")


def group_of(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    """The values of a run's keys; `-` where it has none."""
    return tuple(BY[key](run) or NONE for key in keys)


def few_models(runs: Mapping[tuple[str, str], Run], keys: Sequence[str]) -> str:
    """One line on groups that have too few models to speak of others; "" where all have enough."""
    models: dict[tuple[str, ...], set[str]] = {}
    for run in runs.values():
        models.setdefault(group_of(run, keys), set()).add(run.model)
    few = {group: names for group, names in models.items() if len(names) < FEWEST_MODELS}
    if not few:
        return ""
    group, names = next(iter(few.items()))
    if len(models) == 1:
        which = f"there is one model, {next(iter(names))}" if len(names) == 1 else f"there are {len(names)} models"
    elif len(few) == len(models) and all(len(each) == 1 for each in few.values()):
        which = "every group has one model"
    else:
        count = "one" if len(names) == 1 else str(len(names))
        which = (
            f"{len(few)} of {len(models)} groups have fewer than {FEWEST_MODELS} models ({' '.join(group)}: {count})"
        )
    return f"{which}; intervals are of these models only, as of models of their kind takes at least {FEWEST_MODELS}"


@dataclass(frozen=True)
class GroupMean:
    """The mean change of one metric over the runs of a group.

    Attributes:
        group: values of the keys. change, relative: mean change, and mean change over the value in full precision
            (None where that is zero somewhere). reason: why there is no interval.
        q: p of the widest interval adjusted over all means shown together; None until `adjust`.
    """

    group: tuple[str, ...]
    key: str
    better: Better
    runs: int
    change: Mean
    relative: Mean | None
    reason: str = ""
    q: float | None = None

    @property
    def direction(self) -> Direction:
        """What the change means."""
        return direction(self.change.value, self.better)

    @property
    def stars(self) -> str:
        """Stars of q."""
        return "" if self.q is None else stars(self.q)


def group_means(effects: Sequence[Effect], runs: Mapping[tuple[str, str], Run], keys: Sequence[str]) -> list[GroupMean]:
    """One mean for each group and metric, over the runs in which it is defined.

    Groups stand in the order of their values, metrics in that of the effects.
    """
    effects = [each for each in effects if np.isfinite(each.now.value - each.before.value)]
    parts: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    groups = {name: group_of(run, keys) for name, run in runs.items()}
    for at, effect in enumerate(effects):
        name = (effect.model, effect.quantization)
        if name in groups:
            parts.setdefault((effect.key, groups[name]), []).append(at)
    order = {key: at for at, key in enumerate(dict.fromkeys(effect.key for effect in effects))}
    numbers = changes(effects), relative_changes(effects)
    placed = sorted(parts.items(), key=lambda part: (order[part[0][0]], [_natural(value) for value in part[0][1]]))
    means = [_mean(key, group, [effects[at] for at in rows], numbers, rows) for (key, group), rows in placed]
    return adjust(means)


def _mean(
    key: str, group: tuple[str, ...], effects: Sequence[Effect], numbers: tuple[Numbers, Numbers], rows: Sequence[int]
) -> GroupMean:
    _, weights = by_model([effect.model for effect in effects], [effect.data for effect in effects])
    change, relative = (combine(each.take(rows), weights) for each in numbers)
    if change is None:
        raise InputError(f"{key}: a group without runs")
    if len(effects) == 1:  # the interval that the run has by itself
        change = replace(change, these=effects[0].alone)
    if relative is not None and not np.isfinite(relative.value):
        relative = None
    task, _, rest = key.split("/", 2)
    reasons = [effect.reason for effect in effects if effect.reason]
    reason = "" if change.these else reasons[0] if reasons else "it does not vary over the images"
    return GroupMean(group, key, tasks.get(task).metric(rest).better, len(effects), change, relative, reason)


def adjust(means: Sequence[GroupMean]) -> list[GroupMean]:
    """The means with q over all of them that have an interval."""
    widest = [mean.change.widest for mean in means]
    q = iter(benjamini_hochberg([each.p for each in widest if each is not None]).tolist())
    return [mean if each is None else replace(mean, q=next(q)) for mean, each in zip(means, widest, strict=True)]


def _natural(value: str) -> list[tuple[int, int, str]]:
    """Numbers in a text sort as numbers, and what is missing comes last."""
    parts = re.findall(r"\d+|\D+", value) if value != NONE else ["\U0010ffff"]
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def flat(means: Sequence[GroupMean], keys: Sequence[str]) -> list[dict[str, Any]]:
    """One flat mapping a mean: the group, counts, and change and relative change with both 95 % intervals."""
    rows = []
    for mean in means:
        row: dict[str, Any] = dict(zip(keys, mean.group, strict=True))
        row |= {"metric": mean.key, "better": mean.better, "runs": mean.runs, "models": mean.change.models[0]}
        row |= {"images": mean.change.images, **_ends("change", mean.change), **_ends("relative_change", mean.relative)}
        row |= {"q": mean.q, "stars": mean.stars, "direction": mean.direction, "reason": mean.reason}
        rows.append(row)
    return rows


def _ends(name: str, mean: Mean | None) -> dict[str, float | None]:
    """Value, and both intervals with their p values; None where there is none."""
    found: dict[str, float | None] = {name: None if mean is None else mean.value}
    for kind, estimate in (("these", mean and mean.these), ("kind", mean and mean.kind)):
        low, high = estimate.interval() if estimate else (None, None)
        found |= {f"{name}_{kind}_low": low, f"{name}_{kind}_high": high}
        found |= {f"{name}_{kind}_p": estimate.p if estimate else None}
    return found
