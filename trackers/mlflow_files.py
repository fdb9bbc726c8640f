"""What lies beside the numbers in MLflow: tables and figures as files of a folder, and the data sets of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.ledger.records import Record
from benchmark.results.compare import adjust
from benchmark.results.csv_text import to_csv
from benchmark.results.formats import to_csv as changes_to_csv
from benchmark.results.summaries import with_tables
from benchmark.results.sweep import draw, summary
from benchmark.results.sweep import to_csv as summary_to_csv
from benchmark.results.tables import sample_frames
from benchmark.tracking import FinishedConfiguration, FinishedSweep
from benchmark.utils.guard import described, guarded

from .mlflow_names import safe_name


def write_evaluation(folder: Path, finished: FinishedConfiguration, record: Record) -> str | None:
    """Per-sample tables and the task's figures; returns why the figures could not be drawn."""
    evaluation = next(e for e in finished.configuration.evaluations if e.name == record.name)
    task, options, drawing = evaluation.task, evaluation.options, evaluation.task.drawing
    outcome = with_tables(task, finished.outcomes[record.key], options)
    for title, frame in sample_frames(outcome).items():
        text = to_csv(
            [str(name) for name in frame.columns],
            zip(*(frame.iloc[:, i].to_numpy() for i in range(frame.shape[1])), strict=True),
        )
        (folder / f"{safe_name(title)}.csv").write_text(text, encoding="utf-8")

    def draw_all() -> None:
        base = finished.references.get(record.name) if drawing else None
        reference = with_tables(task, base, options).summary if base else None
        figures = drawing(outcome.summary, reference) if drawing else {}
        for title, figure in figures.items():
            figure.savefig(folder / f"{safe_name(title)}.png", dpi=90)

    try:
        guarded(f"task '{record.task}': draw", draw_all)
    except Exception as error:  # a stranger's drawing may raise anything; the numbers are worth more
        return described(error)
    return None


def write_sweep(folder: Path, sweep: FinishedSweep) -> None:
    """`summary.csv`, `comparison.csv`, `changes.png` and `bits.png`."""
    (folder / "summary.csv").write_text(summary_to_csv(summary(sweep)), encoding="utf-8")
    (folder / "comparison.csv").write_text(changes_to_csv(adjust(sweep.changes)), encoding="utf-8")
    for title, figure in draw(sweep).items():
        figure.savefig(folder / f"{title}.png", dpi=110)


def data_inputs(finished: FinishedConfiguration) -> list[Any]:
    """The data sets of a configuration as MLflow's inputs; generated corruptions are not listed beside their base."""
    from mlflow.entities import Dataset, DatasetInput

    data = {name: used for e in finished.configuration.evaluations for name, used in sorted(e.data.items())}
    names = sorted(data)
    plain = [name for name in names if data[name].spec.corruption is None]
    return [
        DatasetInput(Dataset(name, data[name].digest[:36], data[name].spec.source, data[name].spec.model_dump_json()))
        for name in plain
    ]
