"""What the ledger has of a suite, as rows: one for each model and quantization. Reads results, runs no model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark.errors import ReliquantError, StorageError
from benchmark.ledger.records import Ledger, Record
from benchmark.plugins import Better, tasks
from benchmark.quantization.registry import read
from benchmark.results import sizes
from benchmark.results.answers import records_of
from benchmark.results.compare import Change, Comparer, adjust, find_changes
from benchmark.results.decide import Decision, decide
from benchmark.results.load import newest
from benchmark.results.reliability import NO_CHANGE, Reliability, reliability, with_error
from benchmark.results.speed import timing_state
from benchmark.results.tables import shallowest_headlines
from benchmark.spec import FP32, SuiteSpec


@dataclass(frozen=True)
class Latency:
    """Measured time of the image tower for one image alone, median; `where`: device and threads."""

    milliseconds: float
    where: str


@dataclass(frozen=True)
class Row:
    """One model under one quantization.

    Attributes:
        records: evaluation (`task/dataset`) -> finished record. failed: evaluation -> why it has none.
        changes: metric key -> change against full precision, without q; empty for full precision itself.
        headline: the same for the headline metrics, with q over the headline metrics of all rows.
        report: its QuantizationReport as JSON; efficiency: size and speed
            (`benchmark.quantization.efficiency.Efficiency`) as JSON; None where the ledger has none.
        size: None where there is no report, and for a control, which replaces no weight.
        latency: None where it is simulated, or was timed on another machine than most rows: only times of one machine
            are compared.
        reliability: mean signed change of the headline metrics over the tasks, in points.
        decision: whether it is non-inferior to full precision; None for full precision itself.
    """

    model: str
    quantization: str
    records: Mapping[str, Record]
    failed: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)
    headline: Mapping[str, Change] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    efficiency: Mapping[str, Any] | None = None
    size: sizes.Size | None = None
    latency: Latency | None = None
    reliability: Reliability = NO_CHANGE
    decision: Decision | None = None

    @property
    def full_precision(self) -> bool:
        """Whether this is what the others are compared with."""
        return self.quantization == FP32.name

    @property
    def control(self) -> bool:
        """A control changes features and is no quantization: nobody would deploy it."""
        return self.quantization.startswith("control-")

    @property
    def metrics(self) -> dict[str, float]:
        """Full metric key -> value, over all tasks."""
        return {key: value for record in self.records.values() for key, value in record.metrics.items()}

    @property
    def label(self) -> str:
        """A few characters for figures: `rtn W4A8 v+t`; the short name itself where it cannot be read."""
        try:
            spec = read(self.quantization)
        except ReliquantError:
            return self.quantization
        weight = f" W{spec.weight_bits}" if spec.weight_bits else ""
        activation = f"A{spec.activation_bits}" if spec.activation_bits else ""
        group = f" g{spec.group_size}" if spec.group_size else " tensor" * (spec.weight_granularity == "tensor")
        scope = {"vision": "", "text": " text", "vision+text": " v+t"}[spec.scope]
        return f"{spec.method}{weight or ' ' * bool(activation)}{activation}{group}{scope}"


@dataclass(frozen=True)
class Results:
    """A suite's results.

    Attributes:
        spec: the suite's file, where it was found. headline: metric keys in the suite's order.
        rows: full precision first for each model, then as in the ledger.
        bases: (model, evaluation, pair) -> full-precision record, which a quantized one of that pair is compared with.
        uncompared: evaluation -> why it could not be compared with full precision.
        allow_outside: whether images outside the folders of their data may be shown.
    """

    suite: str
    spec: SuiteSpec | None
    headline: tuple[str, ...]
    rows: tuple[Row, ...]
    ledger: Ledger
    bases: Mapping[tuple[str, str, str], Record] = field(default_factory=dict)
    uncompared: Mapping[str, str] = field(default_factory=dict)
    allow_outside: bool = False

    @property
    def models(self) -> tuple[str, ...]:
        """Models in the order of the ledger."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    @property
    def missing(self) -> tuple[str, ...]:
        """Headline metrics of the suite that nobody evaluated."""
        return tuple(key for key in (self.spec.headline if self.spec else ()) if key not in self.headline)

    def of(self, model: str) -> list[Row]:
        """The rows of a model, full precision first."""
        return [row for row in self.rows if row.model == model]

    def base(self, model: str) -> Row | None:
        """Full precision of a model."""
        return next((row for row in self.of(model) if row.full_precision), None)

    def reference(self, record: Record) -> Record | None:
        """The full-precision record on the same data."""
        return self.bases.get((record.model, record.name, record.comparison_key))


def read_results(ledger: Ledger, suite: str, spec: SuiteSpec | None) -> Results:
    """Read, pair with full precision and compare what the ledger has of a suite."""
    own = records_of(ledger, suite, spec)
    done = newest(own)
    comparer = Comparer(ledger)
    found = find_changes([r for r in done if r.quantization != FP32.name], done, comparer)
    headline = headline_of(spec, [key for record in done for key in record.metrics])
    adjusted = adjust(change for change in found if change.key in headline)
    rows = [_measured(row, ledger) for row in _rows(own, done, found, adjusted)]
    rows = [_decided(row, headline, spec.margins if spec else {}) for row in rows]
    bases = {(r.model, r.name, r.comparison_key): r for r in done if r.quantization == FP32.name}
    rows = [_with_reliability(row, headline, bases, comparer) for row in rows]
    return Results(suite, spec, headline, tuple(_with_latencies(rows, ledger)), ledger, bases, dict(comparer.failures))


