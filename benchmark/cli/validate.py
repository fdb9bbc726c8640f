"""`reliquant validate`: the work of a suite, what this machine lacks for it, and its rough cost."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmark.cli.requests import ValidateRequest
from benchmark.data import Data, DataSets, expand
from benchmark.engine.include import include_files
from benchmark.engine.label_spaces import check_captions
from benchmark.engine.plan import calibration_of, check_suite, open_of, unavailable_here, unavailable_lines
from benchmark.engine.provenance import data_warnings
from benchmark.errors import ReliquantError, SpecError
from benchmark.models import resolve
from benchmark.models.catalogue import published_parameters
from benchmark.models.identity import read_json
from benchmark.models.pretrained import architectures
from benchmark.quantization import quantizers
from benchmark.results.images import described
from benchmark.runtimes.artifact import resolve_artifact
from benchmark.spec import ModelSpec, QuantSpec, SuiteSpec
from benchmark.spec.artifacts import artifacts_of
from benchmark.spec.catalogue import catalogue
from benchmark.spec.suite import limit_of, load_suite
from benchmark.utils.output import out
from benchmark.utils.progress import open_progress

POSITIONS, VISION_SHARE = 150, 0.6
"""Assumed for unknown architectures: positions per weight and image, and the vision tower's share of the weights."""

CONTEXT = 77
"""Tokens of a caption where a model's configuration names no other number: CLIP's own."""

FEW = 5
"""Images of a class below which its accuracy says nothing."""

BANK_BYTES = 4 * 640
"""Bytes of the stored features of an image or a caption: float32, joint spaces have 512 to 1152 dimensions."""


