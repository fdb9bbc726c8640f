"""Robustness to synthetic corruptions (CIFAR-10-C, ImageNet-C and the like)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, FeatureBank, Metric, Outcome, UndefinedMetric, task
from benchmark.errors import DataError
from benchmark.metrics.classification import correct
from benchmark.metrics.robustness import mean_corruption_error, mean_corruption_error_alexnet, relative_robustness
from benchmark.spec import Frozen
from tasks.figures import severity_curves


class CorruptionOptions(Frozen):
    """`alexnet: true` also gives mCE against AlexNet's published errors: for ImageNet-C at 224 px only."""

    alexnet: bool = False


@task(
    "corruption",
    version=1,
    needs=("clean", "corrupted"),
    options=CorruptionOptions,
    metrics=[
        Metric("accuracy", "higher", headline=True),
        Metric("clean_accuracy", "higher"),
        Metric("relative_robustness", "higher", unit="ratio"),
        Metric("mce_fp32", "lower", unit="ratio"),
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
        metrics["mce_alexnet"] = mean_corruption_error_alexnet(_errors(metrics))
    samples = {"sample_id": base.sample_id, "correct": hits}
    if len(clean) == len(base):
        samples["correct_clean"] = clean
    return Outcome(metrics, samples, {"variants": np.array([f"{k}/{s}" for k, s in names])}, notes)


@corruption.compare
def against_full_precision(quantized: Outcome, reference: Outcome) -> Outcome:
    """mCE with full precision as reference; undefined where full precision makes no error on some type."""
    try:
        mce = mean_corruption_error(_errors(quantized.metrics), _errors(reference.metrics))
    except UndefinedMetric as reason:
        return Outcome({}, notes={"mce_fp32": str(reason)})
    return Outcome({"mce_fp32": mce})


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
