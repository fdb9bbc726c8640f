"""Units of layers, the patterns that name them, and the quantizations that leave one of them alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from benchmark.errors import SpecError
from benchmark.models.base import ClipModel
from benchmark.quantization import parse, quantizers
from benchmark.quantization.targets import resolve
from benchmark.spec import QuantSpec, Tower

By = Literal["layer", "block", "kind"]


@dataclass(frozen=True)
class Unit:
    """Layers that are quantized, or left alone, together.

    Attributes:
        name: of a layer or block, or of a kind: a layer's name with `*` for the number of its block.
        layers: full names. weights: number of their weights.
    """

    name: str
    tower: Tower
    layers: tuple[str, ...]
    weights: int


def units_of(model: ClipModel, base: QuantSpec, by: By) -> tuple[Unit, ...]:
    """The units of all layers whose weights a quantization rounds, in the order of the forward pass."""
    found: dict[tuple[Tower, str], dict[str, int]] = {}
    for tower in base.towers:
        for name, target in resolve(quantizers.get(base.method), model, tower, base)[0].items():
            if target.bits is not None:
                unit = found.setdefault((tower, _unit(name, model.blocks[tower], by)), {})
                unit[name] = target.layer.weight.numel()
    return tuple(Unit(name, tower, tuple(own), sum(own.values())) for (tower, name), own in found.items())


def _unit(layer: str, blocks: Sequence[str], by: By) -> str:
    block = next((block for block in blocks if layer.startswith(block + ".")), None)
    if by == "layer":
        return layer
    if by == "block":
        return layer if block is None and layer not in blocks else block or layer
    return layer if block is None else re.sub(r"\.\d+(?=\.|$)", ".*", block) + layer.removeprefix(block)


def cover(wanted: Iterable[str], unwanted: Iterable[str]) -> tuple[str, ...]:
    """Few patterns (`fnmatch`) that match all the wanted names and none of the unwanted ones.

    Two ways, the shorter one: the shortest beginnings, or the shortest ends, that no unwanted name has.

    >>> cover(["blocks.1.fc1", "blocks.1.fc2"], ["blocks.0.fc1", "blocks.0.fc2", "blocks.10.fc1"])
    ('blocks.1.*',)
    """
    names, others = tuple(wanted), tuple(unwanted)
    if not others:
        return ("*",)
    fronts = _beginnings(names, others)
    ends = [_turned(pattern) for pattern in _beginnings([n[::-1] for n in names], [o[::-1] for o in others])]
    return tuple(min((names, tuple(fronts), tuple(ends)), key=lambda found: sum(len(pattern) + 1 for pattern in found)))


def _beginnings(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """`stem[letters]*` for the shortest beginnings that set each name apart; a name that begins another, whole."""
    letters: dict[str, set[str]] = {}
    whole = []
    for name in names:
        length = next((n for n in range(1, len(name) + 1) if not any(o.startswith(name[:n]) for o in others)), None)
        if length is None:
            whole.append(name)
        else:
            letters.setdefault(name[: length - 1], set()).add(name[length - 1])
    stems = {
        stem + (next(iter(ends)) if len(ends) == 1 else f"[{''.join(sorted(ends))}]") for stem, ends in letters.items()
    }
    return [*whole, *(f"{stem}*" for stem in sorted(stems))]


def _turned(pattern: str) -> str:
    """A pattern of reversed names as one of the names."""
    parts = re.findall(r"\[[^]]*\]|.", pattern)
    return "".join(reversed(parts))


@dataclass(frozen=True)
class Quantizations:
    """The quantizations of a study by name, `base` that of all layers.

    Attributes:
        only: unit -> the one that rounds this unit alone. but: unit -> the one that rounds all but this unit; a unit
            without which nothing is left has none.
    """

    base: QuantSpec
    only: Mapping[str, QuantSpec]
    but: Mapping[str, QuantSpec]

    @property
    def names(self) -> tuple[str, ...]:
        """Short names, `base` first."""
        found = (self.base, *self.only.values(), *self.but.values())
        return tuple(dict.fromkeys(spec.name for spec in found))


def quantizations(base: QuantSpec, units: Sequence[Unit]) -> Quantizations:
    """One unit at a time, and all but one.

    Raises:
        SpecError: a name would become too long.
    """
    only = {unit.name: _alone(base, unit, units) for unit in units}
    but = {unit.name: spec for unit in units if (spec := _without(base, unit, units)) is not None}
    for spec in (*only.values(), *but.values()):
        try:
            parse(spec.name)
        except SpecError as error:
            raise SpecError(f"{error}; take larger units with --by block") from None
    return Quantizations(base, only, but)


def _alone(base: QuantSpec, unit: Unit, units: Sequence[Unit]) -> QuantSpec:
    others = [layer for other in units if other.tower == unit.tower and other != unit for layer in other.layers]
    return _skipping(base, (unit.tower,), cover(others, unit.layers) if others else ())


def _without(base: QuantSpec, unit: Unit, units: Sequence[Unit]) -> QuantSpec | None:
    others = [other for other in units if other != unit]
    towers = tuple(dict.fromkeys(other.tower for other in others))
    if not towers:
        return None
    kept = [layer for other in others for layer in other.layers]
    return _skipping(base, towers, cover(unit.layers, kept) if unit.tower in towers else ())


def _skipping(base: QuantSpec, towers: Sequence[Tower], patterns: Sequence[str]) -> QuantSpec:
    scope = {"scope": "+".join(tower for tower in ("vision", "text") if tower in towers)}
    changed: QuantSpec = base.model_copy(update={**scope, "skip": (*base.skip, *patterns)})
    return changed


def protecting(units: Sequence[Unit], every: Sequence[Unit], bits: int) -> tuple[str, ...]:
    """`PATTERN=BITS` for `--override`, of all layers of some units and of no other; by name where that does."""
    found: list[str] = []
    for unit in units:
        others = [layer for other in every if other != unit for layer in other.layers]
        found += next((p for p in _named(unit) if _matches(p, unit.layers, others)), cover(unit.layers, others))
    return tuple(f"{pattern}={bits}" for pattern in found)


def _named(unit: Unit) -> tuple[tuple[str, ...], ...]:
    return (unit.name,), (f"{unit.name}.*",)


def _matches(patterns: Sequence[str], wanted: Iterable[str], unwanted: Iterable[str]) -> bool:
    def hit(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return all(map(hit, wanted)) and not any(map(hit, unwanted))
