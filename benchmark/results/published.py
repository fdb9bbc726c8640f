"""The self-check of a loader: full precision against the top-1 accuracy that others have published for it.

A wrong activation, resize, prompt list or order of labels lowers every number of a model alike, so that no comparison
with full precision shows it. A difference beyond the 95 % interval of the own accuracy and `TOLERANCE` is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.ledger.records import Record
from benchmark.metrics.uncertainty import wilson
from benchmark.plugins import Task
from benchmark.spec import FP32, DataSpec, ModelSpec
from benchmark.spec.published import published_top1

TOLERANCE = 0.005
"""Half a point: what decoders, resizing libraries and prompt lists of the same content differ by."""
CHANCE = 3.0
"""An accuracy below so many times chance: the labels do not mean the classes."""


def checks(
    task: Task,
    prefix: str,
    roles: Mapping[str, Sequence[str]],
    data: Mapping[str, DataSpec],
    model: ModelSpec,
    metrics: Mapping[str, float],
    counts: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """What a record in full precision keeps of its comparison with published accuracies, one entry for each metric.

    Args:
        prefix: of the keys of `metrics`, `task/label/`. roles: role -> its data sets.
        counts: data set -> `images` and `classes` (`benchmark.engine.provenance.counts`).
    """
    found = []
    for metric in (m for m in task.metrics if m.top1_of):
        names, value = roles.get(metric.top1_of, ()), metrics.get(f"{prefix}{metric.name}")
        if len(names) != 1 or value is None or names[0] not in counts:
            continue
        seen = counts[names[0]]
        known = published_top1(model, data[names[0]], int(seen["classes"]))
        if known is None:
            continue
        low, high = wilson(value, int(seen["images"]))
        found.append(
            {
                "metric": f"{prefix}{metric.name}",
                "data": names[0],
                "value": value,
                "low": low,
                "high": high,
                "published": known[0],
                "source": known[1],
                "agrees": low - TOLERANCE <= known[0] <= high + TOLERANCE,
            }
        )
    return found


def agreeing(records: Iterable[Record]) -> list[str]:
    """One line for each accuracy in full precision that is the published one, as far as its images can tell."""
    return [
        f"{model} on {each['data']}: {_against(each)}: as published"
        for model, each, _ in _distinct(records)
        if each["agrees"]
    ]


def warnings(records: Iterable[Record]) -> list[str]:
    """One line for each accuracy in full precision that is not the published one, with likely causes."""
    return [
        f"{model} on {each['data']}: {_against(each)}, {each['source']}: the loading of model or data differs from the "
        f"publisher's; likely causes: {'; '.join(causes(each, about))}"
        for model, each, about in _distinct(records)
        if not each["agrees"]
    ]


def causes(check: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """Likely causes of a difference, those first for which the record has a sign.

    Args: check: an entry of `checks`. about: the record's provenance.
    """
    classes = about.get("counts", {}).get(check["data"], {}).get("classes", 0)
    chance = classes and check["value"] < CHANCE / classes
    simple = about.get("templates_origin", {}).get(check["data"]) == "simple"
    notes = " ".join(about.get("model", {}).get("notes", ()))
    built = " (this model is built with it)" if "built with QuickGELU" in notes else ""
    named = {
        f"the order of labels and class names{' (the accuracy is near chance)' if chance else ''}": bool(chance),
        f"prompt templates{' (the data set brings none)' if simple else ''}": simple,
        f"QuickGELU where the weights were trained with it, GELU elsewhere{built}": False,
        "preprocessing (size, resize, interpolation, mean and std)": False,
    }
    return sorted(named, key=lambda cause: not named[cause])


def _against(check: Mapping[str, Any]) -> str:
    own = f"top-1 accuracy {check['value']:.4f} [{check['low']:.4f}, {check['high']:.4f}] in full precision"
    return f"{own}, {check['published']:.4f} published"


def _distinct(records: Iterable[Record]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """(model, check, provenance), the same accuracy of several tasks once."""
    found: dict[tuple[Any, ...], tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {}
    for record in records:
        if record.quantization == FP32.name:
            for each in record.provenance.get("published", ()):
                found.setdefault((record.model, each["data"], each["value"]), (record.model, each, record.provenance))
    return list(found.values())
