"""From an exported folder to the quantized model, the same replacement modules as in the run that found it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import ModelError, QuantizationError
from benchmark.export.folder import BASE, REPORT, TEXT_MODEL, WEIGHTS, ExportConfig, read_config
from benchmark.models.identity import display_name, model_digest, read_json, tokenizer_files
from benchmark.models.references import EXPORT_NAME, EXPORTED, Quantized, Recipe, Reference, ResolvedModel, folder_of
from benchmark.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchmark.models.base import ClipModel
    from benchmark.quantization import QuantizationReport


class ExportedReference(Reference):
    """A folder that `reliquant export` wrote."""

    name = EXPORTED

    def resolve(self, spec: ModelSpec, *, download: bool = True) -> ResolvedModel:
        """As `benchmark.models.resolve`."""
        return resolve_exported(spec, folder_of(spec.ref))


reference = ExportedReference()


def resolve_exported(spec: ModelSpec, folder: Path) -> ResolvedModel:
    """An exported folder as a model; its files are hashed, not loaded.

    Raises:
        ModelError: the folder is damaged or of another version.
    """
    config = read_config(folder)
    recipe = _recipe(config, folder)
    files = (folder / WEIGHTS, *recipe.files)
    about = config.model_dump(mode="json", include={"format", "quantization", "layers", "same"})
    content = model_digest({**about, "architecture": config.base.architecture}, config.base.preprocess, files)
    name = spec.name or display_name(spec.ref)

    def load(device: str, exact_float: bool) -> tuple[ClipModel, QuantizationReport]:
        return _load(config, folder, recipe, (name, content), device, exact_float)

    return ResolvedModel(
        spec,
        name,
        config.base.family,
        content,
        files,
        config.base.parameters,
        config.base.preprocess,
        lambda device: load(device, False)[0],
        recipe,
        Quantized(config.quantization, config.base.sha256, load),
    )


def _recipe(config: ExportConfig, folder: Path) -> Recipe:
    tokenizer = folder / BASE if config.base.tokenizer else None
    text_model = folder / BASE / TEXT_MODEL if config.base.text_model else None
    if tokenizer and not tokenizer_files(tokenizer):
        raise ModelError(f"{tokenizer}: the tokenizer's files are missing; export the model again")
    if text_model and not (text_model / "config.json").is_file():
        raise ModelError(f"{text_model / 'config.json'}: no such file; export the model again")
    return Recipe(config.base.library, config.base.architecture, tokenizer, text_model).checked(
        str(folder / EXPORT_NAME)
    )


def _load(
    config: ExportConfig, folder: Path, recipe: Recipe, identity: tuple[str, str], device: str, exact_float: bool
) -> tuple[ClipModel, QuantizationReport]:
    from benchmark.models.checkpoint import read_state
    from benchmark.quantization import quantizers

    method = quantizers.get(config.quantization.method)
    method.check(config.quantization)
    method.check_available(device.partition(":")[0])
    path = folder / WEIGHTS
    tensors = read_state(path)
    try:
        tensors |= {name: tensors[stored] for name, stored in config.same.items()}
    except KeyError as error:
        raise ModelError(f"{path}: tensor {error} is missing; export the model again") from None
    model = _full(config, folder, recipe, identity, device, tensors)
    engines = _rebuild(model, config, tensors, path, exact_float)
    return model, _report(folder / REPORT, engines, config)


def _full(
    config: ExportConfig,
    folder: Path,
    recipe: Recipe,
    identity: tuple[str, str],
    device: str,
    tensors: Mapping[str, Tensor],
) -> ClipModel:
    """The model with all parameters right but the weights of the quantized layers."""
    from benchmark.models import linear_towers, open_clip, transformers
    from benchmark.models.checkpoint import fill

    path = folder / WEIGHTS

    def restore(module: nn.Module) -> None:
        own = module.state_dict()
        replaced = {f"{alias}.weight" for name in config.layers for alias in _aliases(module, name, folder)}
        states = tuple(f"{name}." for name in config.layers)
        given = {n: t for n, t in tensors.items() if n in own or not n.startswith(states)}
        fill(module, given | {name: own[name] for name in replaced}, path)

    (name, content), base = identity, config.base
    if base.library == "transformers":
        return transformers.load(name, base.family, content, folder / BASE, base.preprocess, device, restore)
    if base.library == "planted":
        variant = linear_towers.variant_of(base.architecture.get("variant"), str(folder / EXPORT_NAME))
        return linear_towers.build(name, content, variant, base.preprocess, device, restore)
    source = open_clip.Source(name, base.family, content, recipe, base.preprocess, path)
    return open_clip.load(source, device, restore)


def _aliases(module: nn.Module, name: str, folder: Path) -> list[str]:
    from benchmark.quantization.state import aliases

    try:
        return aliases(module, name)
    except AttributeError:
        raise ModelError(f"{folder}: its architecture has no layer '{name}'; export the model again") from None


def _rebuild(
    model: ClipModel, config: ExportConfig, tensors: Mapping[str, Tensor], path: Path, exact_float: bool
) -> dict[str, str]:
    """Put the quantized layers in their places; the engine of each."""
    from torch import nn

    from benchmark.quantization import LayerState, quantizers
    from benchmark.quantization.state import put

    method, engines = quantizers.get(config.quantization.method), {}
    for name, about in config.layers.items():
        layer = model.module.get_submodule(name)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise ModelError(f"{path}: '{name}' is a {type(layer).__name__} in this architecture, not a layer")
        prefix = f"{name}."
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix) and n != f"{prefix}bias"}
        try:
            module, engines[name] = method.rebuild(config.quantization, layer, LayerState(about, own), exact_float)
        except (ModelError, QuantizationError) as error:
            raise ModelError(f"{path}: layer '{name}': {error}") from error
        put(model.module, name, module)
    return engines


def _report(path: Path, engines: Mapping[str, str], config: ExportConfig) -> QuantizationReport:
    """The report of the quantization, with the engines of this machine."""
    from benchmark.quantization import QuantizationReport

    stored: dict[str, Any] = read_json(path)
    try:
        report = QuantizationReport.from_json(stored)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: no report of a quantization ({error}); export the model again") from None
    towers = {}
    for name, tower in report.towers.items():
        layers = tuple(replace(layer, engine=engines.get(layer.name, layer.engine)) for layer in tower.layers)
        found = [layer.engine for layer in layers]
        towers[name] = replace(tower, layers=layers, engines={e: found.count(e) for e in sorted(set(found))})
    note = f"loaded from an exported folder; quantized from {config.base.ref}"
    return replace(report, towers=towers, notes=(*report.notes, note))
