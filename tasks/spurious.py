"""Reliance on spurious correlations: the same classes on their common and on other backgrounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, Metric, Outcome, UndefinedMetric, task
from benchmark.metrics.classification import correct
from benchmark.metrics.robustness import delta_rsg, group_accuracies, rsg, vuln_add
from tasks.figures import spurious_bars


@task(
    "spurious",
    version=1,
    needs=("common", "counter"),
    metrics=[
        Metric("accuracy_common", "higher"),
        Metric("accuracy_counter", "higher"),
        Metric("gap", "lower"),
        Metric("rsg", "lower", headline=True),
        Metric("worst_group_accuracy", "higher"),
        Metric("mean_group_accuracy", "higher"),
        Metric("delta_rsg", "lower"),
        Metric("vuln_add", "lower"),
        Metric("samples_common", "neither", unit="count"),
        Metric("samples_counter", "neither", unit="count"),
    ],
)
def spurious(banks: Banks) -> Outcome:
    """How much accuracy is lost when a class stands on an unusual background.

    `rsg = (accuracy_common - accuracy_counter) / accuracy_common`, the relative spurious gap. Against full precision
    (f): `delta_rsg = rsg(q) - rsg(f)` and `vuln_add = delta(counter) - delta(common)` with
    `delta = (A(f) - A(q)) / A(f)`, which tells a stronger bias from a plain loss of accuracy. Where the data has
    groups, worst and mean group accuracy over both sets together.
    """
    common, counter = banks["common"], banks["counter"]
    hits = np.asarray(correct(common.cosines(), common.label))
    counter_hits = np.asarray(correct(counter.cosines(), counter.label))
    metrics = {
        "accuracy_common": float(hits.mean()),
        "accuracy_counter": float(counter_hits.mean()),
        "gap": float(hits.mean() - counter_hits.mean()),
        "samples_common": float(len(common)),
        "samples_counter": float(len(counter)),
    }
    notes: dict[str, str] = {}
    try:
        metrics["rsg"] = rsg(metrics["accuracy_common"], metrics["accuracy_counter"])
    except UndefinedMetric as reason:
        notes["rsg"] = str(reason)
    samples: dict[str, NDArray[Any]] = {
        "sample_id": common.sample_id,
        "correct_common": hits,
        "label_common": common.label,
        "correct_counter": counter_hits,
        "correct_counter.sample_id": counter.sample_id,
        "label_counter": counter.label,
        "label_counter.sample_id": counter.sample_id,
    }
    if common.group is not None and counter.group is not None:
        groups = np.concatenate([common.group, counter.group])
        accuracies = group_accuracies(np.concatenate([hits, counter_hits]), groups)
        metrics["worst_group_accuracy"] = min(accuracies.values())
        metrics["mean_group_accuracy"] = float(np.mean(list(accuracies.values())))
    else:
        notes["worst_group_accuracy"] = "the data sets have no groups"
    return Outcome(metrics, samples, notes=notes)


@spurious.compare
def against_full_precision(quantized: Outcome, reference: Outcome) -> Outcome:
    """`delta_rsg` and `vuln_add`; undefined where an accuracy that they divide by is zero."""
    q, f = quantized.metrics, reference.metrics
    accuracies = (f["accuracy_common"], f["accuracy_counter"], q["accuracy_common"], q["accuracy_counter"])
    found: dict[str, float] = {}
    notes: dict[str, str] = {}
    for name, function in (("delta_rsg", delta_rsg), ("vuln_add", vuln_add)):
        try:
            found[name] = function(*accuracies)
        except UndefinedMetric as reason:
            notes[name] = str(reason)
    return Outcome(found, notes=notes)


spurious.draw(spurious_bars)