def headline_of(spec: SuiteSpec | None, present: Iterable[str]) -> tuple[str, ...]:
    """The suite's headline metrics that are in the records; else the shallowest headline metric of each evaluation."""
    keys = dict.fromkeys(present)
    named = tuple(key for key in (spec.headline if spec else ()) if key in keys)
    return named or tuple(shallowest_headlines(keys, tasks.get))


def better_of(key: str) -> Better:
    """Which direction of a metric is better, as its task declares it."""
    return tasks.get(key.split("/", 1)[0]).metric(key).better


def _rows(
    own: Sequence[Record], done: Sequence[Record], found: Sequence[Change], adjusted: Sequence[Change]
) -> list[Row]:
    """Full precision first for each model; of several full-precision records the one that others are compared with."""
    pairs = {(r.model, r.name, r.comparison_key) for r in done if r.quantization != FP32.name}
    models = list(dict.fromkeys(record.model for record in own))
    names = dict.fromkeys((record.model, record.quantization) for record in own)
    records: dict[tuple[str, str], dict[str, Record]] = {name: {} for name in names}
    failed: dict[tuple[str, str], dict[str, str]] = {name: {} for name in names}
    for record in sorted(done, key=lambda r: (r.model, r.name, r.comparison_key) in pairs):
        records[record.model, record.quantization][record.name] = record
    for record in own:
        name = (record.model, record.quantization)
        if record.status == "failed" and record.name not in records[name]:
            failed[name][record.name] = record.error or "no reason was recorded"
    changes, headline = _by_row(found), _by_row(adjusted)
    return [
        Row(*name, records[name], failed[name], changes.get(name, {}), headline.get(name, {}))
        for name in sorted(names, key=lambda name: (models.index(name[0]), name[1] != FP32.name))
    ]


def _by_row(changes: Iterable[Change]) -> dict[tuple[str, str], dict[str, Change]]:
    found: dict[tuple[str, str], dict[str, Change]] = {}
    for change in changes:
        found.setdefault((change.model, change.quantization), {})[change.key] = change
    return found


def _measured(row: Row, ledger: Ledger) -> Row:
    """With its report and its efficiency."""
    content = _content(row, ledger)
    report, efficiency = ledger.reports.get(content), ledger.efficiencies.get(content)
    row = replace(
        row, report=report.report if report else None, efficiency=efficiency.efficiency if efficiency else None
    )
    return row if row.report is None or row.control else replace(row, size=sizes.size(row.report))


def _decided(row: Row, headline: Sequence[str], margins: Mapping[str, float]) -> Row:
    return row if row.full_precision else replace(row, decision=decide(headline, row.changes, margins))


def _with_reliability(
    row: Row, headline: Sequence[str], bases: Mapping[tuple[str, str, str], Record], comparer: Comparer
) -> Row:
    """With its reliability, and where the evidence of all its records can be read the interval."""
    if row.full_precision:
        return row
    values = {key: change.value for key, change in row.changes.items()}
    found = reliability(values, {key: change.reference for key, change in row.changes.items()}, headline)
    pairs = {name: (r, bases.get((r.model, r.name, r.comparison_key))) for name, r in row.records.items()}
    needed = {"/".join(key.split("/")[:2]) for key in found.weights}
    try:
        own = {name: comparer.evidence(r.key) for name, (r, _) in pairs.items() if name in needed}
        base = {name: comparer.evidence(b.key) for name, (_, b) in pairs.items() if name in needed and b is not None}
    except ReliquantError as error:
        return replace(row, reliability=replace(found, reason=str(error)))
    return replace(row, reliability=with_error(found, own, base))


def _content(row: Row, ledger: Ledger) -> str:
    """The row's `Configuration.quantized_key`; "" where every record of it failed early."""
    named = (record.provenance.get("quantized_model", "") for record in row.records.values())
    return next(filter(None, named), "")


def _with_latencies(rows: Sequence[Row], ledger: Ledger) -> list[Row]:
    """Times of the machine, device and threads that most rows were timed on; others, and noisy ones, mean nothing."""
    machines = {key: found.machine for key, found in ledger.efficiencies.items()}
    timed: dict[int, tuple[Any, ...]] = {}
    for i, row in enumerate(rows):
        speed = row.efficiency["speed"] if row.efficiency else None
        if speed is not None and timing_state(row.efficiency) == "measured":
            timed[i] = (machines[_content(row, ledger)], speed["device"], speed["cpu"], speed["threads"])
    if not timed:
        return list(rows)
    (_, device, cpu, threads), _ = most = Counter(timed.values()).most_common(1)[0]
    where = f"{cpu if device == 'cpu' else device}, {threads} {'thread' if threads == 1 else 'threads'}"
    return [
        replace(row, latency=_latency(row, where)) if timed.get(i) == most[0] else row for i, row in enumerate(rows)
    ]


def _latency(row: Row, where: str) -> Latency:
    speed = (row.efficiency or {})["speed"]
    return Latency(speed["latency_ms_p50"], where)


def read_spectra(home: Path, models: Sequence[str], data: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Spectral studies of `reliquant spectrum` in the results folder: of these models, on data that `data` accepts.

    Raises:
        StorageError: a study that cannot be read.
    """
    found = []
    for path in sorted((home / "spectrum").glob("*/spectrum.json")):
        try:
            study = json.loads(path.read_text(encoding="utf-8"))
            wanted = study["format"] == 2 and study["model"] in models and data(study["data"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path} is damaged ({error}); delete it, or run `reliquant spectrum` again") from error
        if wanted:
            found.append(study)
    return found
