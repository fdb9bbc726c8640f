"""From a quantized model to a folder that holds it whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from benchmark.engine.embed import embed_images, embed_texts
from benchmark.errors import InputError, QuantizationError, StorageError
from benchmark.export.folder import BASE, CLASSES, FILES, REPORT, TEXT_MODEL, WEIGHTS, ExportConfig, digests
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.models.references import EXPORT_NAME, Recipe
from benchmark.quantization import LayerState, QuantizationReport
from benchmark.quantization.state import aliases
from benchmark.utils.processes import is_alive, is_gone, is_here, owner

OWNER = ".owner"
"""In a folder aside: which process writes it, until it is whole."""

_ASIDE = re.compile(r"\..+-(\d+)-[0-9a-f]{8}")
STALE_SECONDS = 24 * 3600
"""Age at which a folder aside of another machine counts as abandoned."""

PROBE_TEXTS = ("a photo of a dog", "a diagram", "the number seven on a red background")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder aside, which becomes `target` when everything in it is written.

    Raises:
        InputError: `target` is there already. StorageError: it cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"--to {target}: exists already; choose another folder or remove it first")
    aside = target.parent / f".{target.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    _remove_abandoned(target.parent)
    try:
        aside.mkdir(parents=True)
        (aside / OWNER).write_text(owner(), encoding="utf-8")
        yield aside
        (aside / OWNER).unlink()
        if target.is_dir():
            target.rmdir()
        aside.rename(target)
    except OSError as error:
        raise StorageError(f"--to {target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove what killed exports left in a folder: a folder aside says whose it is, of one without, its name tells."""
    for left in parent.glob(".*-*-*") if parent.is_dir() else ():
        match = _ASIDE.fullmatch(left.name)
        if match is None or not left.is_dir() or left.is_symlink():
            continue
        with suppress(OSError):  # another export was faster, or it is another user's
            place = left / OWNER
            if place.is_file():
                who = place.read_text(encoding="utf-8", errors="replace")
                old = time.time() - place.stat().st_mtime > STALE_SECONDS
                abandoned = is_gone(who) or (old and not is_here(who))
            else:  # killed before it was signed, or by the last step; or by an early version
                abandoned = {file.name for file in left.iterdir()} <= FILES and not is_alive(int(match[1]))
            if abandoned:
                shutil.rmtree(left)


def all_tensors(
    full: ClipModel, quantized: ClipModel, kept: Mapping[str, LayerState]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor to be stored, and name -> name of the one of equal content for those that need not be.

    Args:
        full: the model in full precision: its state dict names what must be there. kept: the quantized layers.
    """
    replaced = {f"{alias}.weight" for name in kept for alias in aliases(full.module, name)}
    changed = quantized.module.state_dict()
    tensors = {n: changed.get(n, value) for n, value in full.module.state_dict().items() if n not in replaced}
    same: dict[str, str] = {}
    first: dict[tuple[str, bytes], str] = {}
    for layer, state in kept.items():
        for part, value in state.tensors.items():
            name, content = f"{layer}.{part}", value.detach().cpu().contiguous()
            if part.startswith("transform.") and content.dim():  # all rotations of one width are the same matrices
                key = (str(tuple(content.shape)), content.numpy().tobytes())
                if first.setdefault(key, name) != name:
                    same[name] = first[key]
                    continue
            tensors[name] = content
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, same


def write_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `model.safetensors`."""
    _save(tensors, folder / WEIGHTS)


def write_classes(folder: Path, text: NDArray[np.float32]) -> None:
    """Write the class weights (C, D)."""
    _save({"text": torch.from_numpy(np.array(text, dtype=np.float32))}, folder / CLASSES)


def _save(tensors: Mapping[str, Tensor], file: Path) -> None:
    """As safetensors does, which alone would leave a file that only its owner may read: servers are other users."""
    file.touch()
    mode = file.stat().st_mode
    save_file(dict(tensors), file, metadata={"format": "pt"})
    file.chmod(mode)


def copy_base(folder: Path, recipe: Recipe) -> None:
    """Copy the tokenizer and the configurations of transformers parts."""
    for file in recipe.files:
        place = folder / BASE / TEXT_MODEL if file.parent == recipe.text_model else folder / BASE
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place / file.name)
    if recipe.library == "transformers":
        (folder / BASE / "config.json").write_text(json.dumps(dict(recipe.architecture), indent=1), encoding="utf-8")


def write_report(folder: Path, report: QuantizationReport) -> None:
    """Write `quantization_report.json`."""
    (folder / REPORT).write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")


def write_config(folder: Path, config: ExportConfig) -> None:
    """Write `reliquant.json` with the digests of all other files, which must be there."""
    config = config.model_copy(update={"files": digests(folder)})
    (folder / EXPORT_NAME).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")


def check_same(folder: Path, quantized: ClipModel, pixels: NDArray[np.uint8], device: str) -> None:
    """Load the folder and compare embeddings of some images and texts, bit by bit.

    Raises:
        QuantizationError: they differ, so this quantization cannot be exported.
    """
    stored = resolve(str(folder)).quantized
    if stored is None:
        raise QuantizationError(f"{folder} does not hold a quantized model")
    loaded, _ = stored.load(device, False)
    images = [embed_images(model, [pixels], lambda _: None)["image"] for model in (loaded, quantized)]
    texts = [embed_texts(model, PROBE_TEXTS) for model in (loaded, quantized)]
    for name, (found, expected) in (("image", images), ("text", texts)):
        if not np.array_equal(found, expected):
            worst = float(np.abs(found - expected).max())
            raise QuantizationError(
                f"the stored model's {name} features differ from those of the model it was stored from, by up to "
                f"{worst:.2g}; nothing was written"
            )
    if (loaded.logit_scale, loaded.logit_bias) != (quantized.logit_scale, quantized.logit_bias):
        raise QuantizationError("the stored model's logit scale or bias differ; nothing was written")
