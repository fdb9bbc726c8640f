"""Thing."""

from benchmark import Banks, Columns, Metric, NoOptions, Summary, task
from benchmark.metrics.classification import correct


@task("thing", version=1, needs=("test",), metrics=[Metric("error", better="lower", headline=True)])
def thing(banks: Banks, options: NoOptions) -> Columns:
    """Share of images that the zero-shot classifier gets wrong (replace this with your own measure)."""
    bank = banks["test"]
    return Columns({"test": bank.columns(correct=correct(bank.cosines(), bank.label))})


@thing.summarise
def summarise(columns: Columns, options: NoOptions) -> Summary:
    return Summary({"error": 1.0 - float(columns["test"]["correct"].mean())})
