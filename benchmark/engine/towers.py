"""Which towers a suite runs: quantizations that leave a tower alone, or treat it alike, share its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from benchmark.quantization import requires_calibration
from benchmark.spec import ArtifactQuant, QuantSpec, SuiteSpec, Tower

TOWERS: tuple[Tower, ...] = get_args(Tower)


def distinct_towers(suite: SuiteSpec, quants: Sequence[QuantSpec]) -> dict[Tower, tuple[QuantSpec, ...]]:
    """For each tower of a model what is done to it, each once: as many passes as the engine makes over the data.

    It agrees with `Plan.tower_key`, and needs neither models nor data.

    Args: quants: full precision first, as `benchmark.engine.plan.check_suite` gives them; also artifacts.
    """
    return {tower: tuple({_key(suite, q, tower): q.for_tower(tower) for q in quants}.values()) for tower in TOWERS}


def _key(suite: SuiteSpec, quant: QuantSpec, tower: Tower) -> tuple[str, str]:
    """Equal for quantizations with one function of a tower: fields and, where it looks at them, calibration pairs."""
    own = quant.for_tower(tower)
    if isinstance(quant, ArtifactQuant):
        return (quant.name if tower in quant.towers else ""), ""
    fields = own.model_copy(update={"calibration": None})
    pairs = quant.calibration or suite.calibration
    if not own.towers or pairs is None or not requires_calibration(own):
        return fields.name if own.towers else "", ""
    return fields.name, suite.data[pairs].model_dump_json()
