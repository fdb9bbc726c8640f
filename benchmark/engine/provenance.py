"""Where a record comes from: versions, device, model, data, prompts, and images that were left out."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from benchmark.bank import FeatureBank
from benchmark.data import Data
from benchmark.engine.plan import Configuration, Plan
from benchmark.ledger.records import Record
from benchmark.quantization import requires_calibration
from benchmark.spec import ArtifactQuant, QuantSpec, digest

PACKAGES = (
    *("reliquant", "torch", "open_clip_torch", "timm", "transformers", "tokenizers"),
    *("bitsandbytes", "torchao", "openvino", "nncf", "onnx", "onnxscript", "onnxruntime", "numpy", "scipy", "pillow"),
)
"""What can change a number: models, tokens, kernels, decoding, corruptions, metrics."""

NAMED_SKIPPED = 20
"""A record names at most so many skipped images; it always has their number."""


def provenance(plan: Plan, configuration: Configuration) -> dict[str, Any]:
    """Provenance that all records of a configuration share.

    `settings` are the options that can change numbers or times; the driver adds `asked`, the rest of the command line.
    `calibrated_on` is the suite's name of the pairs that the quantization looks at; other quantizations have none.
    `quantized_model` names the QuantizationReport (`Configuration.quantized_key`). `templates_origin` gives for each
    data set with classes the origin of its prompts: `spec` (the suite or catalogue), `data` (its own files) or `simple`
    (none). `model.commits` and `origins` name the commits that models and data of the hub come from.
    """
    device = plan.settings.device
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions() | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "settings": settings(plan),
        "model": {
            "ref": configuration.model.ref,
            "digest": configuration.model.digest,
            "quantized": configuration.model.quantized is not None,
            "notes": list(configuration.model.notes),
            "commits": dict(configuration.model.commits),
        },
        "quantized_model": configuration.quantized_key,
        **_artifact(plan, configuration),
        "suite": plan.suite.name,
        "suite_version": plan.suite.version,
        "limit": plan.suite.limit,
        **_calibration(plan, configuration.quant),
        "data": _data(plan),
        "origins": {name.split("/")[0]: data.origin for name, data in plan.data.items() if data.origin},
        "templates_origin": templates_origin(plan),
    }


def _calibration(plan: Plan, quant: QuantSpec) -> dict[str, Any]:
    """The digest of the calibration pairs and, of a quantization that looks at them, what the suite calls them."""
    data = plan.pairs_of(quant)
    if data is None:
        return {"calibration": None}
    looked_at = not isinstance(quant, ArtifactQuant) and requires_calibration(quant)
    return {"calibration": data.digest, **({"calibrated_on": data.name} if looked_at else {})}


def _artifact(plan: Plan, configuration: Configuration) -> dict[str, Any]:
    """Of an artifact, under `artifact`: tower -> its runtime with version and provider, and its files' digests."""
    found = plan.artifacts.get(configuration.quant.name)
    if found is None or not isinstance(configuration.quant, ArtifactQuant):
        return {}
    kind = plan.settings.device.split(":")[0]
    return {"artifact": {tower: file.content(kind) for tower, file in found.towers.items()}}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # an extra
            found[name] = version(name)
    return found


def _data(plan: Plan) -> dict[str, str]:
    """Data set -> its digest; of a group of corrupted versions one of all of them."""
    groups: dict[str, list[str]] = {}
    for name, data in plan.data.items():
        groups.setdefault(name.split("/")[0], []).append(data.digest)
    return {name: found[0] if len(found) == 1 else digest(found) for name, found in groups.items()}


def settings(plan: Plan) -> dict[str, Any]:
    """How the models are run: device, batch size, precision and so on, and the integer arithmetic that follows."""
    known = plan.settings
    return {
        "device": known.device,
        "batch_size": known.batch_size,
        "precision": known.precision,
        "exact_float": known.exact_float,
        "compile": known.compile,
        "integer_engine": known.hashed()["integer_engine"],
    }


def templates_origin(plan: Plan) -> dict[str, str]:
    """Data set (a group of corrupted versions once) -> where its prompt templates come from."""
    with_classes = {n: d for n, d in plan.data.items() if d.spec.text == "classes"}
    return {name.split("/")[0]: data.templates_origin for name, data in with_classes.items()}


def skipped(plan: Plan, banks: Iterable[FeatureBank]) -> dict[str, dict[str, Any]]:
    """Data set -> `count` and the first `images` (sample ids) that could not be decoded; empty where there are none."""
    found: dict[str, dict[str, Any]] = {}
    for bank in banks:
        ids = plan.data[bank.dataset].sample_ids
        if len(bank) < len(ids):
            left_out = ids[~np.isin(ids, bank.sample_id)].tolist()
            found[bank.dataset] = {"count": len(left_out), "images": left_out[:NAMED_SKIPPED]}
    return found


