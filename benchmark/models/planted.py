"""`planted:VARIANT`: the model of the positive control, identified without being built and without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.demo import planted
from benchmark.errors import UnknownNameError
from benchmark.models.identity import ADAPTER_VERSION
from benchmark.models.preprocess import Preprocess
from benchmark.models.references import Recipe, Reference, ResolvedModel
from benchmark.spec import ModelSpec, digest
from benchmark.utils.digests import file_digest

if TYPE_CHECKING:
    from benchmark.models.base import ClipModel

TOWERS = Path(__file__).parent / "linear_towers.py"
"""The code that builds the module; like that of the world it is part of the model's digest."""
PREPROCESS = Preprocess((planted.SIDE, planted.SIDE), (0.5,) * 3, (0.5,) * 3)


class PlantedReference(Reference):
    """`planted:gain`, `planted:mirror`, `planted:null`; `planted` alone is `planted:gain`."""

    name = "planted"

    def resolve(self, spec: ModelSpec, *, download: bool = True) -> ResolvedModel:
        """As `benchmark.models.resolve`.

        Raises:
            UnknownNameError: no such variant.
        """
        variant = spec.ref.partition(":")[2] or "gain"
        if variant not in planted.READS:
            raise UnknownNameError("variant of the planted model", variant, planted.READS)
        content = digest(["planted", ADAPTER_VERSION, file_digest(TOWERS), planted.content(), variant])
        name = spec.name or f"planted-{variant}"

        def loader(device: str) -> ClipModel:
            from benchmark.models.linear_towers import build, variant_of

            return build(name, content, variant_of(variant, spec.ref), PREPROCESS, device)

        recipe = Recipe("planted", {"variant": variant})
        return ResolvedModel(spec, name, "linear", content, (), None, PREPROCESS, loader, recipe)


reference = PlantedReference()