@dataclass(frozen=True)
class Survey:
    """The result of a survey.

    Attributes:
        images: images that one configuration embeds, where data sets or the catalogue tell; `unknown` names the rest.
        captions: captions that tasks look at, which the text tower embeds; of the data sets that are here.
        missing: one line for each model and data set that is not on this machine, with the reason.
        data: data set -> its images and classes, for those that are here. warnings: classes with few images or none,
            files that are left out. unavailable: quantization -> why this CPU cannot run it, if the suite skips such.
        seconds: rough time on this machine, None where no number of parameters is known.
        bank_bytes: rough size of all stored features.
    """

    suite: SuiteSpec
    models: int
    quantizations: int
    artifacts: int
    evaluations: int
    images: int
    captions: int
    unknown: tuple[str, ...]
    missing: tuple[str, ...]
    data: Mapping[str, str]
    warnings: tuple[str, ...]
    unavailable: Mapping[str, str]
    seconds: float | None
    bank_bytes: int

    @property
    def configurations(self) -> int:
        """Models x quantizations, and the artifacts."""
        return self.models * self.quantizations + self.artifacts

    def to_json(self) -> dict[str, Any]:
        """Its numbers and lists, the suite by name."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**own, "suite": self.suite.name, "configurations": self.configurations}


def survey(suite: SuiteSpec, allow_outside: bool = False) -> Survey:
    """Check a suite and look for its models and data; decodes, loads and runs nothing.

    Raises:
        ReliquantError: the suite itself is wrong. Models and data that are only missing here are listed instead.
    """
    quants, bindings, groups = check_suite(suite)
    missing: list[str] = _missing_artifacts(suite)
    costs = [cost for model in suite.models if (cost := _forward_flops(model, missing)) is not None]
    images, unknown, opened = 0, [], dict[str, Data]()
    sets = DataSets(allow_outside)
    for name in groups:
        count = _count(suite, name, missing, opened, sets)
        if count is None:
            unknown.append(name)
        else:
            images += count * len(groups[name])
    for task, label, b in bindings:
        here = {role: [opened[name] for name in b.data(role) if name in opened] for role in b.roles}
        check_captions(task, here, f"suite '{suite.name}': tasks.{task.name}.{label}")
    _check_calibration(suite, quants, opened)
    asked = {n for task, _, b in bindings for role in task.captions if role in b.roles for n in b.data(role)}
    captions = sum(len(groups[n]) * sum(map(len, opened[n].captions or ())) for n in asked if n in opened)
    artifacts = sum(len(artifacts_of(suite, model)) for model in suite.models)
    flops = (sum(image for image, _ in costs) * images + sum(text for _, text in costs) * captions) * len(quants)
    return Survey(
        suite=suite,
        models=len(suite.models),
        quantizations=len(quants),
        artifacts=artifacts,
        evaluations=(len(suite.models) * len(quants) + artifacts) * len(bindings),
        images=images,
        captions=captions,
        unknown=tuple(unknown),
        missing=tuple(missing),
        data={name: described(_about(data, len(groups[name]))) for name, data in opened.items()},
        unavailable=unavailable_here(quants) if suite.skip_unavailable else {},
        warnings=(*data_warnings(opened), *_few(opened)),
        seconds=flops / flops_per_second() if costs else None,
        bank_bytes=(images + captions) * BANK_BYTES * (len(quants) * len(suite.models) + artifacts),
    )


def _missing_artifacts(suite: SuiteSpec) -> list[str]:
    """Why artifacts cannot be run here, on the CPU."""
    found = []
    for name, spec in suite.artifacts.items():
        try:
            resolve_artifact(name, spec, "cpu")
        except ReliquantError as error:
            found.append(str(error))
    return found


def report(found: Survey) -> str:
    """The survey in words."""
    lines = [
        f"suite '{found.suite.name}' is valid: {found.models} models x {found.quantizations} quantizations"
        f"{f' + {found.artifacts} artifacts' if found.artifacts else ''} = "
        f"{found.configurations:,} configurations",
        f"{found.evaluations:,} evaluations",
        f"{found.images:,} images for each configuration"
        + (f" (size unknown: {', '.join(found.unknown)})" if found.unknown else ""),
    ]
    if found.captions:
        lines.append(f"{found.captions:,} captions for each configuration")
    if found.seconds is not None:
        hours = found.seconds / 3600
        time = f"{hours:,.1f} hours" if hours >= 1 else f"{math.ceil(found.seconds / 60)} minutes"
        size = f"{found.bank_bytes / 1e9:,.1f} GB"
        lines += [f"roughly {time} of forward passes on this CPU (a factor of 3 either way)", f"{size} of features"]
    lines += [f"  {name}: {text}" for name, text in found.data.items()]
    if found.missing:
        lines += [f"missing here ({len(found.missing)}):", *(f"  {line}" for line in _by_reason(found.missing))]
    else:
        lines.append("all its models and data are on this machine")
    return "\n".join(lines)


def _by_reason(missing: Sequence[str]) -> list[str]:
    """One line per reason that several models share; data sets keep their own lines, which name a path."""
    names: dict[str, list[str]] = {}
    for line in missing:
        name, _, reason = line.partition(": ")
        common = reason.partition(": ")[2] if name.startswith("model ") else ""
        names.setdefault(common or reason, []).append(name)
    return [f"{', '.join(found)}: {reason}" for reason, found in names.items()]


def flops_per_second() -> float:
    """Measured FLOP/s of this CPU on a float32 matrix product."""
    import torch

    first = torch.randn(1024, 1024)
    first @ first  # warm-up
    start, count = perf_counter(), 0
    while perf_counter() - start < 0.3:
        first @ first
        count += 1
    return 2 * 1024**3 * count / (perf_counter() - start)


def _forward_flops(spec: ModelSpec, missing: list[str]) -> tuple[float, float] | None:
    """FLOPs of one image and of one caption: 2 x weights x positions (a transformer: 12 x layers x width^2 weights)."""
    parameters = published_parameters(spec.ref)
    files: Sequence[Path] = ()
    try:
        resolved = resolve(spec)
    except ReliquantError as error:
        missing.append(f"model {spec.ref}: {error}")
    else:
        parameters, files = resolved.parameters or parameters, resolved.files
    known = architecture(spec.ref, files)
    vision, text = known.get("vision_cfg", {}), known.get("text_cfg", {})
    image: float | None = None if parameters is None else 2 * parameters * VISION_SHARE * POSITIONS
    caption = 0.0 if parameters is None else 2 * parameters * (1 - VISION_SHARE) * POSITIONS
    if isinstance(vision.get("layers"), int) and vision.get("patch_size"):
        image = _transformer_flops(vision, (vision["image_size"] / vision["patch_size"]) ** 2 + 1)
    if isinstance(text.get("layers"), int) and text.get("width"):
        caption = _transformer_flops(text, text.get("context_length", CONTEXT))
    return None if image is None else (image, caption)


def _transformer_flops(tower: Mapping[str, Any], positions: float) -> float:
    return float(2 * 12 * tower["layers"] * tower["width"] ** 2 * positions)


def architecture(ref: str, files: Sequence[Path]) -> dict[str, Any]:
    """open_clip's configuration of a model, from its own file or by `NAME/PRETRAINED`; empty for others."""
    for file in files:
        if file.name == "open_clip_config.json":
            return dict(json.loads(file.read_text(encoding="utf-8")).get("model_cfg", {}))
    name, slash, _ = ref.partition("/")
    known = architectures() if slash and ":" not in name else {}
    return read_json(known[name]) if name in known else {}


