"""What one forward pass of a model costs, from its configuration: no weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import ReliquantError
from benchmark.models import ResolvedModel, resolve
from benchmark.models.catalogue import published_parameters
from benchmark.models.identity import read_json
from benchmark.models.pretrained import architectures
from benchmark.spec import ModelSpec

POSITIONS, VISION_SHARE = 150, 0.6
"""Assumed for unknown architectures: positions per weight and image, and the vision tower's share of the weights."""
CONTEXT, SIZE, DIMENSION = 77, 224, 640
"""Where a configuration names no other: tokens of a text, pixels of an image's side, dimensions of the joint space."""


@dataclass(frozen=True)
class ModelCost:
    """One model: FLOPs of an image and of a text (None: its size is not known), and what its features and pixels take.

    Attributes:
        side: pixels of an image's side. dimension: of the joint space.
        resolved: the model where it is on this machine. missing: else why not.
    """

    ref: str
    image: float | None
    text: float
    side: tuple[int, int]
    dimension: int
    resolved: ResolvedModel | None
    missing: str = ""


def cost_of(spec: ModelSpec) -> ModelCost:
    """The cost of a model: 2 x weights x positions (a transformer: 12 x layers x width^2 weights). Fetches nothing."""
    resolved, missing = None, ""
    try:
        resolved = resolve(spec, download=False)
    except ReliquantError as error:
        missing = f"model {spec.ref}: {error}"
    parameters = published_parameters(spec.ref)
    if resolved is not None:
        parameters = resolved.parameters or parameters
    known = architecture(spec.ref, resolved.files if resolved else ())
    vision, text = known.get("vision_cfg", {}), known.get("text_cfg", {})
    image: float | None = None if parameters is None else 2 * parameters * VISION_SHARE * POSITIONS
    caption = 0.0 if parameters is None else 2 * parameters * (1 - VISION_SHARE) * POSITIONS
    side = _side(vision.get("image_size", SIZE)) if resolved is None else resolved.preprocess.size
    if isinstance(vision.get("layers"), int) and vision.get("patch_size"):
        image = _transformer(vision, side[0] * side[1] / vision["patch_size"] ** 2 + 1)
    if isinstance(text.get("layers"), int) and text.get("width"):
        caption = _transformer(text, text.get("context_length", CONTEXT))
    return ModelCost(spec.ref, image, caption, side, known.get("embed_dim", DIMENSION), resolved, missing)


def _side(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) else (int(size), int(size))


def _transformer(tower: Mapping[str, Any], positions: float) -> float:
    return float(2 * 12 * tower["layers"] * tower["width"] ** 2 * positions)


def architecture(ref: str, files: Sequence[Path]) -> dict[str, Any]:
    """open_clip's configuration of a model, from its own file or by `NAME/PRETRAINED`; empty for others."""
    for file in files:
        beside = file.parent / "open_clip_config.json"
        if beside.is_file():
            return dict(read_json(beside).get("model_cfg", {}))
    name, slash, _ = ref.partition("/")
    known = architectures() if slash and ":" not in name else {}
    return read_json(known[name]) if name in known else {}
