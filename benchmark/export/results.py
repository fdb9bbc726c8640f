"""What the results folder knows of a configuration, for its card and for serving it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.engine.plan import Configuration, Evaluation, Plan
from benchmark.errors import UnknownNameError
from benchmark.export.folder import TunedScale
from benchmark.ledger.records import Ledger, Record
from benchmark.results.compare import Change, Comparer
from benchmark.results.tables import headline_keys


@dataclass(frozen=True)
class Found:
    """What the ledger knows of the configuration: finished records, headline keys, changes against full precision.

    `bases`: the full-precision records that they are changes from.
    """

    records: Sequence[Record]
    headline: Sequence[str]
    changes: Sequence[Change]
    bases: Sequence[Record] = ()

    @property
    def values(self) -> dict[str, float]:
        """All metrics."""
        return {key: value for record in self.records for key, value in record.metrics.items()}


def classes_data(plan: Plan, configuration: Configuration, asked: str | None) -> str | None:
    """The data set whose classes a served model tells apart: the asked one, else the first with classes of a task."""
    with_classes = [name for name, data in plan.data.items() if len(data.class_names) > 1 and "/" not in name]
    if asked is not None:
        if asked not in with_classes:
            raise UnknownNameError(f"data set with classes in suite '{plan.suite.name}'", asked, with_classes)
        return asked
    bound = [n for e in configuration.evaluations for role in e.task.classes for n in e.roles.get(role, ())]
    return next((name for name in bound if name in with_classes), None)


def find_results(plan: Plan, configuration: Configuration, home: Path) -> Found:
    """Finished evaluations of exactly this configuration."""
    ledger = Ledger(home)
    comparer = Comparer(ledger)
    bases = {e.name: ledger.done(e.key) for e in plan.configurations[0].evaluations}
    records, changes, used = [], [], []
    for evaluation in configuration.evaluations:
        record, base = ledger.done(evaluation.key), bases[evaluation.name]
        if record is None:
            continue
        records.append(record)
        if base is not None:
            used.append(base)
            changes += comparer.changes(record, base)
    for name, reason in comparer.failures.items():
        print(f"warning: {name} cannot be compared with full precision: {reason}", file=sys.stderr)
    return Found(records, headline_keys(plan, [*records, *used]), changes, used)


def tuned_scale(evaluations: Sequence[Evaluation], records: Sequence[Record], chosen: str | None) -> TunedScale | None:
    """The refitted logit scale of a calibration evaluation, first of one on the classes' data set."""
    key = "logit_scale_tuned"
    found = {r.name: r.metrics[f"{r.name}/{key}"] for r in records if f"{r.name}/{key}" in r.metrics}
    fits = [e for e in evaluations if e.name in found and "fit" in e.roles]
    fits.sort(key=lambda e: chosen not in e.roles.get("test", ()))
    if not fits:
        return None
    return TunedScale(scale=found[fits[0].name], source=fits[0].name, fit=fits[0].roles["fit"])
