"""Where a record comes from: versions, device, model, data, prompts, and images that were left out."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from benchmark.bank import FeatureBank
from benchmark.engine.plan import Configuration, Plan
from benchmark.ledger.records import Record

PACKAGES = ("reliquant", "torch", "open_clip_torch", "bitsandbytes", "numpy")
NAMED_SKIPPED = 20
"""A record names at most so many skipped images; it always has their number."""


def provenance(plan: Plan, configuration: Configuration) -> dict[str, Any]:
    """Provenance that all records of a configuration share.

    `settings` are the options that can change numbers or times; the driver adds `asked`, the rest of the command line.
    `quantized_model` names the QuantizationReport (`Configuration.quantized_key`). `templates_origin` gives for each
    data set with classes the origin of its prompts: `spec` (the suite or catalogue), `data` (its own files) or `simple`
    (none).
    """
    device = plan.settings.device
    whole = {name: data for name, data in plan.data.items() if "/" not in name}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "settings": settings(plan),
        "model": {
            "ref": configuration.model.ref,
            "digest": configuration.model.digest,
            "quantized": configuration.model.quantized is not None,
            "notes": list(configuration.model.notes),
        },
        "quantized_model": configuration.quantized_key,
        "suite": plan.suite.name,
        "suite_version": plan.suite.version,
        "limit": plan.suite.limit,
        "calibration": plan.calibration.digest if plan.calibration else None,
        "data": {name: data.digest for name, data in whole.items()},
        "templates_origin": templates_origin(plan),
    }


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
