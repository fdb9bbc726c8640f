"""Robustness to synthetic corruptions (CIFAR-10-C, ImageNet-C and the like)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Answers, Banks, Columns, Errors, FeatureBank, Metric, Summary, UndefinedMetric, task
from benchmark.errors import DataError
from benchmark.metrics.classification import correct
from benchmark.metrics.robustness import (
    ALEXNET_ERROR,
    mean_corruption_error,
    mean_corruption_error_alexnet,
    relative_robustness,
)
from benchmark.spec import Frozen

from .figures import curves, heat_map, staged


class CorruptionOptions(Frozen):
    """`alexnet: true` also gives mCE against AlexNet's published errors: for ImageNet-C at 224 px only.

    It is taken over the 15 standard types; the 4 extra ones may be there.
    """

    alexnet: bool = False


@task(
    "corruption",
    version=3,
    needs=("clean", "corrupted"),
    same_classes=("clean", "corrupted"),
    options=CorruptionOptions,
    metrics=[
        Metric("accuracy", "higher", headline=True),
        Metric("clean_accuracy", "higher"),
        Metric("relative_robustness", "higher", unit="ratio"),
        Metric("mean_corruption_error_fp32", "lower", unit="ratio", neutral=1.0),
        Metric("mean_corruption_error_alexnet", "lower", unit="ratio"),
        Metric("samples", "neither", unit="count"),
    ],
)
def corruption(banks: Banks, options: CorruptionOptions) -> Columns:
    """Accuracy under noise, blur, weather and digital corruptions of growing severity.

    Keys: `accuracy` is the mean over types and severities, `<type>/accuracy` over severities,
    `severity_<s>/accuracy` over types, `<type>/<s>/accuracy` one of them. `relative_robustness` is accuracy over
    `clean_accuracy`, on the same images. `mean_corruption_error_fp32` has full precision as reference.
    """
    variants = banks.all("corrupted")
    names, base, clean = _variant_names(variants), variants[0], banks["clean"]
    groups = {"corrupted": base.columns(correct=np.stack([_correct_like(bank, base) for bank in variants], axis=1))}
    about = {"variants": np.array([f"{kind}/{severity}" for kind, severity in names])}
    same = _rows_of(clean, base)
    if same is not None:
        chosen = clean.take(same)
        groups["corrupted"]["correct_clean"] = correct(chosen.cosines(), chosen.label)
    else:
        groups["clean"] = clean.columns(correct=correct(clean.cosines(), clean.label))
        about["clean"] = np.array(clean.dataset)
    return Columns(groups, about)


@corruption.summarise
def summarise(columns: Columns, options: CorruptionOptions) -> Summary:
    """Means over images, then over severities and types."""
    names, values = _names(columns), _accuracies(columns)
    metrics = {f"{kind}/{severity}/accuracy": values[kind, severity] for kind, severity in names}
    kinds = sorted({kind for kind, _ in names})
    metrics |= {f"{kind}/accuracy": _mean(values, kind=kind) for kind in kinds}
    for severity in sorted({severity for _, severity in names}):
        metrics[f"severity_{severity}/accuracy"] = _mean(values, severity=severity)
    metrics["accuracy"] = float(np.mean([metrics[f"{kind}/accuracy"] for kind in kinds]))
    metrics["samples"] = float(len(columns["corrupted"]["correct"]))
    metrics["clean_accuracy"] = float(_clean(columns).mean())
    notes: dict[str, str] = {}
    if "clean" in columns:
        notes["clean_accuracy"] = (
            f"over all of '{columns.about['clean']}': its sample ids do not pair with the corrupted ones"
        )
    try:
        metrics["relative_robustness"] = relative_robustness(metrics["accuracy"], metrics["clean_accuracy"])
    except UndefinedMetric as reason:
        notes["relative_robustness"] = str(reason)
    if options.alexnet:
        standard = {kind: errors for kind, errors in _errors(values).items() if kind in ALEXNET_ERROR}
        metrics["mean_corruption_error_alexnet"] = mean_corruption_error_alexnet(standard)
    return Summary(metrics, {"variants": columns.about["variants"]}, notes)


def _names(columns: Columns) -> list[tuple[str, int]]:
    """Type and severity of each column of `correct`."""
    split = [str(variant).rpartition("/") for variant in columns.about["variants"]]
    return [(kind, int(severity)) for kind, _, severity in split]


def _accuracies(columns: Columns) -> dict[tuple[str, int], float]:
    """(type, severity) -> accuracy."""
    means = columns["corrupted"]["correct"].mean(axis=0)
    return {name: float(mean) for name, mean in zip(_names(columns), means, strict=True)}


def _clean(columns: Columns) -> NDArray[np.bool_]:
    """Correctness on the clean versions of the corrupted images; on all clean images where ids do not pair."""
    return columns["clean"]["correct"] if "clean" in columns else columns["corrupted"]["correct_clean"]


@corruption.compare
def against_full_precision(quantized: Columns, reference: Columns, options: CorruptionOptions) -> Summary:
    """mCE with full precision as reference; undefined where full precision makes no error on some type."""
    try:
        mce = mean_corruption_error(*(_errors(_accuracies(columns)) for columns in (quantized, reference)))
    except UndefinedMetric as reason:
        return Summary({}, notes={"mean_corruption_error_fp32": str(reason)})
    return Summary({"mean_corruption_error_fp32": mce})


@corruption.errors
def errors(columns: Columns, options: CorruptionOptions, groups: Mapping[str, NDArray[Any]]) -> Errors:
    """One variant, and the clean images, have one answer an image; means leave out images with all their variants."""
    hits = columns["corrupted"]["correct"]
    answers = {
        f"{kind}/{s}/accuracy": Answers("corrupted", hits[:, at]) for at, (kind, s) in enumerate(_names(columns))
    }
    clean = Answers("clean" if "clean" in columns else "corrupted", _clean(columns))
    return Errors(answers=answers | {"clean_accuracy": clean})


def _variant_names(variants: Sequence[FeatureBank]) -> list[tuple[str, int]]:
    names = []
    for bank in variants:
        if bank.corruption is None or bank.severity is None:
            raise DataError(f"data set '{bank.dataset}' stands for corrupted images, but is not corrupted")
        names.append((bank.corruption, bank.severity))
    if len(set(names)) != len(names):
        raise DataError("a corruption stands twice among the corrupted data sets")
    return names


def _correct_like(bank: FeatureBank, base: FeatureBank) -> NDArray[np.bool_]:
    """(N,) correctness, in the order of the base images: statistics resample base images, not variants."""
    if not np.array_equal(bank.sample_id, base.sample_id):
        raise DataError(f"data sets '{base.dataset}' and '{bank.dataset}' hold other base images, or another order")
    return np.asarray(correct(bank.cosines(), bank.label))


def _rows_of(clean: FeatureBank, base: FeatureBank) -> NDArray[np.int64] | None:
    """The row of each base image among the clean ones; None where the ids do not pair."""
    position = {sample: i for i, sample in enumerate(clean.sample_id.tolist())}
    index = [position.get(sample, -1) for sample in base.sample_id.tolist()]
    return None if -1 in index else np.array(index, dtype=np.int64)


def _mean(values: Mapping[tuple[str, int], float], kind: str | None = None, severity: int | None = None) -> float:
    chosen = [v for (k, s), v in values.items() if kind in (None, k) and severity in (None, s)]
    return float(np.mean(chosen))


def _errors(values: Mapping[tuple[str, int], float]) -> dict[str, list[float]]:
    """Error rates by type, in order of severity."""
    return {
        kind: [1.0 - values[k, severity] for k, severity in sorted(values) if k == kind]
        for kind in dict.fromkeys(kind for kind, _ in values)
    }


@corruption.draw
def draw(summary: Summary, reference: Summary | None) -> Mapping[str, Any]:
    """Accuracy at each severity, mean over the corruption types; and accuracy by type and severity."""
    lines = {label: _by_severity(stage) for label, stage in staged(summary, reference).items()}
    titles = ("Accuracy under corruption", "severity (0: clean)", "accuracy")
    cells = [str(name).rpartition("/") for name in summary.tables["variants"]]
    kinds, severities = sorted({kind for kind, _, _ in cells}), sorted({int(s) for _, _, s in cells})
    values = np.full((len(kinds), len(severities)), np.nan)
    for kind, _, severity in cells:
        accuracy = summary.metrics[f"{kind}/{severity}/accuracy"]
        values[kinds.index(kind), severities.index(int(severity))] = accuracy
    return {
        "severity_curves": curves(lines, *titles, points=True, heights=(0, 1)),
        "corruption_heatmap": heat_map(values, kinds, [str(s) for s in severities], titles=MAP_TITLES),
    }


MAP_TITLES = ("Accuracy by type and severity", "severity")


def _by_severity(summary: Summary) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Severities from 0, which is clean, and the accuracy at each."""
    keys = {int(k.partition("/")[0][9:]): k for k in summary.metrics if k.startswith("severity_")}
    found = {0: summary.metrics["clean_accuracy"]} | {s: summary.metrics[keys[s]] for s in sorted(keys)}
    return np.array(list(found), dtype=np.float64), np.array(list(found.values()))
