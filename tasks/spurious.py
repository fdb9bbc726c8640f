"""Reliance on spurious correlations: the same classes on their common and on other backgrounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, Metric, Outcome, UndefinedMetric, task
from benchmark.metrics.classification import correct
from benchmark.metrics.robustness import delta_rsg, group_accuracies, rsg, vuln_add
from benchmark.metrics.significance import (
    Comparison,
    accuracy_difference_interval,
    attempt,
    cell_bootstrap,
    difference,
    draws_for,
    group_draws,
    paired_cells,
    rsg_difference_interval,
    vuln_add_interval,
)
from tasks.figures import spurious_bars


@task(
    "spurious",
    version=2,
    needs=("common", "counter"),
    same_classes=("common", "counter"),
    metrics=[
        Metric("accuracy_common", "higher"),
        Metric("accuracy_counter", "higher"),
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
        samples |= {"group_common": common.group, "group_counter": counter.group}
        samples |= {"group_counter.sample_id": counter.sample_id}
        groups = np.concatenate([common.group, counter.group])
        accuracies = group_accuracies(np.concatenate([hits, counter_hits]), groups)
        metrics["worst_group_accuracy"] = min(accuracies.values())
        metrics["mean_group_accuracy"] = float(np.mean(list(accuracies.values())))
    else:
        notes["worst_group_accuracy"] = "the data sets have no groups"
    return Outcome(metrics, samples, _per_class(banks, hits, counter_hits), notes)


def _per_class(banks: Banks, hits: NDArray[np.bool_], counter_hits: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Table `per_class`: a row for each class of both sets, accuracy and number of images on either background.

    A class that has no images on one of them has NaN there: a mean of nothing.
    """
    common, counter = banks["common"], banks["counter"]
    present = np.union1d(common.label, counter.label)
    table: dict[str, NDArray[Any]] = {"per_class.class": np.array([common.class_names[i] for i in present.tolist()])}
    for side, label, hit in (("common", common.label, hits), ("counter", counter.label, counter_hits)):
        count = np.array([np.count_nonzero(label == i) for i in present])
        right = np.array([np.count_nonzero(hit[label == i]) for i in present], dtype=np.float64)
        accuracy = np.full(len(present), np.nan)
        np.divide(right, count, out=accuracy, where=count > 0)
        table |= {f"per_class.accuracy_{side}": accuracy, f"per_class.samples_{side}": count}
    return table


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


@spurious.significance
def significance(quantized: Outcome, reference: Outcome) -> Mapping[str, Comparison | str]:
    """The four outcome cells, common and counter images on their own; McNemar where it is one accuracy."""
    q, f = quantized.samples, reference.samples
    common, counter = ((f[f"correct_{side}"], q[f"correct_{side}"]) for side in ("common", "counter"))
    spurious_gap = attempt(rsg_difference_interval, common, counter)
    found = {
        "accuracy_common": accuracy_difference_interval(*common),
        "accuracy_counter": accuracy_difference_interval(*counter),
        "gap": attempt(cell_bootstrap, _gap_difference, paired_cells(*common), paired_cells(*counter)),
        "rsg": spurious_gap,
        "delta_rsg": spurious_gap,
        "vuln_add": attempt(vuln_add_interval, common, counter),
    }
    if "group_common" in q and "group_common" in f:
        before, now = (np.concatenate(pair) for pair in zip(common, counter, strict=True))
        groups = np.concatenate([f["group_common"], f["group_counter"]])
        accuracies = group_draws(before, now, groups, draws=draws_for(len(groups)))
        found["worst_group_accuracy"] = attempt(difference, *(values.min(axis=1) for values in accuracies))
        found["mean_group_accuracy"] = attempt(difference, *(values.mean(axis=1) for values in accuracies))
    return found


def _gap_difference(
    a_common: NDArray[np.float64],
    b_common: NDArray[np.float64],
    a_counter: NDArray[np.float64],
    b_counter: NDArray[np.float64],
) -> NDArray[np.float64]:
    return (b_common - b_counter) - (a_common - a_counter)


spurious.draw(spurious_bars)
