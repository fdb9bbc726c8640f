"""Typographic attacks: a word written over the image (Goh et al., 2021)."""

from benchmark import Banks, Columns, Metric, NoOptions, Summary, task
from benchmark.metrics.classification import correct

DROP, ACCURACY = Metric("accuracy_drop", better="lower", headline=True), Metric("attacked_accuracy", better="higher")


@task("typographic", version=1, needs=("clean", "attacked"), metrics=[DROP, ACCURACY])
def typographic(banks: Banks, options: NoOptions) -> Columns:
    """How much accuracy a word written over the image costs."""
    return Columns(
        {role: banks[role].columns(correct=correct(banks[role].cosines(), banks[role].label)) for role in banks}
    )


@typographic.summarise
def summarise(columns: Columns, options: NoOptions) -> Summary:
    clean, attacked = (float(columns[role]["correct"].mean()) for role in ("clean", "attacked"))
    return Summary({"accuracy_drop": clean - attacked, "attacked_accuracy": attacked})


@typographic.draw
def draw(summary: Summary, reference: Summary | None) -> dict[str, object]:
    """Accuracy with a word over the image, and what the word costs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 2))
    figure.add_subplot().barh(list(summary.metrics), list(summary.metrics.values()))
    return {"attack": figure}
