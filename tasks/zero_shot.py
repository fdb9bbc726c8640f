"""Zero-shot classification."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmark import Banks, Metric, Outcome, task
from benchmark.metrics.classification import accuracy, mean_per_class_recall, topk_correct
from benchmark.metrics.scores import logits, softmax, top_label
from benchmark.metrics.significance import (
    Comparison,
    accuracy_difference_interval,
    attempt,
    difference,
    draws_for,
    group_draws,
)


@task(
    "zero_shot",
    version=2,
    needs=("test",),
    classes=("test",),
    metrics=[
        Metric("accuracy", "higher", headline=True),
        Metric("accuracy_top5", "higher"),
        Metric("mean_per_class_recall", "higher"),
        Metric("agreement", "neither", neutral=1.0),
        Metric("flips_right_to_wrong", "lower", neutral=0.0),
        Metric("flips_wrong_to_right", "higher", neutral=0.0),
        Metric("samples", "neither", unit="count"),
    ],
)
def zero_shot(banks: Banks) -> Outcome:
    """Accuracy, top-5 accuracy and mean per class recall of the zero-shot classifier.

    The class with the highest cosine wins; the logit scale and bias do not change it. Definitions as in
    CLIP_benchmark. `accuracy_top5` is noted as undefined when there are fewer than 6 classes: it could only be 1.
    Against full precision: `agreement`, the share of equal predictions (right or wrong), and the shares of images that
    flip from right to wrong and from wrong to right; accuracy changes by the second minus the first.
    """
    bank = banks["test"]
    cos = bank.cosines()
    metrics = {
        "accuracy": accuracy(cos, bank.label),
        "mean_per_class_recall": mean_per_class_recall(cos, bank.label),
        "samples": float(len(bank)),
    }
    notes = {}
    confidence, correct, prediction = top_label(softmax(logits(cos, bank.logit_scale, bank.logit_bias)), bank.label)
    samples = {
        "sample_id": bank.sample_id,
        "correct": correct,
        "confidence": confidence,
        "prediction": prediction,
        "label": bank.label,
    }
    if len(bank.class_names) > 5:
        samples["correct_top5"] = topk_correct(cos, bank.label, 5)
        metrics["accuracy_top5"] = float(samples["correct_top5"].mean())
    else:
        notes["accuracy_top5"] = f"{len(bank.class_names)} classes: top 5 holds all of them"
    return Outcome(metrics, samples, notes=notes)


@zero_shot.compare
def flips(quantized: Outcome, reference: Outcome) -> Outcome:
    """How predictions moved: agreement, right to wrong, wrong to right, as shares of all images."""
    now, before = quantized.samples["correct"], reference.samples["correct"]
    same = quantized.samples["prediction"] == reference.samples["prediction"]
    return Outcome(
        {
            "agreement": float(np.mean(same)),
            "flips_right_to_wrong": float(np.mean(before & ~now)),
            "flips_wrong_to_right": float(np.mean(~before & now)),
        }
    )


@zero_shot.significance
def significance(quantized: Outcome, reference: Outcome) -> Mapping[str, Comparison | str]:
    """Accuracies: the four outcome cells with McNemar's exact test. Recall: the cells of each class, sizes kept."""
    q, f = quantized.samples, reference.samples
    found: dict[str, Comparison | str] = {"accuracy": accuracy_difference_interval(f["correct"], q["correct"])}
    if "correct_top5" in q:
        found["accuracy_top5"] = accuracy_difference_interval(f["correct_top5"], q["correct_top5"])
    recalls = group_draws(f["correct"], q["correct"], f["label"], draws=draws_for(len(f["label"])))
    found["mean_per_class_recall"] = attempt(difference, *(recall.mean(axis=1) for recall in recalls))
    described = "see the McNemar test of accuracy: it asks whether the two kinds of flips are equally frequent"
    return found | {"agreement": described, "flips_right_to_wrong": described, "flips_wrong_to_right": described}
