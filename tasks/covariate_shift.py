"""Robustness to covariate shift: the same classes, other pictures (ImageNet-V2, -Sketch, -A, -R)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Answers, Banks, Columns, Errors, FeatureBank, Metric, NoOptions, Summary, UndefinedMetric, task
from benchmark.errors import DataError
from benchmark.metrics.classification import correct
from benchmark.metrics.robustness import relative_change

from .figures import dumbbells, grouped_bars


@task(
    "covariate_shift",
    version=3,
    needs=("source", "shifted"),
    shared_classes=("source", "shifted"),
    metrics=[
        Metric("accuracy", "higher", headline=True),
        Metric("source_accuracy", "higher", top1_of="source"),
        Metric("gap", "lower"),
        Metric("relative_gap", "lower"),
        Metric("samples", "neither", unit="count"),
    ],
)
def covariate_shift(banks: Banks, options: NoOptions) -> Columns:
    """Accuracy on shifted data, and what is lost against the source on the same classes.

    For each data set of the role `shifted`: `<data set>/accuracy`; `<data set>/source_accuracy` on the source images
    of the classes that both have, classified over the shifted data's classes (200 for ImageNet-A and -R);
    `gap = source_accuracy - accuracy`; `relative_gap = gap / source_accuracy`. The keys without a data set are the
    unweighted means over the shifted data sets.
    """
    source, shifted = banks["source"], banks.all("shifted")
    found = [_source_on(source, bank) for bank in shifted]
    hits, label = (np.stack(columns, axis=1) for columns in zip(*found, strict=True))
    groups = {"source": source.columns(correct=hits, label=label)}
    for bank in shifted:
        columns = bank.columns(correct=correct(bank.cosines(), bank.label), label=bank.label)
        groups[f"shifted:{bank.dataset}"] = columns
    return Columns(groups, {"source": np.array(source.dataset)})


@covariate_shift.summarise
def summarise(columns: Columns, options: NoOptions) -> Summary:
    """Accuracy on each shifted data set and on the source's images of its classes, and their means."""
    metrics: dict[str, float] = {}
    notes: dict[str, str] = {}
    names = _names(columns)
    for name in names:
        hits, base_hits = columns[f"shifted:{name}"]["correct"], _on_source(columns, name)[0]
        metrics |= {f"{name}/accuracy": float(hits.mean()), f"{name}/samples": float(len(hits))}
        if not len(base_hits):
            why = f"'{columns.about['source']}' has no image of a class that is in '{name}' (a larger --limit may have)"
            notes |= {f"{name}/{measure}": why for measure in _MEASURES}
            continue
        metrics[f"{name}/source_accuracy"] = float(base_hits.mean())
        metrics[f"{name}/gap"] = float(base_hits.mean() - hits.mean())
        try:
            metrics[f"{name}/relative_gap"] = relative_change(float(base_hits.mean()), float(hits.mean()))
        except UndefinedMetric as reason:
            notes[f"{name}/relative_gap"] = str(reason)
    for measure in ("accuracy", *_MEASURES):
        values = [metrics[f"{name}/{measure}"] for name in names if f"{name}/{measure}" in metrics]
        if len(values) == len(names):
            metrics[measure] = float(np.mean(values))
        else:
            notes[measure] = "undefined on at least one shifted data set"
    return Summary(metrics, notes=notes)


def _names(columns: Columns) -> list[str]:
    """The shifted data sets, in the order of the source's columns."""
    return [name.removeprefix("shifted:") for name in columns.groups if name != "source"]


def _on_source(columns: Columns, name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Hits on the source's images of the classes of which a shifted data set has images; and the mask of these."""
    source, column = columns["source"], _names(columns).index(name)
    kept = np.isin(source["label"][:, column], columns[f"shifted:{name}"]["label"])
    return source["correct"][kept, column], kept


def _source_on(source: FeatureBank, shifted: FeatureBank) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether the source's images of the shared classes are classified right by the shifted data's class weights.

    Returns:
        correct (N,), False for all other images; label (N,) among the shifted classes, -1 for all other images.

    Raises:
        DataError: the two share no class name.
    """
    translate = _translation(source.class_names, shifted.class_names)
    if (translate < 0).all():
        raise DataError(f"data sets '{source.dataset}' and '{shifted.dataset}' share no class")
    label = np.where(source.label < 0, -1, translate[source.label])
    label = np.where(np.isin(label, shifted.label), label, -1)
    kept, hits = label >= 0, np.zeros(len(source), dtype=bool)
    if kept.any():
        hits[kept] = correct(source.take(kept).cosines(shifted.text), label[kept])
    return hits, label


@covariate_shift.errors
def errors(columns: Columns, options: NoOptions, groups: Mapping[str, NDArray[Any]]) -> Errors:
    """Accuracies are shares of right answers; gaps and means get an added answer on every set by the delta method."""
    answers: dict[str, Answers] = {}
    slack: dict[str, float] = {}
    weights: list[tuple[float, float]] = []
    for name in _names(columns):
        group = f"shifted:{name}"
        answers[f"{name}/accuracy"] = Answers(group, columns[group]["correct"])
        hits, kept = _on_source(columns, name)
        shifted = 1.0 / len(columns[group]["correct"])
        if len(hits):
            column = _names(columns).index(name)
            answers[f"{name}/source_accuracy"] = Answers("source", columns["source"]["correct"][:, column], kept)
            source, accuracy = float(hits.mean()), float(columns[group]["correct"].mean())
            slack[f"{name}/gap"] = shifted**2 + len(hits) ** -2.0
            if source > 0:
                slack[f"{name}/relative_gap"] = (shifted / source) ** 2 + (accuracy / source**2 / len(hits)) ** 2
        weights.append((shifted, 1.0 / len(hits) if len(hits) else 0.0))
    sets = len(weights)
    own, source = sum(w**2 for w, _ in weights) / sets**2, (sum(w for _, w in weights) / sets) ** 2
    return Errors(answers=answers, slack=slack | {"accuracy": own, "source_accuracy": source, "gap": own + source})


_MEASURES = ("source_accuracy", "gap", "relative_gap")
"""Measures that need images of the source."""


@covariate_shift.draw
def draw(summary: Summary, reference: Summary | None) -> Mapping[str, Any]:
    """Accuracy on each shifted data set beside the source's on the same classes."""
    names = [key.removesuffix("/source_accuracy") for key in summary.metrics if key.endswith("/source_accuracy")]
    bars = {name: _sides(summary, f"{name}/") for name in sorted(names)}
    return {"covariate_shift": grouped_bars(bars, "Source and shifted accuracy, same classes")} if bars else {}


@covariate_shift.draw_all
def draw_all(summaries: Mapping[str, Summary]) -> Mapping[str, Any]:
    """Accuracy on the source and on shifted images of the same classes, means over the shifted data sets. The gap is
    what the shift costs.
    """
    defined = {name: summary for name, summary in summaries.items() if "gap" in summary.metrics}
    gaps = {name: _sides(summary) for name, summary in defined.items()}
    told = {name: f"gap {summary.metrics['gap']:.3f}" for name, summary in defined.items()}
    return {"shift_gaps": dumbbells(gaps, "Accuracy on the source and on shifted images", told)} if gaps else {}


def _sides(summary: Summary, below: str = "") -> dict[str, float]:
    return {"source": summary.metrics[f"{below}source_accuracy"], "shifted": summary.metrics[f"{below}accuracy"]}


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
