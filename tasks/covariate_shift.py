"""Robustness to covariate shift: the same classes, other pictures (ImageNet-V2, -Sketch, -A, -R)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, FeatureBank, Metric, Outcome, UndefinedMetric, task
from benchmark.errors import DataError
from benchmark.metrics.classification import correct
from benchmark.metrics.robustness import relative_change
from benchmark.metrics.significance import (
    Comparison,
    accuracy_difference_interval,
    attempt,
    difference,
    draws_for,
    group_draws,
    sum_draws,
)
from tasks.figures import shift_bars


@task(
    "covariate_shift",
    version=2,
    needs=("source", "shifted"),
    shared_classes=("source", "shifted"),
    metrics=[
        Metric("accuracy", "higher", headline=True),
        Metric("source_accuracy", "higher"),
        Metric("gap", "lower"),
        Metric("relative_gap", "lower"),
        Metric("samples", "neither", unit="count"),
    ],
)
def covariate_shift(banks: Banks) -> Outcome:
    """Accuracy on shifted data, and what is lost against the source on the same classes.

    For each data set of the role `shifted`: `<data set>/accuracy`; `<data set>/source_accuracy` on the source images
    of the classes that both have, classified over the shifted data's classes (200 for ImageNet-A and -R);
    `gap = source_accuracy - accuracy`; `relative_gap = gap / source_accuracy`. The keys without a data set are the
    unweighted means over the shifted data sets.
    """
    source = banks["source"]
    metrics: dict[str, float] = {}
    notes: dict[str, str] = {}
    samples: dict[str, NDArray[Any]] = {"sample_id": source.sample_id}
    names = [bank.dataset for bank in banks.all("shifted")]
    for bank in banks.all("shifted"):
        hits = np.asarray(correct(bank.cosines(), bank.label))
        key = bank.dataset
        metrics |= {f"{key}/accuracy": float(hits.mean()), f"{key}/samples": float(len(bank))}
        samples |= {f"correct:{key}": hits, f"correct:{key}.sample_id": bank.sample_id}
        base = _source_on(source, bank)
        if base is None:
            why = f"'{source.dataset}' has no image of a class that is in '{key}' (a larger --limit may have)"
            notes |= {f"{key}/{measure}": why for measure in ("source_accuracy", "gap", "relative_gap")}
            continue
        base_hits = np.asarray(correct(base.cosines(), base.label))
        metrics[f"{key}/source_accuracy"] = float(base_hits.mean())
        metrics[f"{key}/gap"] = float(base_hits.mean() - hits.mean())
        try:
            metrics[f"{key}/relative_gap"] = relative_change(float(base_hits.mean()), float(hits.mean()))
        except UndefinedMetric as reason:
            notes[f"{key}/relative_gap"] = str(reason)
        samples |= {f"source_correct:{key}": base_hits, f"source_correct:{key}.sample_id": base.sample_id}
    for measure in ("accuracy", "source_accuracy", "gap", "relative_gap"):
        values = [metrics[f"{name}/{measure}"] for name in names if f"{name}/{measure}" in metrics]
        if len(values) == len(names):
            metrics[measure] = float(np.mean(values))
        else:
            notes[measure] = "undefined on at least one shifted data set"
    return Outcome(metrics, samples, notes=notes)


def _source_on(source: FeatureBank, shifted: FeatureBank) -> FeatureBank | None:
    """The source's images of the shared classes, relabelled to the shifted data's classes and class weights.

    None where the two share classes, but have no images of the same ones.

    Raises:
        DataError: the two share no class name.
    """
    translate = _translation(source.class_names, shifted.class_names)
    if (translate < 0).all():
        raise DataError(f"data sets '{source.dataset}' and '{shifted.dataset}' share no class")
    label = np.where(source.label < 0, -1, translate[source.label])
    present = set(shifted.label.tolist())
    keep = np.array([new in present for new in label.tolist()], dtype=bool)
    if not keep.any():
        return None
    rows = source.take(keep)
    return FeatureBank(
        dataset=source.dataset,
        image=rows.image,
        label=label[keep],
        sample_id=rows.sample_id,
        text=shifted.text,
        class_names=shifted.class_names,
        logit_scale=source.logit_scale,
        logit_bias=source.logit_bias,
    )


@covariate_shift.significance
def significance(quantized: Outcome, reference: Outcome) -> Mapping[str, Comparison | str]:
    """One accuracy: the outcome cells with McNemar's test. Gaps and means over data sets: bootstrap.

    The shifted data sets are independent of each other and of the source, each is resampled on its own; the source's
    images are resampled together, because the shifted data sets share them.
    """
    q, f = quantized.samples, reference.samples
    names = [name.removeprefix("correct:") for name in f if name.startswith("correct:") and ".sample_id" not in name]
    n = len(f["sample_id"])
    draws = draws_for(n + sum(len(f[f"correct:{name}"]) for name in names))
    compared = [name for name in names if f"source_correct:{name}" in f]
    source = [_source_draws(samples, compared, draws) for samples in (f, q)]
    found: dict[str, Comparison | str] = {}
    parts: list[dict[str, list[NDArray[np.float64]]]] = [{m: [] for m in ("accuracy", *_MEASURES)} for _ in (f, q)]
    for seed, name in enumerate(names):
        pair = f[f"correct:{name}"], q[f"correct:{name}"]
        shifted = group_draws(*pair, np.zeros(len(pair[0]), np.int64), draws=draws, seed=seed + 1)
        found[f"{name}/accuracy"] = accuracy_difference_interval(*pair)
        for part, s, accuracy in zip(parts, source, shifted, strict=True):
            part["accuracy"].append(accuracy[:, 0])
            for measure, function in _MEASURES.items() if name in compared else ():
                with np.errstate(divide="ignore", invalid="ignore"):
                    part[measure].append(function(s[name], accuracy[:, 0]))
        if name in compared:
            for measure in _MEASURES:
                found[f"{name}/{measure}"] = attempt(difference, *(part[measure][-1] for part in parts))
            sources = f[f"source_correct:{name}"], q[f"source_correct:{name}"]
            found[f"{name}/source_accuracy"] = accuracy_difference_interval(*sources)
    for measure in ("accuracy", *_MEASURES):
        if len(parts[0][measure]) == len(names):
            found[measure] = attempt(difference, *(np.mean(part[measure], axis=0) for part in parts))
    return found


_MEASURES: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]] = {
    "source_accuracy": lambda source, shifted: source,
    "gap": lambda source, shifted: source - shifted,
    "relative_gap": lambda source, shifted: (source - shifted) / source,
}
"""Measures that need both: by (accuracy on the source, accuracy on the shifted data)."""


def _source_draws(
    samples: Mapping[str, NDArray[Any]], names: Sequence[str], draws: int
) -> dict[str, NDArray[np.float64]]:
    """(1 + B,) accuracies on the source's images of each shifted data set's classes, on the same resamples."""
    ids = samples["sample_id"]
    columns = np.zeros((len(ids), 2 * len(names)))
    for i, name in enumerate(names):
        rows = np.searchsorted(ids, samples[f"source_correct:{name}.sample_id"])
        columns[rows, 2 * i] = samples[f"source_correct:{name}"]
        columns[rows, 2 * i + 1] = 1.0
    sums = np.concatenate([columns.sum(axis=0)[None], sum_draws(columns, draws=draws)[0]])
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: sums[:, 2 * i] / sums[:, 2 * i + 1] for i, name in enumerate(names)}


covariate_shift.draw(shift_bars)


def _translation(source: Sequence[str], shifted: Sequence[str]) -> NDArray[np.int64]:
    """(C,) for each class of the source its index among the shifted classes, -1 where it is not among them.

    Two classes may share a name (the usual ImageNet list has "missile" and "sunglasses" twice): they are matched in
    their order where both lists have as many of them, and all with the first otherwise.
    """
    places: dict[str, list[int]] = {}
    for index, name in enumerate(shifted):
        places.setdefault(name, []).append(index)
    counts, seen = Counter(source), Counter[str]()
    found = []
    for name in source:
        same = places.get(name, [-1])
        found.append(same[seen[name]] if len(same) == counts[name] else same[0])
        seen[name] += 1
    return np.array(found, dtype=np.int64)
