"""Evaluate one unit at a time and all but one, rank the units on one half of the images, check on the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.engine.holding import Models
from benchmark.engine.plan import Plan, Settings, make_plan
from benchmark.engine.requested import with_overrides
from benchmark.engine.run import Sweep, run
from benchmark.errors import SpecError
from benchmark.ledger.records import Ledger
from benchmark.models import ResolvedModel
from benchmark.models.base import ClipModel
from benchmark.models.references import refuse_quantized
from benchmark.models.resume import Resuming
from benchmark.results.compare import Comparer
from benchmark.results.sizes import size
from benchmark.results.tables import headline_keys
from benchmark.sensitivity.effects import Evaluated, differences, evaluated
from benchmark.sensitivity.model import OVERALL, Check, Effects, Sensitivity, Study, names_of
from benchmark.sensitivity.units import By, Quantizations, Unit, protecting, quantizations, units_of
from benchmark.spec import FP32, DataSpec, ModelSpec, QuantSpec, SuiteSpec, digest
from benchmark.spec.suite import spared, with_quantizations
from benchmark.utils.progress import Progress

VERSION = 1
"""Part of a study's key; raise it when its numbers can change for the same records."""
HALVES = ("a", "b")


@dataclass(frozen=True)
class Asked:
    """What is to be studied.

    Attributes:
        base: the quantization of all layers. by: kind of unit. protect, bits: number of units, and their bits.
        cache: bytes of inputs of blocks.
    """

    base: QuantSpec
    by: By
    protect: int
    bits: int
    cache: int


@dataclass(frozen=True)
class Place:
    """Where and how models run."""

    home: Path
    settings: Settings
    progress: Progress
    pixel_budget: int
    skip_broken: bool


def half_of(suite: SuiteSpec, half: str) -> SuiteSpec:
    """The suite on half `a` or `b` of the images of each test set, by sample id; what is fitted on stays whole."""
    whole = spared(suite)

    def taken(spec: DataSpec) -> DataSpec:
        return spec.model_copy(update={"options": tuple(sorted({**dict(spec.options), "half": half}.items()))})

    data = {name: spec if name in whole else taken(spec) for name, spec in suite.data.items()}
    return suite.model_copy(update={"data": data, "name": f"{suite.name[:50]}.sensitivity-{half}"})


@dataclass(frozen=True)
class Ranking:
    """Units of one model with what each costs, on all images of a suite.

    Attributes:
        rows: in the order of the forward pass. whole: all of them quantized, minus full precision. keys: of records.
        model: with an encoder that resumes. models: that hold it. encoders: that encoder, once it is loaded.
    """

    rows: tuple[Sensitivity, ...]
    whole: Effects
    headline: tuple[str, ...]
    images: int
    keys: tuple[str, ...]
    model: ResolvedModel
    models: Models
    encoders: Sequence[Resuming]

    @property
    def worst_first(self) -> list[Sensitivity]:
        """The most harmful unit first."""
        return sorted(self.rows, key=lambda row: -row.harm[OVERALL].value)


def rank(suite: SuiteSpec, asked: Asked, place: Place) -> Ranking:
    """What each unit of the suite's one model costs; nothing is checked on other images.

    Raises:
        ReliquantError: the model, the data or the quantization does not fit, or an evaluation failed.
    """
    plan = make_plan(with_quantizations(suite, [asked.base.name]), place.settings)
    refuse_quantized([plan.configurations[0].model], "sensitivity")
    models, resolved = Models(keep=True), _resumed(plan.configurations[0].model, asked.cache)
    units = units_of(models.holder(resolved[0], place.settings.device).model, asked.base, asked.by)
    if len(units) < 2:
        raise SpecError(
            f"--by {asked.by}: '{asked.base.name}' has {len(units)} of them in {resolved[0].name}; at least 2"
        )
    quants = quantizations(asked.base, units)
    sweep, headline = _evaluate(suite, quants.names, resolved[0], models, place)
    found = _by_quantization(sweep, place)
    rows = tuple(_sensitivity(unit, quants, found, headline) for unit in units)
    whole = differences([(1.0, found[asked.base.name]), (-1.0, found[FP32.name])], headline)
    if OVERALL not in whole:
        raise SpecError(f"suite '{suite.name}': a headline metric is undefined for {asked.base.name}, so nothing ranks")
    images = max(e.images for e in found[FP32.name].evidence.values())
    return Ranking(rows, whole, headline, images, tuple(r.key for r in sweep.records), resolved[0], models, resolved[1])


