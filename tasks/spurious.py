"""Reliance on spurious correlations: the same classes on their common and on other backgrounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Answers, Banks, Columns, Errors, Metric, NoOptions, Summary, UndefinedMetric, task
from benchmark.metrics.classification import answer_weights, correct
from benchmark.metrics.robustness import delta_rsg, group_accuracies, rsg, vuln_add

from .figures import dumbbells, grouped_bars, staged

SIDES = ("common", "counter")


@task(
    "spurious",
    version=3,
    needs=("common", "counter"),
    same_classes=("common", "counter"),
    words={
        "rsg": "relative spurious gap, (common − counter) / common of the accuracies on common and counter backgrounds"
    },
    metrics=[
        Metric("accuracy_common", "higher", top1_of="common"),
        Metric("accuracy_counter", "higher", top1_of="counter"),
        Metric("gap", "lower"),
        Metric("rsg", "lower", headline=True),
        Metric("worst_group_accuracy", "higher"),
        Metric("mean_group_accuracy", "higher"),
        Metric("delta_rsg", "lower", neutral=0.0),
        Metric("vuln_add", "lower", neutral=0.0),
        Metric("samples_common", "neither", unit="count"),
        Metric("samples_counter", "neither", unit="count"),
    ],
)
def spurious(banks: Banks, options: NoOptions) -> Columns:
    """How much accuracy is lost when a class stands on an unusual background.

    `rsg = (accuracy_common - accuracy_counter) / accuracy_common`, the relative spurious gap. Against full precision
    (f): `delta_rsg = rsg(q) - rsg(f)` and `vuln_add = delta(counter) - delta(common)` with
    `delta = (A(f) - A(q)) / A(f)`, which tells a stronger bias from a plain loss of accuracy. Where the data has
    groups, worst and mean group accuracy over both sets together.
    """
    groups = {}
    for side in SIDES:
        bank = banks[side]
        groups[side] = bank.columns(correct=correct(bank.cosines(), bank.label), label=bank.label)
        if bank.group is not None:
            groups[side]["group"] = bank.group
    return Columns(groups, {"class_names": np.array(banks["common"].class_names)})


@spurious.summarise
def summarise(columns: Columns, options: NoOptions) -> Summary:
    """Accuracy on either background, by group and by class, and the gaps between the two."""
    common, counter = _accuracies(columns)
    metrics = {
        "accuracy_common": common,
        "accuracy_counter": counter,
        "gap": common - counter,
        "samples_common": float(len(columns["common"]["correct"])),
        "samples_counter": float(len(columns["counter"]["correct"])),
    }
    notes: dict[str, str] = {}
    try:
        metrics["rsg"] = rsg(common, counter)
    except UndefinedMetric as reason:
        notes["rsg"] = str(reason)
    if all("group" in columns[side] for side in SIDES):
        hits, groups = (np.concatenate([columns[side][name] for side in SIDES]) for name in ("correct", "group"))
        accuracies = group_accuracies(hits, groups)
        metrics["worst_group_accuracy"] = min(accuracies.values())
        metrics["mean_group_accuracy"] = float(np.mean(list(accuracies.values())))
    else:
        notes["worst_group_accuracy"] = "the data sets have no groups"
    return Summary(metrics, _per_class(columns), notes)


def _accuracies(columns: Columns) -> tuple[float, float]:
    """On common and on counter backgrounds."""
    return float(columns["common"]["correct"].mean()), float(columns["counter"]["correct"].mean())


def _per_class(columns: Columns) -> dict[str, NDArray[Any]]:
    """Table `per_class`: a row for each class of both sets, accuracy and number of images on either background.

    A class that has no images on one of them has NaN there: a mean of nothing.
    """
    present = np.union1d(columns["common"]["label"], columns["counter"]["label"])
    table: dict[str, NDArray[Any]] = {"per_class.class": columns.about["class_names"][present]}
    for side in SIDES:
        label, size = columns[side]["label"], int(present.max()) + 1
        count = np.bincount(label, minlength=size)[present]
        right = np.bincount(label, weights=columns[side]["correct"], minlength=size)[present]
        accuracy = np.full(len(present), np.nan)
        np.divide(right, count, out=accuracy, where=count > 0)
        table |= {f"per_class.accuracy_{side}": accuracy, f"per_class.samples_{side}": count}
    return table


@spurious.compare
def against_full_precision(quantized: Columns, reference: Columns, options: NoOptions) -> Summary:
    """`delta_rsg` and `vuln_add`; undefined where an accuracy that they divide by is zero."""
    found: dict[str, float] = {}
    notes: dict[str, str] = {}
    for name, function in (("delta_rsg", delta_rsg), ("vuln_add", vuln_add)):
        try:
            found[name] = function(*_accuracies(reference), *_accuracies(quantized))
        except UndefinedMetric as reason:
            notes[name] = str(reason)
    return Summary(found, notes=notes)


@spurious.errors
def errors(columns: Columns, options: NoOptions, groups: Mapping[str, NDArray[Any]]) -> Errors:
    """Accuracies are shares of right answers; the gaps get an added answer on either side by the delta method."""
    answers = {f"accuracy_{side}": Answers(side, columns[side]["correct"]) for side in SIDES}
    common, counter = _accuracies(columns)
    one = [1.0 / len(columns[side]["correct"]) for side in SIDES]
    slack = {"gap": one[0] ** 2 + one[1] ** 2}
    if common > 0:
        slack["rsg"] = (one[0] * counter / common**2) ** 2 + (one[1] / common) ** 2
        slack["delta_rsg"] = 2.0 * slack["rsg"]
    if common > 0 and counter > 0:
        slack["vuln_add"] = 2.0 * ((one[0] / common) ** 2 + (one[1] / counter) ** 2)
    if all("group" in columns[side] for side in SIDES):
        weight = answer_weights(np.concatenate([columns[side]["group"] for side in SIDES]))
        slack["mean_group_accuracy"] = float(np.mean(weight**2))
    return Errors(answers=answers, slack=slack)


@spurious.draw
def draw(summary: Summary, reference: Summary | None) -> Mapping[str, Any]:
    """Accuracy on images whose background is common for the class, and on others."""
    bars = {label: _sides(stage) for label, stage in staged(summary, reference).items()}
    return {"spurious": grouped_bars(bars, "Accuracy on common and counter backgrounds")}


@spurious.draw_all
def draw_all(summaries: Mapping[str, Summary]) -> Mapping[str, Any]:
    """Accuracy on images whose background is common for the class, and on others. RSG, the relative spurious gap, is
    the difference of the two over the accuracy on common ones (lower is better): the longer the bar, the more the
    model leans on the background.
    """
    gaps = {name: _sides(summary) for name, summary in summaries.items()}
    told = {n: f"RSG {s.metrics['rsg']:.3f}" if "rsg" in s.metrics else "no RSG" for n, s in summaries.items()}
    return {"spurious_gaps": dumbbells(gaps, "Accuracy on common and counter backgrounds", told)}


def _sides(summary: Summary) -> dict[str, float]:
    return {side: summary.metrics[f"accuracy_{side}"] for side in SIDES}
