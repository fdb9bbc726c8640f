"""`transformers:PATH`, `transformers:ORG/NAME[@REVISION]`: the files of a transformers model, without building it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import ModelError
from benchmark.models import hub
from benchmark.models.checkpoint import read_header
from benchmark.models.identity import TOKENIZER_FILES, display_name, model_digest, read_json, tokenizer_files
from benchmark.models.preprocess import from_transformers
from benchmark.models.references import Recipe, Reference, ResolvedModel, fetch_tokenizer
from benchmark.models.untrusted import check_transformers
from benchmark.spec import ModelSpec

if TYPE_CHECKING:
    from benchmark.models.base import ClipModel
    from benchmark.utils.hub import Snapshot

PREFIX = "transformers:"
FAMILIES = {
    "clip": "ViT",
    "align": "ALIGN",
    "siglip": "SigLIP",
    "altclip": "AltCLIP",
    "chinese_clip": "ChineseCLIP",
    "metaclip_2": "MetaCLIP2",
}
"""transformers' `model_type` -> family; any other type is its own family."""

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
INDEX = "model.safetensors.index.json"


class TransformersReference(Reference):
    """`transformers:PATH` and `transformers:ORG/NAME[@REVISION]`."""

    name = "transformers"

    def resolve(self, spec: ModelSpec, *, download: bool = True) -> ResolvedModel:
        """As `benchmark.models.resolve`."""
        return resolve(spec, download=download)


reference = TransformersReference()


def resolve(spec: ModelSpec, *, download: bool = True) -> ResolvedModel:
    """As `benchmark.models.resolve`, for `transformers:PATH` and `transformers:ORG/NAME[@REVISION]`."""
    place = spec.ref.removeprefix(PREFIX)
    folder, snapshot = Path(place).expanduser(), None
    if not folder.is_dir():
        if place.startswith((".", "/", "~")) or "/" not in place:
            raise ModelError(f"{place}: no such folder (from --model {spec.ref})")
        snapshot = _fetch(hub.open_model(hub.repository_of(place, spec.ref), download=download))
        folder = snapshot.folder
    check_transformers(folder)
    config = read_json(folder / "config.json")
    processor, where = _read_processor(folder)
    preprocess = from_transformers(processor, where)
    weights = _weights(folder)
    if not tokenizer_files(folder):  # the library would create an empty one
        raise ModelError(f"{folder}: the tokenizer is missing; put {', '.join(TOKENIZER_FILES[:2])} there")
    files = (*weights, *tokenizer_files(folder))
    content = model_digest(config, preprocess, files)
    name = spec.name or display_name(spec.ref)
    kind = str(config.get("model_type"))
    family = FAMILIES.get(kind, kind)
    parameters = sum(math.prod(shape) for path in weights for shape in read_header(path).values())

    def loader(device: str) -> ClipModel:
        from benchmark.models.transformers import load

        return load(name, family, content, folder, preprocess, device)

    recipe = Recipe("transformers", config, folder)
    commits = hub.commits(snapshot)
    return ResolvedModel(spec, name, family, content, files, parameters, preprocess, loader, recipe, commits=commits)


def _fetch(snapshot: Snapshot) -> Snapshot:
    """The snapshot of a hub repository with everything that loading needs."""
    snapshot.take(["config.json"])
    snapshot.take(PROCESSOR_FILES)
    fetch_tokenizer(snapshot)
    weights = snapshot.take(["model.safetensors", INDEX])
    if weights.name == INDEX:
        snapshot.fetch(_shards(weights))
    snapshot.keep()
    return snapshot


def _weights(folder: Path) -> tuple[Path, ...]:
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder}: model.safetensors is missing (other formats are not read)")
    shards = tuple(folder / name for name in _shards(folder / INDEX))
    for shard in shards:
        if not shard.is_file():
            raise ModelError(f"{shard}: no such file, though {INDEX} names it")
    return shards


def _shards(index: Path) -> list[str]:
    """Names of the weight files that an index names: safetensors beside it, nothing else."""
    parts = read_json(index).get("weight_map")
    names = set(map(str, parts.values())) if isinstance(parts, dict) else set()
    wrong = sorted(name for name in names if Path(name).name != name or not name.endswith(".safetensors"))
    if wrong or not names:
        found = repr(wrong[0]) if wrong else "none"
        raise ModelError(f"{index}: 'weight_map' must name safetensors files beside it (got {found})")
    return sorted(names)


def _read_processor(folder: Path) -> tuple[Mapping[str, Any], str]:
    """The image processor's configuration and the file that it stands in."""
    for name in PROCESSOR_FILES:
        if (folder / name).is_file():
            data = read_json(folder / name)
            return data.get("image_processor", data), str(folder / name)
    raise ModelError(f"{folder}: {PROCESSOR_FILES[0]} is missing; save the model's image processor there")
