"""What a sensitivity study found: effects in points with their intervals, as rows, CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.results import csv_text
from benchmark.sensitivity.units import Unit

OVERALL = "reliability"


@dataclass(frozen=True)
class Effect:
    """A difference of reliability, in points: positive is better. The 95 % interval, or why there is none."""

    value: float
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """`-1.25 [-2.0, -0.5]`."""
        return f"{self.value:+.2f}" + ("" if self.low is None else f" [{self.low:+.2f}, {self.high:+.2f}]")


Effects = Mapping[str, Effect]
"""`reliability` and each task -> effect."""


@dataclass(frozen=True)
class Sensitivity:
    """One unit.

    Attributes:
        alone: this unit quantized and nothing else, minus full precision.
        spared: all but this unit quantized, minus all quantized; None where nothing else is quantized.
        harm: what it costs, the mean of -alone and spared: the ends of a Shapley value, its part when it is the first
            and when it is the last to be quantized.
    """

    unit: Unit
    alone: Effects
    spared: Effects | None
    harm: Effects


@dataclass(frozen=True)
class Check:
    """The line, evaluated on the other half of the images.

    Attributes:
        protected: names of the units. overrides: `PATTERN=BITS`. quantization: its short name.
        unprotected, with_line: against full precision. gain: with the line minus without it. control: the same with as
            many of the least harmful units protected instead; None where there are too few.
        bits: effective bits without and with the line.
    """

    protected: tuple[str, ...]
    overrides: tuple[str, ...]
    quantization: str
    unprotected: Effects
    with_line: Effects
    gain: Effects
    control: Effects | None
    bits: tuple[float, float]
    images: int

    @property
    def line(self) -> str:
        """For the command line."""
        return " ".join(f"--override '{item}'" for item in self.overrides)


@dataclass(frozen=True)
class Study:
    """One model. `base`: short name of the quantization of all layers. `key`: content hash of all numbers."""

    suite: str
    model: str
    base: str
    by: str
    images: int
    tasks: tuple[str, ...]
    whole: Effects
    rows: tuple[Sensitivity, ...]
    check: Check
    notes: tuple[str, ...] = ()
    key: str = ""

    @property
    def ranked(self) -> tuple[Sensitivity, ...]:
        """The most harmful first."""
        return tuple(sorted(self.rows, key=lambda row: -row.harm[OVERALL].value))


def csv(study: Study) -> str:
    """One row for each unit and each of `reliability` and the tasks."""
    head = ["unit", "tower", "layers", "weights", "of"]
    kinds = ("harm", "alone", "spared")
    head += [f"{kind}{end}" for kind in kinds for end in ("", "_low", "_high")]
    lines: list[list[Any]] = []
    for row in study.ranked:
        for name in (OVERALL, *study.tasks):
            found = (row.harm.get(name), row.alone.get(name), row.spared.get(name) if row.spared else None)
            values = [v for e in found for v in ((None, None, None) if e is None else (e.value, e.low, e.high))]
            unit = row.unit
            lines.append([unit.name, unit.tower, len(unit.layers), unit.weights, name, *values])
    return csv_text.to_csv(head, lines)


def as_json(study: Study) -> dict[str, Any]:
    """Plain values with 6 significant digits."""
    check = study.check
    return {
        "format": 1,
        "suite": study.suite,
        "model": study.model,
        "quantization": study.base,
        "by": study.by,
        "images": study.images,
        "unit": "points of reliability, positive is better; harm: positive is worse",
        "all_quantized": _effects(study.whole),
        "units": [
            {
                "name": row.unit.name,
                "tower": row.unit.tower,
                "layers": list(row.unit.layers),
                "weights": row.unit.weights,
                "harm": _effects(row.harm),
                "alone": _effects(row.alone),
                "spared": _effects(row.spared) if row.spared else None,
            }
            for row in study.ranked
        ],
        "check": {
            "protected": list(check.protected),
            "overrides": list(check.overrides),
            "quantization": check.quantization,
            "images": check.images,
            "effective_bits": list(check.bits),
            "unprotected": _effects(check.unprotected),
            "with_line": _effects(check.with_line),
            "gain": _effects(check.gain),
            "control": _effects(check.control) if check.control else None,
        },
        "notes": list(study.notes),
    }


def _effects(effects: Effects) -> dict[str, Any]:
    return {name: _effect(effect) for name, effect in effects.items()}


def _effect(effect: Effect) -> dict[str, Any]:
    short = {"value": effect.value, "low": effect.low, "high": effect.high}
    found: dict[str, Any] = {key: None if value is None else float(f"{value:.6g}") for key, value in short.items()}
    return found | ({"reason": effect.reason} if effect.reason else {})


def metrics(study: Study) -> dict[str, float]:
    """Path -> number, for trackers."""
    found = {
        f"harm/{row.unit.name.replace('*', 'N')}/{name}": e.value for row in study.rows for name, e in row.harm.items()
    }
    for kind, effects in (("unprotected", study.check.unprotected), ("protected", study.check.with_line)):
        found |= {f"check/{kind}/{name}": effect.value for name, effect in effects.items()}
    return found | {"check/effective_bits": study.check.bits[1]}


def names_of(rows: Sequence[Sensitivity]) -> tuple[str, ...]:
    """Names of their units."""
    return tuple(row.unit.name for row in rows)
