"""Robustness to synthetic corruptions (CIFAR-10-C, ImageNet-C and the like)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, FeatureBank, Metric, Outcome, UndefinedMetric, task
from benchmark.errors import DataError
from benchmark.metrics.classification import correct
from benchmark.metrics.robustness import (
    ALEXNET_ERROR,
    mean_corruption_error,
    mean_corruption_error_alexnet,
    relative_robustness,
)
from benchmark.metrics.significance import (
    Comparison,
    accuracy_difference_interval,
    attempt,
    difference,
    draws_for,
    mcnemar_exact,
    sum_draws,
)
from benchmark.spec import Frozen
from tasks.figures import severity_curves


class CorruptionOptions(Frozen):
    """`alexnet: true` also gives mCE against AlexNet's published errors: for ImageNet-C at 224 px only.

    It is taken over the 15 standard types; the 4 extra ones may be there.
    """

    alexnet: bool = False


@task(
    "corruption",
    version=2,
    needs=("clean", "corrupted"),
    same_classes=("clean", "corrupted"),
    options=CorruptionOptions,
    metrics=[
        Metric("accuracy", "higher", headline=True),
        Metric("clean_accuracy", "higher"),
        Metric("relative_robustness", "higher", unit="ratio"),
        Metric("mce_fp32", "lower", unit="ratio", neutral=1.0),
        Metric("mce_alexnet", "lower", unit="ratio"),
        Metric("samples", "neither", unit="count"),
    ],
)
def corruption(banks: Banks) -> Outcome:
    """Accuracy under noise, blur, weather and digital corruptions of growing severity.

    Keys: `accuracy` is the mean over types and severities, `<type>/accuracy` over severities,
    `severity_<s>/accuracy` over types, `<type>/<s>/accuracy` one of them. `relative_robustness` is accuracy over
    `clean_accuracy`, on the same images. `mce_fp32` is the mean corruption error with full precision as reference.
    """
    variants = banks.all("corrupted")
    names = _variant_names(variants)
    base = variants[0]
    hits = np.stack([_correct_like(bank, base) for bank in variants], axis=1)
    values = {name: float(column.mean()) for name, column in zip(names, hits.T, strict=True)}
    kinds = sorted({kind for kind, _ in names})
    severities = sorted({severity for _, severity in names})
    metrics = {f"{kind}/{severity}/accuracy": value for (kind, severity), value in values.items()}
    metrics |= {f"{kind}/accuracy": _mean(values, kind=kind) for kind in kinds}
    metrics |= {f"severity_{severity}/accuracy": _mean(values, severity=severity) for severity in severities}
    metrics |= {"accuracy": float(np.mean([metrics[f"{kind}/accuracy"] for kind in kinds]))}
    metrics["samples"] = float(len(base))
    notes: dict[str, str] = {}
    clean = _paired_clean(banks["clean"], base, notes)
    metrics["clean_accuracy"] = float(clean.mean())
    try:
        metrics["relative_robustness"] = relative_robustness(metrics["accuracy"], metrics["clean_accuracy"])
    except UndefinedMetric as reason:
        notes["relative_robustness"] = str(reason)
    if banks.options.alexnet:
        standard = {kind: errors for kind, errors in _errors(metrics).items() if kind in ALEXNET_ERROR}
        metrics["mce_alexnet"] = mean_corruption_error_alexnet(standard)
    samples: dict[str, NDArray[Any]] = {"sample_id": base.sample_id, "correct": hits, "correct_clean": clean}
    if "clean_accuracy" in notes:
        samples["correct_clean.sample_id"] = banks["clean"].sample_id
    return Outcome(metrics, samples, {"variants": np.array([f"{k}/{s}" for k, s in names])}, notes)


@corruption.compare
def against_full_precision(quantized: Outcome, reference: Outcome) -> Outcome:
    """mCE with full precision as reference; undefined where full precision makes no error on some type."""
    try:
        mce = mean_corruption_error(_errors(quantized.metrics), _errors(reference.metrics))
    except UndefinedMetric as reason:
        return Outcome({}, notes={"mce_fp32": str(reason)})
    return Outcome({"mce_fp32": mce})


@corruption.significance
def significance(quantized: Outcome, reference: Outcome) -> Mapping[str, Comparison | str]:
    """Bootstrap over base images, each of which brings all its variants along, for all means at once.

    One variant alone and the clean images have one answer per image: McNemar's p value for those.
    """
    names = [str(name) for name in reference.tables["variants"]]
    if [str(name) for name in quantized.tables["variants"]] != names:
        raise DataError("the two evaluations have other corruptions")
    a, b = (_resampled(outcome) for outcome in (reference, quantized))
    found = {key: attempt(difference, a[key], b[key]) for key in a if key in b}
    hits = [outcome.samples["correct"] for outcome in (reference, quantized)]
    for column, name in enumerate(names):
        key = f"{name}/accuracy"
        found[key] = attempt(difference, a[key], b[key], p=mcnemar_exact(hits[0][:, column], hits[1][:, column]))
    found["clean_accuracy"] = accuracy_difference_interval(
        reference.samples["correct_clean"], quantized.samples["correct_clean"]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        kinds = {name.split("/")[0] for name in names}
        relative = np.mean([(1.0 - b[f"{kind}/accuracy"]) / (1.0 - a[f"{kind}/accuracy"]) for kind in kinds], axis=0)
    found["mce_fp32"] = attempt(difference, np.ones(len(relative)), relative)
    return found


def _resampled(outcome: Outcome) -> dict[str, NDArray[np.float64]]:
    """(1 + B,) values of each accuracy: observed, then on the resamples, which are the same for every outcome."""
    hits = outcome.samples["correct"].astype(np.float64)
    n = len(hits)
    paired_clean = "correct_clean.sample_id" not in outcome.samples
    if paired_clean:
        hits = np.column_stack([hits, outcome.samples["correct_clean"]])
    values = np.concatenate([hits.sum(axis=0)[None], sum_draws(hits, draws=draws_for(n))[0]]) / n
    names = [_name(str(variant)) for variant in outcome.tables["variants"]]
    columns = dict(zip(names, values.T, strict=False))
    metrics = {f"{kind}/{severity}/accuracy": column for (kind, severity), column in columns.items()}
    kinds = sorted({kind for kind, _ in names})
    for kind in kinds:
        metrics[f"{kind}/accuracy"] = np.mean([columns[name] for name in names if name[0] == kind], axis=0)
    for severity in {severity for _, severity in names}:
        of_severity = [columns[name] for name in names if name[1] == severity]
        metrics[f"severity_{severity}/accuracy"] = np.mean(of_severity, axis=0)
    metrics["accuracy"] = np.mean([metrics[f"{kind}/accuracy"] for kind in kinds], axis=0)
    if paired_clean:
        with np.errstate(divide="ignore", invalid="ignore"):
            metrics["relative_robustness"] = metrics["accuracy"] / values[:, -1]
    return metrics


def _name(variant: str) -> tuple[str, int]:
    kind, _, severity = variant.rpartition("/")
    return kind, int(severity)


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


def _paired_clean(clean: FeatureBank, base: FeatureBank, notes: dict[str, str]) -> NDArray[np.bool_]:
    """Correctness on the clean versions of the corrupted images; on all clean images where ids do not pair."""
    position = {sample: i for i, sample in enumerate(clean.sample_id.tolist())}
    index = [position.get(sample) for sample in base.sample_id.tolist()]
    if any(i is None for i in index):
        notes["clean_accuracy"] = f"over all of '{clean.dataset}': its sample ids do not pair with the corrupted ones"
        chosen = clean
    else:
        chosen = clean.take(np.array(index, dtype=np.int64))
    return np.asarray(correct(chosen.cosines(), chosen.label))


def _mean(values: Mapping[tuple[str, int], float], kind: str | None = None, severity: int | None = None) -> float:
    chosen = [v for (k, s), v in values.items() if kind in (None, k) and severity in (None, s)]
    return float(np.mean(chosen))


def _errors(metrics: Mapping[str, float]) -> dict[str, list[float]]:
    """Error rates by type, in order of severity, from the `<type>/<s>/accuracy` keys."""
    found: dict[str, dict[int, float]] = {}
    for key, value in metrics.items():
        parts = key.split("/")
        if len(parts) == 3 and parts[2] == "accuracy":
            found.setdefault(parts[0], {})[int(parts[1])] = 1.0 - value
    return {kind: [errors[s] for s in sorted(errors)] for kind, errors in found.items()}


corruption.draw(severity_curves)
