"""Zero-shot classification."""

from __future__ import annotations

from benchmark import Banks, Metric, Outcome, task
from benchmark.metrics.classification import accuracy, mean_per_class_recall, topk_accuracy
from benchmark.metrics.scores import logits, softmax, top_label


@task(
    "zero_shot",
    version=1,
    needs=("test",),
    metrics=[
        Metric("accuracy", "higher", headline=True),
        Metric("accuracy_top5", "higher"),
        Metric("mean_per_class_recall", "higher"),
        Metric("samples", "neither", unit="count"),
    ],
)
def zero_shot(banks: Banks) -> Outcome:
    """Accuracy, top-5 accuracy and mean per class recall of the zero-shot classifier.

    The class with the highest cosine wins; the logit scale and bias do not change it. Definitions as in
    CLIP_benchmark. `accuracy_top5` is noted as undefined when there are fewer than 6 classes: it could only be 1.
    """
    bank = banks["test"]
    cos = bank.cosines()
    metrics = {
        "accuracy": accuracy(cos, bank.label),
        "mean_per_class_recall": mean_per_class_recall(cos, bank.label),
        "samples": float(len(bank)),
    }
    notes = {}
    if len(bank.class_names) > 5:
        metrics["accuracy_top5"] = topk_accuracy(cos, bank.label, 5)
    else:
        notes["accuracy_top5"] = f"{len(bank.class_names)} classes: top 5 holds all of them"
    confidence, correct, prediction = top_label(softmax(logits(cos, bank.logit_scale, bank.logit_bias)), bank.label)
    samples = {
        "sample_id": bank.sample_id,
        "correct": correct,
        "confidence": confidence,
        "prediction": prediction,
        "label": bank.label,
    }
    return Outcome(metrics, samples, notes=notes)
