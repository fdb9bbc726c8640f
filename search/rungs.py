"""Rungs of the engine: the tasks that a search needs, on nested shares of the images, with replicates for an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from benchmark.data import Data
from benchmark.errors import InputError, SpecError
from benchmark.metrics.uncertainty import GROUPS
from benchmark.spec import BindingSpec, DataSpec, QuantSpec, SuiteSpec

from .evaluator import Engine
from .objective import EFFECTIVE_BITS, SIZE, Metrics, Rung

FEWEST = 16
"""A part has about this many images of a data set at least (a hash chooses them)."""
_WORTH = 2 / 3
"""A part is used only where it has at most this share of the images of the next larger one."""
_PART = ".part"


def parse_shares(texts: Sequence[str]) -> tuple[float, ...]:
    """Shares such as `1/9` or `0.2`, ascending.

    Raises:
        SpecError: a text is not a share between 0 and 1.
    """
    shares = []
    for text in texts:
        try:
            share = float(Fraction(text.strip()))
        except (ValueError, ZeroDivisionError):
            share = 0.0
        if not 0 < share < 1:
            raise SpecError(f"--rungs: '{text}' is not a share between 0 and 1. The form is 1/9,1/3 or 0.1,0.3.")
        shares.append(share)
    return tuple(sorted(set(shares)))


def part_suite(suite: SuiteSpec, share: float, sizes: Mapping[str, int], wanted: Iterable[str]) -> SuiteSpec:
    """A suite on a part of the images.

    Args:
        suite: the validation suite. sizes: data set -> its number of images.
        wanted: `task/label` of the evaluations that are kept.

    Returns:
        the suite on a part of each data set, chosen by a hash of the sample id: about `share`, but at least `FEWEST`
        images where there are so many. Quantizers calibrate on the whole calibration set; tasks see a part of it.
    """
    data = {name: _part(spec, share, sizes[name]) for name, spec in suite.data.items() if name in sizes}
    if suite.calibration is not None:
        data[suite.calibration + _PART] = data[suite.calibration]
        data[suite.calibration] = suite.data[suite.calibration]
    kept = set(wanted)
    tasks: dict[str, dict[str, BindingSpec]] = {}
    for task, labels in suite.tasks.items():
        for label, binding in labels.items():
            if f"{task}/{label}" in kept:
                tasks.setdefault(task, {})[label] = _rebound(binding, suite.calibration)
    name = f"{suite.name[:50]}.part{share:.4g}"
    return suite.model_copy(update={"name": name, "data": {**suite.data, **data}, "tasks": tasks})


def _part(spec: DataSpec, share: float, size: int) -> DataSpec:
    kept = max(share, FEWEST / size)
    if kept >= 1:
        return spec
    return spec.model_copy(update={"options": tuple(sorted([*spec.options, ("part", round(kept, 6))]))})


def _rebound(binding: BindingSpec, calibration: str | None) -> BindingSpec:
    def part(name: str) -> str:
        return name + _PART if name == calibration else name

    roles = {
        role: part(bound) if isinstance(bound, str) else tuple(map(part, bound))
        for role, bound in binding.roles.items()
    }
    return binding.model_copy(update={"roles": roles})


def make_rungs(whole: Engine, shares: Sequence[float], keys: Sequence[str]) -> tuple[Rung, ...]:
    """Make rungs of an engine; they and the engine reuse each other's features, so that no image is embedded twice.

    Args:
        shares: ascending. keys: metric keys that are needed.
    """
    wanted = {"/".join(key.split("/")[:2]) for key in keys if key not in (EFFECTIVE_BITS, SIZE)}
    sizes = _sizes(whole)
    parts: list[tuple[float, PartEngine]] = []
    following = _images(whole)
    for share in reversed(shares):
        suite = part_suite(whole.suite, share, sizes, wanted)
        engine = replace(whole, suite=suite, progress=whole.quiet, forward_images=0, computed=0)
        try:
            images = _images(engine)
        except InputError as reason:
            whole.progress.message(f"no trial is pruned on {share:.0%} of the images: {reason}")
            continue
        if images <= _WORTH * following:
            parts.insert(0, (share, PartEngine(engine)))
            following = images
    _relate([whole, *(part.engine for _, part in parts)])
    return tuple(Rung(share, part.evaluate, part.replicates) for share, part in parts)


def _images(engine: Engine) -> int:
    """Number of images that the tasks see."""
    evaluations = engine.plan.configurations[0].evaluations
    used = {name for e in evaluations for names in e.roles.values() for name in names}
    return sum(len(engine.plan.data[name]) for name in used)


def _sizes(engine: Engine) -> dict[str, int]:
    """Number of images of each data set of the suite; for a group of corrupted versions that of one version."""
    sizes: dict[str, int] = {}
    for name, data in engine.plan.data.items():
        own = name if name in engine.suite.data else name.rsplit("/", 2)[0]
        sizes[own] = len(data)
    return sizes


def _relate(engines: Sequence[Engine]) -> None:
    """Tell each engine which data sets of the others share images with its own."""
    by_origin: dict[str, list[Data]] = {}
    for engine in engines:
        for name, data in engine.plan.data.items():
            by_origin.setdefault(name.removesuffix(_PART), []).append(data)
    for engine in engines:
        engine.related = {
            name: tuple({other.digest: other for other in same if other.digest != data.digest}.values())
            for name, data in engine.plan.data.items()
            for same in [by_origin[name.removesuffix(_PART)]]
        }


@dataclass
class PartEngine:
    """An engine on a part of the images that also gives the metrics without each group of images."""

    engine: Engine

    def evaluate(self, spec: QuantSpec) -> Metrics:
        """Metrics of a quantization on the part.

        Raises:
            ReliquantError: it cannot be evaluated.
        """
        return self.engine.evaluate(spec)

    def replicates(self, spec: QuantSpec) -> Sequence[Metrics]:
        """The same metrics without each group of the part's images; only those that have replicates."""
        metrics, measured = self.engine.evaluate(spec), self.engine.measured(spec)
        kept = {key: metrics[key] for key in (EFFECTIVE_BITS, SIZE)}
        rows = ({key: float(each.replicates[group]) for key, each in measured.items()} for group in range(GROUPS))
        return [{**kept, **row} for row in rows]