def measure(suite: SuiteSpec, model: ModelSpec, asked: Asked, place: Place) -> Study:
    """The study of one model.

    Raises:
        ReliquantError: the model, the data or the quantization does not fit, or an evaluation failed.
    """
    ranking, checking = (half_of(suite.model_copy(update={"models": (model,)}), half) for half in HALVES)
    found = rank(ranking, asked, place)
    asked = replace(asked, protect=min(asked.protect, len(found.rows) - 1))
    check = _check(checking, found.rows, asked, (found.model, found.models), place)
    tasks = tuple(dict.fromkeys(key.split("/", 1)[0] for key in found.headline))
    content = [VERSION, list(found.keys), check.quantization, asked.protect]
    return Study(
        suite.name, found.model.name, asked.base.name, asked.by, found.images, tasks, found.whole, found.rows, check,
        _notes(found.encoders, check, found.whole), digest(content),
    )  # fmt: skip


def _resumed(model: ResolvedModel, budget: int) -> tuple[ResolvedModel, list[Resuming]]:
    """The model with an image encoder that resumes, and that encoder once it is loaded."""
    made: list[Resuming] = []

    def load(device: str) -> ClipModel:
        plain = model.loader(device)
        if not budget:
            return plain
        made.append(Resuming(plain.image_encoder, plain.blocks["vision"], plain.towers["vision"], budget))
        return replace(plain, image_encoder=made[-1])

    return replace(model, loader=load), made


def _evaluate(
    suite: SuiteSpec, names: Sequence[str], model: ResolvedModel, models: Models, place: Place
) -> tuple[Sweep, tuple[str, ...]]:
    """All quantizations with full precision, from the ledger where it has them; and the headline metrics."""
    plan: Plan = make_plan(with_quantizations(suite, [FP32.name, *names]), place.settings)
    plan = replace(plan, configurations=tuple(replace(c, model=model) for c in plan.configurations))
    sweep = run(
        plan,
        place.home,
        progress=place.progress,
        pixel_budget=place.pixel_budget,
        skip_broken=place.skip_broken,
        compare=False,
        models=models,
    )
    return sweep, tuple(suite.headline) or tuple(headline_keys(plan, sweep.records))


def _by_quantization(sweep: Sweep, place: Place) -> dict[str, Evaluated]:
    comparer, found = Comparer(Ledger(place.home)), {}
    for name in dict.fromkeys(record.quantization for record in sweep.records):
        found[name] = evaluated([r for r in sweep.records if r.quantization == name], comparer.evidence)
    return found


def _sensitivity(
    unit: Unit, quants: Quantizations, found: Mapping[str, Evaluated], headline: Sequence[str]
) -> Sensitivity:
    full, whole, alone = found[FP32.name], found[quants.base.name], found[quants.only[unit.name].name]
    first = differences([(1.0, alone), (-1.0, full)], headline)
    if unit.name not in quants.but:
        return Sensitivity(unit, first, None, differences([(-1.0, alone), (1.0, full)], headline))
    but = found[quants.but[unit.name].name]
    last = differences([(1.0, but), (-1.0, whole)], headline)
    harm = differences([(0.5, but), (-0.5, whole), (-0.5, alone), (0.5, full)], headline)
    return Sensitivity(unit, first, last, harm)


def _check(
    suite: SuiteSpec, rows: Sequence[Sensitivity], asked: Asked, model: tuple[ResolvedModel, Models], place: Place
) -> Check:
    """The line that protects the most harmful units, and one that protects the least harmful, on other images."""
    ranked, every = sorted(rows, key=lambda row: -row.harm[OVERALL].value), [row.unit for row in rows]
    worst, best = ranked[: asked.protect], ranked[len(ranked) - asked.protect :]
    overrides = protecting([row.unit for row in worst], every, asked.bits)
    base, line = asked.base.name, with_overrides(asked.base.name, overrides)
    other = with_overrides(base, protecting([row.unit for row in best], every, asked.bits))
    compared = 2 * asked.protect <= len(ranked)
    sweep, headline = _evaluate(suite, (base, line, *[other] * compared), *model, place)
    found = _by_quantization(sweep, place)
    names = {r.quantization: sweep.reports.get(r.configuration, {}) for r in sweep.records}
    return Check(
        names_of(worst),
        overrides,
        line,
        differences([(1.0, found[base]), (-1.0, found[FP32.name])], headline),
        differences([(1.0, found[line]), (-1.0, found[FP32.name])], headline),
        differences([(1.0, found[line]), (-1.0, found[base])], headline),
        differences([(1.0, found[other]), (-1.0, found[base])], headline) if compared else None,
        (_bits(names[base]), _bits(names[line])),
        max(e.images for e in found[FP32.name].evidence.values()),
    )


def _notes(encoders: Sequence[Resuming], check: Check, whole: Mapping[str, object]) -> tuple[str, ...]:
    notes = []
    for encoder in encoders:
        total = encoder.run + encoder.skipped
        if not encoder.exact:
            notes.append("early blocks could not be resumed exactly, so every block ran")
        elif encoder.skipped:
            notes.append(f"{encoder.skipped / total:.0%} of the blocks' passes came from the cache, exactly")
    return tuple(notes)


def _bits(report: Mapping[str, Any]) -> float:
    """Effective bits of a quantization's report, which always knows them."""
    found = size(report)
    return math.nan if found is None else found.effective_bits
