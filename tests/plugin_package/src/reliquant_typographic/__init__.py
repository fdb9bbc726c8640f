"""Typographic attacks: a word written over the image (Goh et al., 2021)."""

from benchmark import Banks, Metric, Outcome, task
from benchmark.metrics.classification import correct


@task(
    "typographic",
    version=1,
    needs=("clean", "attacked"),
    metrics=[Metric("accuracy_drop", better="lower", headline=True), Metric("attacked_accuracy", better="higher")],
)
def typographic(banks: Banks) -> Outcome:
    """How much accuracy a word written over the image costs."""
    clean, attacked = banks["clean"], banks["attacked"]
    hits, kept = correct(clean.cosines(), clean.label), correct(attacked.cosines(), attacked.label)
    return Outcome(
        metrics={
            "accuracy_drop": float(hits.mean() - kept.mean()),
            "attacked_accuracy": float(kept.mean()),
        },
        samples={
            "sample_id": clean.sample_id,
            "correct_clean": hits,
            "correct_attacked": kept,
            "correct_attacked.sample_id": attacked.sample_id,
        },
    )
