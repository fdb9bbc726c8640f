"""Descriptions in MLflow: what an experiment and its runs are, and what to look at first. Markdown."""

from __future__ import annotations

from benchmark.ledger.records import Record
from benchmark.results.compare import Change, adjust
from benchmark.results.decide import decision_of, margins_told, told
from benchmark.results.tables import headline_keys
from benchmark.spec import SuiteSpec
from benchmark.tracking import FinishedConfiguration, FinishedSweep

NOTE = "mlflow.note.content"


def experiment_note(suite: SuiteSpec) -> str:
    """Of an experiment; its first words are all that MLflow shows until the note is opened."""
    return (
        "Choose **Views > Quantizations**: one run per quantization, best first; `..._change` is the change against "
        "fp32. The run **sweep** has the table and the figures of all of them (Artifacts). "
        "Open a quantization for its description; its nested runs, one per task, hold figures and per-sample tables. "
        "Select runs and press Compare for parallel coordinates over `effective_bits`, `quant.weight_bits` and the "
        f"metrics.\n\n{suite.description.strip()}\n\n"
        "Full metric names are paths, `task/dataset/metric`; `change/...` is the change against fp32, `p/...` its "
        "unadjusted p value; `comparison.csv` has every metric with interval and stars."
    )


def configuration_note(finished: FinishedConfiguration) -> str:
    """Of a quantization: its verdict, which headline metrics it changed significantly, and where the rest is."""
    keys = headline_keys(finished, finished.records)
    tested = adjust(change for change in finished.changes if change.key in keys)
    where = (
        "Artifacts: `quantization_report.json` (which layers, bits, size)"
        + (", `comparison.csv` (every metric with its interval)" if tested else "")
        + ". Nested runs: one per task, with figures."
    )
    if not tested:
        return f"Full precision: what the others are compared with. {where}" if _full(finished) else where
    lines = [
        f"- {word}: {', '.join(map(_short, found))}" for word in ("worse", "better") if (found := _of(tested, word))
    ]
    changed = "\n".join(lines) if lines else "- no headline metric differs significantly"
    decision = decision_of(finished)
    verdict = "" if decision is None else f"**{told(decision)}** (margins: {margins_told(decision.judged)})\n\n"
    return f"{verdict}Against full precision (q < 0.05 over {len(tested)} headline metrics):\n\n{changed}\n\n{where}"


def evaluation_note(finished: FinishedConfiguration, record: Record) -> str:
    """Of one task under one quantization."""
    task = next(e.task for e in finished.configuration.evaluations if e.name == record.name)
    return f"{task.title} Artifacts: figures (PNG) and per-sample tables (CSV)."


def sweep_note(sweep: FinishedSweep) -> str:
    """Of all quantizations of a model."""
    return (
        f"All {len(sweep.configurations)} quantizations of {sweep.model} together. Artifacts: `changes.png`, the "
        "change of each headline metric against fp32; `bits.png`, the headline metrics against effective bits; "
        "`summary.csv`, the numbers of both; `comparison.csv`, every metric with interval, p and q adjusted over all."
    )


def _full(finished: FinishedConfiguration) -> bool:
    return finished.configuration.quant.method == "fp32"


def _of(tested: list[Change], direction: str) -> list[Change]:
    return [c for c in tested if c.direction == direction and c.q is not None and c.q < 0.05]


def _short(change: Change) -> str:
    return f"`{change.key}` {change.change:+.3f}{change.stars}".replace("*", "\\*")
