"""Mixed precision that is cheap: rank the layers once by sensitivity, then search how many of them get more bits."""

from __future__ import annotations

from benchmark.engine.requested import parse_size
from benchmark.errors import SpecError
from benchmark.quantization import parse
from benchmark.sensitivity.measure import Asked, Place, rank
from benchmark.spec import Tower

from .evaluator import Engine

RANKED_AT = "rtn-w3-channel"
"""What the layers are ranked under: few enough bits that they do harm, and a method that needs no calibration."""


def harmful_layers(engine: Engine, count: int, scopes: tuple[str, ...]) -> tuple[tuple[Tower, str], ...]:
    """Tower and name of the layers that cost most reliability on the engine's own images, the most harmful first.

    Args:
        count: of layers. scopes: the towers that may be quantized, as in `search.space.Choices`.

    Raises:
        SpecError: the model has fewer layers.
    """
    towers = [tower for tower in ("vision", "text") if any(tower in scope.split("+") for scope in scopes)]
    base = parse(f"{RANKED_AT}-{'+'.join(towers)}")
    place = Place(engine.home, engine.settings, engine.progress, engine.pixel_budget, engine.skip_broken)
    ranking = rank(engine.suite, Asked(base, "layer", count, 8, parse_size("2GB", "cache")), place)
    if count > len(ranking.rows):
        raise SpecError(f"--per-layer {count}: {engine.model.name} has {len(ranking.rows)} layers. Name fewer.")
    units = [row.unit for row in ranking.worst_first[:count]]
    return tuple((unit.tower, layer) for unit in units for layer in unit.layers)
