"""Tables of records: the headline comparison with full precision, and per-sample columns as data frames."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from benchmark.plugins import Better, Metric, Outcome, Task
from benchmark.results.notation import Direction, direction
from benchmark.results.sizes import size

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.engine.plan import Plan
    from benchmark.ledger.records import Record
    from benchmark.results.compare import Change
    from benchmark.spec import SuiteSpec
    from benchmark.tracking import FinishedConfiguration

SPEEDS = (
    "images_per_second",
    "latency_ms_p50",
    "latency_ms_p95",
    "latency_ratio",
    "latency_ratio_low",
    "latency_ratio_high",
)
"""Numbers of a Speed (`benchmark.quantization.efficiency`); `latency_ratio`: of one image, against full precision."""


@dataclass(frozen=True)
class Cell:
    """A metric's value under one quantization and its change against full precision (None for itself)."""

    value: float
    change: float | None
    better: Better
    stars: str = ""

    @property
    def direction(self) -> Direction:
        """What the change means; `same` where there is none."""
        return direction(self.change or 0.0, self.better)


@dataclass(frozen=True)
class TableRow:
    """One (model, quantization): cells by metric key; missing where undefined or failed."""

    model: str
    quantization: str
    cells: Mapping[str, Cell]


class _Evaluation(Protocol):
    @property
    def task(self) -> Task: ...


class _Configuration(Protocol):
    @property
    def evaluations(self) -> Sequence[_Evaluation]: ...


class Sweeping(Protocol):
    """What has a suite and configurations: a plan, and the events that trackers get."""

    @property
    def suite(self) -> SuiteSpec:
        """Names the headline metrics."""

    @property
    def configurations(self) -> Sequence[_Configuration]:
        """One or several."""


def declared(plan: Sweeping) -> dict[str, Task]:
    """The tasks of a plan by name."""
    return {e.task.name: e.task for c in plan.configurations for e in c.evaluations}


def headline_keys(plan: Sweeping, records: Iterable[Record]) -> list[str]:
    """The suite's headline metrics; where it names none, the shallowest headline metric of each evaluation."""
    return headline_among(plan, [key for record in records for key in record.metrics])


def headline_among(plan: Sweeping, present: Sequence[str]) -> list[str]:
    """The same among metric keys."""
    tasks = declared(plan)
    if plan.suite.headline:
        asked = [key for key in plan.suite.headline if key.split("/")[0] in tasks]
        return [key for key in asked if key in present]
    order = list(tasks)
    found = shallowest_headlines(present, tasks.__getitem__)
    return sorted(found, key=lambda key: order.index(key.split("/")[0]))


def shallowest_headlines(keys: Iterable[str], task_of: Callable[[str], Task]) -> list[str]:
    """Of each evaluation the first headline metric that its task declares, at the top level of its keys.

    So never a variant that is declared after it (`_tuned`), nor one part of a mean (a single corruption).
    """
    found: dict[tuple[str, str], str] = {}
    for key in sorted(dict.fromkeys(keys), key=lambda k: (k.count("/"), _declared_at(k, task_of))):
        task, label, rest = key.split("/", 2)
        if task_of(task).metric(rest).headline:
            found.setdefault((task, label), key)
    return list(found.values())


def _declared_at(key: str, task_of: Callable[[str], Task]) -> int:
    """The place of a key's metric in its task's declaration."""
    task = task_of(key.split("/", 1)[0])
    return task.metrics.index(task.metric(key))


def changes(plan: Sweeping, records: Sequence[Record]) -> dict[str, dict[str, Cell]]:
    """Configuration key -> metric key -> cell with its change against full precision of the same model."""
    tasks = declared(plan)
    reference = {
        (record.model, key): value
        for record in records
        if record.quantization == "fp32"
        for key, value in record.metrics.items()
    }
    found: dict[str, dict[str, Cell]] = {}
    for record in records:
        cells = found.setdefault(record.configuration, {})
        for key, value in record.metrics.items():
            base = None if record.quantization == "fp32" else reference.get((record.model, key))
            metric: Metric = tasks[record.task].metric(key)
            cells[key] = Cell(value, None if base is None else value - base, metric.better)
    return found


def comparison_rows(plan: Plan, records: Sequence[Record], tested: Iterable[Change] = ()) -> list[TableRow]:
    """One row per configuration, in the order of the plan.

    Args: tested: the changes that are shown, adjusted over all of them; their stars go into the cells.
    """
    cells = changes(plan, records)
    for change in tested:
        cell = cells.get(change.configuration, {}).get(change.key)
        if cell is not None:
            cells[change.configuration][change.key] = replace(cell, change=change.change, stars=change.stars)
    return [TableRow(c.model.name, c.quant.name, cells.get(c.key, {})) for c in plan.configurations]


