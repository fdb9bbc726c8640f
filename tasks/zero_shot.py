"""Zero-shot classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Answers, Banks, Columns, Errors, Metric, NoOptions, Summary, task
from benchmark.metrics.classification import answer_weights, class_recalls, correct, topk_correct
from benchmark.metrics.scores import logits, softmax

DESCRIPTIVE = "it describes the flips whose difference accuracy judges"


@task(
    "zero_shot",
    version=3,
    needs=("test",),
    classes=("test",),
    metrics=[
        Metric("accuracy", "higher", headline=True, top1_of="test"),
        Metric("accuracy_top5", "higher"),
        Metric("mean_per_class_recall", "higher"),
        Metric("agreement", "neither", neutral=1.0, no_interval=DESCRIPTIVE),
        Metric("flips_right_to_wrong", "lower", neutral=0.0, no_interval=DESCRIPTIVE),
        Metric("flips_wrong_to_right", "higher", neutral=0.0, no_interval=DESCRIPTIVE),
        Metric("samples", "neither", unit="count"),
    ],
)
def zero_shot(banks: Banks, options: NoOptions) -> Columns:
    """Accuracy, top-5 accuracy and mean per class recall of the zero-shot classifier.

    The class with the highest cosine wins; the logit scale and bias do not change it. Definitions as in
    CLIP_benchmark. `accuracy_top5` is noted as undefined when there are fewer than 6 classes: it could only be 1.
    Against full precision: `agreement`, the share of equal predictions (right or wrong), and the shares of images that
    flip from right to wrong and from wrong to right; accuracy changes by the second minus the first.
    """
    bank = banks["test"]
    cos = bank.cosines()
    group = bank.columns(
        correct=correct(cos, bank.label),
        confidence=softmax(logits(cos, bank.logit_scale, bank.logit_bias)).max(axis=1).clip(max=1.0),
        prediction=cos.argmax(axis=1),
        label=bank.label,
    )
    if len(bank.class_names) > 5:
        group["correct_top5"] = topk_correct(cos, bank.label, 5)
    return Columns({"test": group}, {"classes": np.array(len(bank.class_names))})


@zero_shot.summarise
def summarise(columns: Columns, options: NoOptions) -> Summary:
    """Means over the images, and over the classes that are present."""
    test = columns["test"]
    metrics = {
        "accuracy": float(test["correct"].mean()),
        "mean_per_class_recall": float(class_recalls(test["correct"], test["label"]).mean()),
        "samples": float(len(test["correct"])),
    }
    if "correct_top5" not in test:
        return Summary(metrics, notes={"accuracy_top5": f"{columns.about['classes']} classes: top 5 holds all of them"})
    return Summary(metrics | {"accuracy_top5": float(test["correct_top5"].mean())})


@zero_shot.compare
def flips(quantized: Columns, reference: Columns, options: NoOptions) -> Summary:
    """How predictions moved: agreement, right to wrong, wrong to right, as shares of all images."""
    q, f = quantized["test"], reference["test"]
    return Summary(
        {
            "agreement": float(np.mean(q["prediction"] == f["prediction"])),
            "flips_right_to_wrong": float(np.mean(f["correct"] & ~q["correct"])),
            "flips_wrong_to_right": float(np.mean(~f["correct"] & q["correct"])),
        }
    )


@zero_shot.errors
def errors(columns: Columns, options: NoOptions, groups: Mapping[str, NDArray[Any]]) -> Errors:
    """Accuracies are shares of right answers; in the recall an answer weighs `1 / (classes * images of its class)`."""
    test = columns["test"]
    answers = {"accuracy": Answers("test", test["correct"])}
    if "correct_top5" in test:
        answers["accuracy_top5"] = Answers("test", test["correct_top5"])
    weight = answer_weights(test["label"])
    return Errors(answers=answers, slack={"mean_per_class_recall": float(np.mean(weight**2))})
