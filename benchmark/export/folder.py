"""What lies in an exported folder: `reliquant.json`, packed weights, the report, a model card; nothing is code.

reliquant.json               ExportConfig: how it was quantized, what it is built from, digests
model.safetensors            packed codes, scales; unquantized parameters as they are
classes.safetensors          `text` (C, D): the class weights for serving, where the suite has classes
quantization_report.json     the QuantizationReport
base/                        tokenizer files and configurations of transformers parts, where there are any
record.json                  full precision's metrics and evidence, for `reliquant gate`, where there are any
README.md                    the model card

`reliquant.json` holds the SHA-256 of every other file; hidden files, which are never read, may come and go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from benchmark.errors import ModelError, SpecError
from benchmark.models.identity import read_json
from benchmark.models.preprocess import Preprocess
from benchmark.models.references import EXPORT_NAME
from benchmark.results.baseline import RECORD
from benchmark.spec import Frozen, Name, QuantSpec, parse_spec
from benchmark.utils.digests import file_digest

VERSION = 2
"""Of the folder's layout; a folder of another version is refused."""

WEIGHTS = "model.safetensors"
CLASSES = "classes.safetensors"
REPORT = "quantization_report.json"
CARD = "README.md"
LITTER = frozenset({"Thumbs.db", "desktop.ini"})
"""What systems leave in folders, beside hidden files."""
BASE = "base"
TEXT_MODEL = "text_model"
FILES = {EXPORT_NAME, WEIGHTS, CLASSES, REPORT, RECORD, CARD, BASE}
"""Everything that an exported folder holds."""


class Base(Frozen):
    """The full-precision model; `sha256` is its digest (`ResolvedModel.digest`).

    `tokenizer` and `text_model`: whether `base/` holds a transformers tokenizer, and `base/text_model/` the
    configuration of a transformers text tower.
    """

    ref: str
    name: Name
    family: str
    sha256: str
    parameters: int | None
    library: Literal["open_clip", "transformers", "planted"]
    architecture: dict[str, JsonValue]
    preprocess: Preprocess
    tokenizer: bool
    text_model: bool


class TunedScale(Frozen):
    """The logit scale with the lowest NLL on the data sets `fit`, as the evaluation `source` found it."""

    scale: float = Field(gt=0)
    source: str
    fit: tuple[str, ...]


class Classes(Frozen):
    """The classes that a served model tells apart, of the suite's data set `dataset`; `templates` as in its prompts."""

    dataset: str
    names: tuple[str, ...] = Field(min_length=2)
    templates: tuple[str, ...]


class ExportConfig(Frozen):
    """`reliquant.json`.

    Attributes:
        quantization: the QuantSpec; `short_name` is its name, for the reader.
        layers: name -> what `LayerState.about` says of it. same: tensor -> the one of equal content that is stored.
        files: SHA-256 of every file of the folder but this one, by its path there, with `/`.
        logit_scale, logit_bias: the model's own. tuned: the refitted scale, where it was evaluated.
        calibration: digest of the calibration pairs, where the method looked at them.
        provenance: versions, device, the command, ...; for the reader, part of no digest.
    """

    format: Literal[2]
    short_name: str
    quantization: QuantSpec
    base: Base
    layers: dict[str, dict[str, JsonValue]] = Field(min_length=1)
    same: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str]
    logit_scale: float = Field(gt=0)
    logit_bias: float
    tuned: TunedScale | None = None
    classes: Classes | None = None
    calibration: str | None = None
    provenance: dict[str, JsonValue] = Field(default_factory=dict)


def read_config(folder: Path) -> ExportConfig:
    """`reliquant.json` of a folder, all files there checked against the digests that it names.

    Raises:
        ModelError: a file is missing, damaged, added, or of another format version; the message names it.
    """
    path = folder / EXPORT_NAME
    content = read_json(path)
    if content.get("format") != VERSION:
        raise ModelError(
            f"{path}: format {content.get('format')!r}, this reliquant reads format {VERSION}; "
            "export the model again, or install the reliquant that wrote it"
        )
    try:
        config = parse_spec(ExportConfig, content, str(path))
    except SpecError as error:
        raise ModelError(str(error)) from None
    check_digests(folder, config.files)
    needed = [WEIGHTS, REPORT, *([CLASSES] if config.classes is not None else [])]
    if missing := [name for name in needed if name not in config.files]:
        raise ModelError(f"{path}: 'files' has no digest of {missing[0]}; export the model again")
    return config


def listed(folder: Path) -> list[str]:
    """Paths of all files in an exported folder but `reliquant.json`, with `/`, without hidden ones and `LITTER`.

    A link to a folder is listed as a file, which it is not.
    """
    found = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in links]
        names = [name for name in (*files, *links) if not name.startswith(".") and name not in LITTER]
        found += [Path(place, name).relative_to(folder).as_posix() for name in names]
    return sorted(name for name in found if name != EXPORT_NAME)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an exported folder, for `ExportConfig.files`."""
    return {name: file_digest(folder / name) for name in listed(folder)}


def check_digests(folder: Path, expected: Mapping[str, str]) -> None:
    """Refuse a folder whose files are not those that were written.

    Raises:
        ModelError: a file is missing, was added, or has another SHA-256.
    """
    present = listed(folder)
    if added := [name for name in present if name not in expected]:
        raise ModelError(f"{folder / added[0]}: not one of the files in {EXPORT_NAME}; remove it or export again")
    for name, digest in expected.items():
        if name not in present:
            raise ModelError(f"{folder / name}: no such file, though {EXPORT_NAME} names it; export the model again")
        try:
            found = file_digest(folder / name)
        except OSError as error:
            raise ModelError(f"{folder / name}: cannot be read ({error.strerror}); export the model again") from None
        if found != digest:
            raise ModelError(f"{folder / name}: damaged, its SHA-256 is not the one in {EXPORT_NAME}; export it again")