def report_figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a QuantizationReport (as JSON) worth comparing.

    Over all towers of the model (`benchmark.results.sizes`): `effective_bits`, `size_mb`, `float_mb`. Over the towers
    in scope: `quantized_bits`, packed bits over weights in the replaced layers, scales and zero points included;
    `weight_share`, the share of the Linear and Conv2d weights that was replaced; `<tower>_cosine`, `<tower>_sqnr_db`,
    embeddings against full precision; and a control's own figures (`noise_to_signal`, `energy_kept`, ...).
    """
    towers, found = report["towers"], size(report)
    figures: dict[str, float] = {}
    if found is not None:
        figures |= {"effective_bits": found.effective_bits, "size_mb": found.megabytes}
        figures |= {"float_mb": found.float_megabytes}
    covered = {t: sum(math.prod(layer["shape"]) for layer in towers[t]["layers"]) for t in towers}
    if towers:
        replaced = [t for t in towers if covered[t]]  # none by a control, which changes features
        total = sum(covered[t] / towers[t]["weight_share"] for t in replaced)
        figures["weight_share"] = sum(covered.values()) / total if replaced else 0.0
    if any(covered.values()):
        packed = sum(layer["packed_bits"] for t in towers for layer in towers[t]["layers"])
        figures["quantized_bits"] = packed / sum(covered.values())
    for tower, found in towers.items():
        figures[f"{tower}_cosine"] = found["cosine"]
        if found["embedding_sqnr_db"] is not None:  # a temperature leaves the embeddings alone
            figures[f"{tower}_sqnr_db"] = found["embedding_sqnr_db"]
    return figures | dict(report.get("figures", {}))


def efficiency_figures(efficiency: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of an Efficiency (as JSON): `packed_mb` of the whole model and, of a real kernel, its `SPEEDS`."""
    speed = efficiency["speed"] or {}
    return {"packed_mb": efficiency["packed_bytes"] / 1e6, **{name: speed[name] for name in SPEEDS if name in speed}}


def headline_metrics(finished: FinishedConfiguration) -> dict[str, float]:
    """Headline metrics of a configuration with their changes and p values, the sizes of its report, its efficiency."""
    cells = changes(finished, finished.records).get(finished.configuration.key, {})
    bases = {f"{name}/{k}": v for name, outcome in finished.references.items() for k, v in outcome.metrics.items()}
    p = {change.key: change.p for change in finished.changes}
    keys = [key for key in headline_keys(finished, finished.records) if key in cells]
    metrics = {key: cells[key].value for key in keys}
    metrics |= {f"change/{key}": cells[key].value - bases[key] for key in keys if key in bases}
    metrics |= {f"p/{key}": value for key in keys if (value := p.get(key)) is not None}
    if finished.report is not None:
        metrics |= {f"quantization/{name}": value for name, value in report_figures(finished.report).items()}
    if finished.efficiency is not None:
        metrics |= {f"efficiency/{name}": value for name, value in efficiency_figures(finished.efficiency).items()}
    return metrics


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Metric key -> name for a narrow column, `corruption_accuracy`; the whole key where two would share one."""
    plain = {key: f"{key.split('/', 1)[0]}_{key.rsplit('/', 1)[1]}" for key in keys}
    count = Counter(plain.values())
    return {key: name if count[name] == 1 else key.replace("/", "_") for key, name in plain.items()}


def narrow_metrics(finished: FinishedConfiguration) -> dict[str, float]:
    """What a table of runs shows first: `effective_bits`, and by short name each headline metric and its `_change`."""
    metrics = headline_metrics(finished)
    keys = [key for key in headline_keys(finished, finished.records) if key in metrics]
    names = short_names(dict.fromkeys([*finished.suite.headline, *keys]))
    found = {names[key]: metrics[key] for key in keys}
    found |= {f"{names[key]}_change": metrics[f"change/{key}"] for key in keys if f"change/{key}" in metrics}
    bits = metrics.get("quantization/effective_bits")
    return found if bits is None else {"effective_bits": bits, **found}


def sample_frames(outcome: Outcome) -> dict[str, pd.DataFrame]:
    """Per-sample columns as data frames, one for each group: `samples.<group>`, `samples` where there is one only.

    Columns of shape (N, V) become V columns, named by a table of V names where there is one. Tables named
    `<frame>.<column>` become a frame of their own.
    """
    import pandas as pd

    frames: dict[str, dict[str, Any]] = {}
    for group, columns in outcome.columns.groups.items():
        frame = frames.setdefault("samples" if len(outcome.columns.groups) == 1 else f"samples.{group}", {})
        for name, column in columns.items():
            if column.ndim == 1:
                frame[name] = column
            else:
                labels = _labels(outcome, column.shape[1])
                frame |= {f"{name}.{label}": column[:, i] for i, label in enumerate(labels)}
    for name, table in outcome.tables.items():
        frame_name, dot, column_name = name.partition(".")
        if dot:
            frames.setdefault(frame_name, {})[column_name] = table
    return {name: pd.DataFrame(columns) for name, columns in frames.items()}


def _labels(outcome: Outcome, width: int) -> list[str]:
    for table in outcome.tables.values():
        if table.dtype.kind == "U" and table.shape == (width,):
            return [str(value) for value in table]
    return [str(i) for i in np.arange(width)]