def _about(data: Data, versions: int) -> dict[str, int]:
    """What `benchmark.results.images.described` wants."""
    present = len(np.unique(data.labels[data.labels >= 0])) if data.spec.text == "classes" else 0
    classes = data.classes if data.spec.text == "classes" else 0
    return {"images": versions * len(data), "versions": versions, "classes": classes, "classes_present": present}


def _few(opened: Mapping[str, Data]) -> list[str]:
    """One line that names the data sets with classes of few images; a limit that the suite asks for is no surprise."""
    found = []
    for name, data in opened.items():
        if data.spec.text != "classes" or data.spec.limit is not None:
            continue
        labels, counts = np.unique(data.labels[data.labels >= 0], return_counts=True)
        least = int(counts.argmin()) if len(counts) else 0
        if few := int((counts < FEW).sum()):
            example = f"{data.class_names[labels[least]]}: {counts[least]}"
            found.append(f"'{name}' ({few} of {data.classes}, e.g. {example})")
    return [f"classes with under {FEW} images, in data set {', '.join(found)}"] if found else []


def _check_calibration(suite: SuiteSpec, quants: Sequence[QuantSpec], opened: Mapping[str, Data]) -> None:
    """Check that calibration data are named, and fit, where a quantization looks at them; absent ones are listed."""
    for quant in quants:
        asks = quantizers.get(quant.method).requires_calibration(quant)
        if asks and (suite.calibration is None or suite.calibration in opened):
            calibration_of(suite, quant, opened.get(suite.calibration or ""))


def _count(suite: SuiteSpec, name: str, missing: list[str], opened: dict[str, Data], sets: DataSets) -> int | None:
    """Images of one data set: counted where it is here (and put into `opened`), from the catalogue where it is not.

    Raises:
        SpecError: calibration pairs without `text: captions`.
    """
    spec, limit = suite.data[name], limit_of(suite, name)
    single = next(iter(expand(name, spec).values()))
    try:
        opened[name] = open_of(suite, single, name, sets)
        count: int | None = len(opened[name])
    except SpecError:
        raise
    except ReliquantError as error:
        entries = [e for e in catalogue().values() if (e.spec.source, e.spec.path) == (spec.source, spec.path)]
        hub = next((f" (on the hub: {e.hub})" for e in entries if e.hub is not None), "")
        missing.append(f"{error}{hub}")
        count = next((e.images for e in entries if e.images is not None), None)
    return count if count is None or limit is None else min(count, limit)


def validate_suite(request: ValidateRequest) -> None:
    """Check a suite and print its work and what is missing here."""
    include_files(request.include)
    suite = load_suite(request.suite, request.data, request.catalogues)
    with open_progress(request.quiet):
        found = survey(suite, request.allow_outside)
    if request.json:
        print(json.dumps(found.to_json()), file=out())
    elif not request.quiet:
        print(report(found))
    if not request.quiet:
        for line in unavailable_lines(found.unavailable):
            print(line, file=sys.stderr)
        for line in found.warnings:
            print(f"warning: {line}", file=sys.stderr)
