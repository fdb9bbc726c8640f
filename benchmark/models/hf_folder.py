"""`transformers:PATH` and `transformers:ORG/NAME`: the files of a transformers model, without building it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import ModelError
from benchmark.models import hub
from benchmark.models.checkpoint import read_header
from benchmark.models.identity import TOKENIZER_FILES, display_name, model_digest, read_json, tokenizer_files
from benchmark.models.preprocess import from_transformers
from benchmark.models.references import Recipe, Reference, ResolvedModel
from benchmark.spec import ModelSpec

if TYPE_CHECKING:
    from benchmark.models.base import ClipModel

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
    """`transformers:PATH` and `transformers:ORG/NAME`."""

    name = "transformers"

    def resolve(self, spec: ModelSpec, *, download: bool = True) -> ResolvedModel:
        """As `benchmark.models.resolve`."""
        return resolve(spec, download=download)


reference = TransformersReference()


def resolve(spec: ModelSpec, *, download: bool = True) -> ResolvedModel:
    """As `benchmark.models.resolve`, for `transformers:PATH` and `transformers:ORG/NAME`."""
    place = spec.ref.removeprefix(PREFIX)
    folder = Path(place).expanduser()
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", place) or place.startswith("."):
            raise ModelError(f"{place}: no such folder (from --model {spec.ref})")
        folder = _fetch(place, download)
    config = read_json(folder / "config.json")
    processor, where = _read_processor(folder)
    preprocess = from_transformers(processor, where)
    weights = _weights(folder)
    if not tokenizer_files(folder):  # the library would make up an empty one
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
    return ResolvedModel(spec, name, family, content, files, parameters, preprocess, loader, recipe)


def _fetch(repository: str, download: bool) -> Path:
    """The cached snapshot of a hub repository with everything that loading needs."""
    folder = hub.fetch(repository, ["config.json"], download=download).parent
    hub.fetch(repository, PROCESSOR_FILES, download=download)
    hub.fetch_folder(repository, TOKENIZER_FILES, download=download)
    weights = hub.fetch(repository, ["model.safetensors", INDEX], download=download)
    if weights.name == INDEX:
        for shard in sorted(set(read_json(weights).get("weight_map", {}).values())):
            hub.fetch(repository, [shard], download=download)
    return folder


def _weights(folder: Path) -> tuple[Path, ...]:
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder}: model.safetensors is missing (other formats are not read)")
    shards = tuple(folder / str(name) for name in sorted(set(read_json(folder / INDEX).get("weight_map", {}).values())))
    for shard in shards:
        if not shard.is_file():
            raise ModelError(f"{shard}: no such file, though {INDEX} names it")
    return shards


def _read_processor(folder: Path) -> tuple[Mapping[str, Any], str]:
    """The image processor's configuration and the file that it stands in."""
    for name in PROCESSOR_FILES:
        if (folder / name).is_file():
            data = read_json(folder / name)
            return data.get("image_processor", data), str(folder / name)
    raise ModelError(f"{folder}: {PROCESSOR_FILES[0]} is missing; save the model's image processor there")