def counts(plan: Plan, banks: Mapping[str, Sequence[FeatureBank]]) -> dict[str, dict[str, Any]]:
    """Data set (a group of corrupted versions once) -> what of it an evaluation looked at.

    `images` over all `versions`; `classes` of its label space and `classes_present`, those with an image; `roles`; and,
    where there are any, `empty_classes` of the whole data set and `left_out`, files that are no images of it.
    """
    found: dict[str, dict[str, Any]] = {}
    present: dict[str, set[int]] = {}
    for role, bound in banks.items():
        for bank in bound:
            name = bank.dataset.split("/")[0]
            empty = {"images": 0, "versions": 0, "classes": len(bank.class_names), "classes_present": 0, "roles": []}
            about = found.setdefault(name, empty)
            if role not in about["roles"]:
                about["roles"].append(role)
            if bank.dataset not in present:
                about["images"] += len(bank)
                about["versions"] += 1
            present[bank.dataset] = set(np.unique(bank.label[bank.label >= 0]).tolist())
            about["classes_present"] = max(about["classes_present"], len(present[bank.dataset]))
            data = plan.data[bank.dataset]
            if data.empty_classes:
                about["empty_classes"] = {"count": len(data.empty_classes), "names": _first(data.empty_classes)}
            if data.left_out:
                about["left_out"] = left_out(data)
    return found


def left_out(data: Data) -> dict[str, dict[str, Any]]:
    """Why files are not among the images -> `count` and the first `files`."""
    reasons: dict[str, list[str]] = {}
    for aside in data.left_out:
        path = aside.path.encode("utf-8", "backslashreplace").decode()  # names of other systems need not be UTF-8
        reasons.setdefault(aside.why, []).append(path)
    return {why: {"count": len(paths), "files": _first(paths)} for why, paths in reasons.items()}


def _first(names: Sequence[str]) -> list[str]:
    return list(names[:NAMED_SKIPPED])


def prompts(maker_prompts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Data set -> what the tokenizer did to its prompts, where it cut some or two classes became one."""
    found = {name.split("/")[0]: about for name, about in maker_prompts.items()}
    return {
        name: {**about, "equal": list(about.get("equal", ()))[:NAMED_SKIPPED]}
        for name, about in found.items()
        if about.get("cut") or about.get("equal")
    }


def data_warnings(data: Mapping[str, Data]) -> list[str]:
    """What is not in the data sets: one line for files left out, one for classes without an image."""
    lines = []
    for name, single in {name.split("/")[0]: single for name, single in data.items()}.items():
        told = [
            f"{about['count']} {why} ({', '.join(about['files'][:2])}{', ...' if about['count'] > 2 else ''})"
            for why, about in left_out(single).items()
        ]
        if told:
            count = len(single.left_out)
            lines.append(f"data set '{name}': {count} file{'s' * (count > 1)} left out: {'; '.join(told)}")
        if (empty := single.empty_classes) and not single.spec.allow_empty_classes:
            shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
            lines.append(f"data set '{name}': {len(empty)} of {single.classes} classes have no image: {shown}")
    return lines


def prompt_warnings(records: Sequence[Record], data: Mapping[str, Data]) -> list[str]:
    """One line for each model and data set whose prompts its tokenizer cuts, or that it cannot tell apart: records that
    were made while the suite allowed that are found again when it does not.
    """
    told = {
        (record.model, name): about
        for record in records
        for name, about in record.provenance.get("prompts", {}).items()
    }
    equal = [
        f"data set '{name}': {model} cannot tell classes '{data[name].class_names[first]}' and "
        f"'{data[name].class_names[second]}' apart; these results were allowed to have that"
        for (model, name), about in told.items()
        if name in data and not data[name].equal_prompts
        for first, second in about["equal"][:1]
    ]
    found = {key: about for key, about in told.items() if about.get("cut")}
    return equal + [
        f"data set '{name}': {about['cut']} of {about['prompts']} prompts are longer than the context of {model} and "
        f"are cut, e.g. '{about['example']}'"
        for (model, name), about in found.items()
    ]


def template_warnings(plan: Plan) -> list[str]:
    """One line for each data set that has classes but brings no prompt templates."""
    return [
        f"data set '{name}' brings no prompt templates: \"a photo of a {{}}.\" is used; give it 'templates:'"
        for name, origin in templates_origin(plan).items()
        if origin == "simple"
    ]


def skipped_warnings(records: Sequence[Record]) -> list[str]:
    """One line for each data set of these records from which broken images were left out."""
    found = {name: entry for record in records for name, entry in record.provenance.get("skipped", {}).items()}
    return [
        f"data set '{name}': {entry['count']} broken images left out ({', '.join(map(str, entry['images'][:3]))}"
        + (", ...)" if entry["count"] > 3 else ")")
        for name, entry in found.items()
    ]


def failure_lines(failed: Sequence[Record]) -> list[str]:
    """One line for each reason: what failed under which quantization."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for record in failed:
        reason = (record.model, record.quantization, record.error or "")
        reasons.setdefault(reason, []).append(f"{record.task}/{record.dataset}")
    return [
        f"failed: {model}, {quantization}: {', '.join(names)}: {error}"
        for (model, quantization, error), names in reasons.items()
    ]
