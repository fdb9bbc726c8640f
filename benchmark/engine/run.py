"""Run a plan: for each configuration the missing evaluations, each recorded as soon as it is finished."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark.analysis.compare import Change, Comparer
from benchmark.data.pixels import PixelCache
from benchmark.engine.banks import BankMaker, ModelHolder
from benchmark.engine.cache import ArrayStore
from benchmark.engine.ledger import Ledger, Record, ReportRow
from benchmark.engine.plan import Configuration, Evaluation, Plan
from benchmark.engine.provenance import provenance, skipped
from benchmark.engine.timing import Timing, time_configuration
from benchmark.errors import ReliquantError, StorageError
from benchmark.plugins import Banks, Outcome
from benchmark.progress import Progress, Silent
from benchmark.spec import FP32
from benchmark.tracking import FinishedConfiguration, Tracker

PIXEL_BUDGET = 20_000_000_000
"""Bytes of decoded pixels kept on disk unless the user says otherwise."""
STATISTICS_BUDGET = 10_000_000_000
"""Bytes of calibration statistics kept on disk; the least recently used go (GPTQ on ViT-B/32: 0.5 GB a tower)."""


@dataclass
class Sweep:
    """What a run produced.

    Attributes:
        records: one per evaluation of the plan, in its order, finished now or before.
        reports: configuration key -> QuantizationReport as JSON. efficiencies: the same for size and speed.
        computed: evaluations done in this run. forward_images: images that went through a vision tower.
        changes: every metric of every quantization against full precision, in the order of the records.
        uncompared: evaluation -> why it could not be compared with full precision.
        untracked: tracker name -> why it could not be written (the ledger has everything).
    """

    plan: Plan
    records: list[Record] = field(default_factory=list)
    reports: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    efficiencies: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    computed: int = 0
    forward_images: int = 0
    changes: list[Change] = field(default_factory=list)
    uncompared: dict[str, str] = field(default_factory=dict)
    untracked: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Record]:
        """Records of evaluations that failed."""
        return [record for record in self.records if record.status == "failed"]


def run(
    plan: Plan,
    home: Path,
    *,
    trackers: Sequence[Tracker] = (),
    progress: Progress | None = None,
    pixel_budget: int = PIXEL_BUDGET,
    skip_broken: bool = False,
    compare: bool = True,
    timing: Timing = "never",
) -> Sweep:
    """Evaluate a plan; what the ledger has already is not done again.

    Args:
        plan: from `make_plan`.
        home: results folder (ledger, samples, caches).
        trackers: told of each finished configuration.
        pixel_budget: bytes of decoded pixels to keep on disk, 0 for none.
        skip_broken: leave out images that cannot be decoded, instead of failing.
        compare: give intervals and p values against full precision (`Sweep.changes`); a second or so a configuration.
        timing: whether to time the configurations, about a second each (`benchmark.engine.timing`).

    Returns:
        All records of the plan. A configuration that fails is recorded as failed, the others go on.

    Raises:
        InputError: the first model cannot be loaded, or an image cannot be decoded: said before any forward pass.
        StorageError: `home` cannot be written.
    """
    progress = progress or Silent()
    ledger = Ledger(home)
    store = ArrayStore(home / "cache" / "banks")
    statistics = ArrayStore(home / "cache" / "statistics", STATISTICS_BUDGET)
    pixels = PixelCache(home / "cache" / "pixels", pixel_budget, skip_broken)
    sweep, comparer = Sweep(plan), Comparer(home) if compare else None
    holder: ModelHolder | None = None
    with progress.phase(f"suite {plan.suite.name}", len(plan.configurations)) as advance:
        for configuration in plan.configurations:
            if holder is None or holder.resolved is not configuration.model:
                holder = ModelHolder(configuration.model, plan.settings.device)
            maker = BankMaker(plan, configuration, holder, store, pixels, progress, statistics)
            job = _Job(plan, configuration, maker, ledger, provenance(plan, configuration))
            if not sweep.records and _to_do(job):
                maker.check_inputs({name for e in configuration.evaluations for r in e.roles.values() for name in r})
            finished = _evaluate(job, sweep, comparer, timing)
            for tracker in trackers:
                _track(tracker, finished, sweep)
            advance(1)
    sweep.uncompared = comparer.failures if comparer else {}
    for damage in (*store.damaged, *statistics.damaged):
        progress.message(f"damaged cache entry found and recomputed: {damage}")
    return sweep


@dataclass(frozen=True)
class _Job:
    """What the evaluations of one configuration share."""

    plan: Plan
    configuration: Configuration
    maker: BankMaker
    ledger: Ledger
    provenance: Mapping[str, Any]

    def record(self, evaluation: Evaluation, **fields: Any) -> Record:
        """A record of one evaluation."""
        return Record(
            key=evaluation.key,
            configuration=self.configuration.key,
            suite=self.plan.suite.name,
            model=self.configuration.model.name,
            quantization=self.configuration.quant.name,
            task=evaluation.task.name,
            dataset=evaluation.label,
            pair=evaluation.pair,
            **{"provenance": self.provenance, **fields},
        )

    def failure(self, evaluation: Evaluation, error: Exception) -> Record:
        """Record that an evaluation failed, with the reason; unexpected errors with their traceback."""
        expected = isinstance(error, ReliquantError)
        record = self.record(
            evaluation,
            status="failed",
            seconds=0.0,
            error=str(error) if expected else f"{type(error).__name__}: {error}",
            provenance=self.provenance if expected else {**self.provenance, "traceback": traceback.format_exc()},
        )
        self.ledger.append(record)
        return record


def _to_do(job: _Job) -> list[Evaluation]:
    return [evaluation for evaluation in job.configuration.evaluations if job.ledger.done(evaluation.key) is None]


def _evaluate(job: _Job, sweep: Sweep, comparer: Comparer | None, timing: Timing) -> FinishedConfiguration:
    """Do the pending evaluations of a configuration and gather all its records."""
    ledger, configuration = job.ledger, job.configuration
    ledger.refresh()
    pending = _to_do(job)
    new = _pending(job, pending) if pending else {}
    time_configuration(job.maker, ledger, timing)
    found = [new.get(e.key) or ledger.records[e.key] for e in configuration.evaluations]
    records = [_adopted(record, job.plan, configuration) for record in found]
    sweep.records += records
    sweep.computed += len(new)
    sweep.forward_images += job.maker.forward_images
    finished = _finished(job.plan, configuration, records, ledger, comparer)
    sweep.changes += finished.changes
    if finished.report is not None:
        sweep.reports[configuration.key] = finished.report
    if finished.efficiency is not None:
        sweep.efficiencies[configuration.key] = finished.efficiency
    return finished


def _finished(
    plan: Plan, configuration: Configuration, records: Sequence[Record], ledger: Ledger, comparer: Comparer | None
) -> FinishedConfiguration:
    report, efficiency = ledger.reports.get(configuration.content), ledger.efficiencies.get(configuration.content)
    bases = _reference_records(plan, configuration, ledger)
    tasks = {e.name: e.task for e in configuration.evaluations}
    return FinishedConfiguration(
        plan=plan,
        configuration=configuration,
        report=report.report if report else None,
        efficiency=efficiency.efficiency if efficiency else None,
        records=tuple(records),
        outcomes={r.key: ledger.outcome(r) for r in records if r.status == "done"},
        references={name: ledger.outcome(record) for name, record in bases.items()},
        changes=tuple(
            change
            for record in records
            if comparer and record.status == "done" and record.name in bases
            for change in comparer.changes(tasks[record.name], record, bases[record.name], ledger.outcome)
        ),
    )


def _adopted(record: Record, plan: Plan, configuration: Configuration) -> Record:
    """A record as this plan's: another suite, or another name for the model, may have computed it before."""
    return replace(record, configuration=configuration.key, suite=plan.suite.name, model=configuration.model.name)


def replay(plan: Plan, ledger: Ledger, tracker: Tracker, progress: Progress) -> int:
    """Tell a tracker of every configuration that the ledger has completely; returns how many. Runs no model."""
    count, comparer = 0, Comparer(ledger.home)
    with progress.phase(f"sync {plan.suite.name}", len(plan.configurations)) as advance:
        for configuration in plan.configurations:
            found = [ledger.records.get(e.key) for e in configuration.evaluations]
            records = [_adopted(record, plan, configuration) for record in found if record is not None]
            if len(records) == len(found):
                tracker.log(_finished(plan, configuration, records, ledger, comparer))
                count += 1
            advance(1)
    return count


def _pending(job: _Job, pending: Sequence[Evaluation]) -> dict[str, Record]:
    """Evaluate; a failure before the tasks (quantizing, embedding) fails every pending evaluation."""
    try:
        if job.configuration.content not in job.ledger.reports:
            job.ledger.append_report(ReportRow(job.configuration.content, job.maker.quantized[1].to_json()))
        job.maker.prepare(_wanted(pending))
    except StorageError:
        raise
    except Exception as error:  # the rest of the sweep goes on; the reason is recorded
        return {e.key: job.failure(e, error) for e in pending}
    bases = _reference_records(job.plan, job.configuration, job.ledger)
    references = {e.name: job.ledger.outcome(bases[e.name]) for e in pending if e.name in bases}
    return {e.key: _one(job, e, references.get(e.name)) for e in pending}


def _wanted(evaluations: Sequence[Evaluation]) -> dict[str, tuple[str, ...]]:
    wanted: dict[str, tuple[str, ...]] = {}
    for evaluation in evaluations:
        for name in {name for names in evaluation.roles.values() for name in names}:
            wanted[name] = tuple(sorted({*wanted.get(name, ()), *evaluation.taps}))
    return wanted


def _one(job: _Job, evaluation: Evaluation, reference: Outcome | None) -> Record:
    start = time.monotonic()
    task = evaluation.task
    try:
        banks = {
            role: [job.maker.bank(name, evaluation.taps) for name in names] for role, names in evaluation.roles.items()
        }
        outcome = task.run(Banks(banks, evaluation.options, job.maker.texts(evaluation.texts)))
        compared = task.run_comparison(outcome, reference) if reference else Outcome({})
    except StorageError:
        raise
    except Exception as error:  # the rest of the sweep goes on; the reason is recorded
        return job.failure(evaluation, error)
    prefix = f"{evaluation.name}/"
    record = job.record(
        evaluation,
        status="done",
        seconds=time.monotonic() - start,
        metrics={prefix + key: float(value) for key, value in {**outcome.metrics, **compared.metrics}.items()},
        notes={prefix + key: note for key, note in {**outcome.notes, **compared.notes}.items()},
        provenance={**job.provenance, "skipped": skipped(job.plan, [bank for some in banks.values() for bank in some])},
    )
    job.ledger.append(record, outcome)
    return record


def _reference_records(plan: Plan, configuration: Configuration, ledger: Ledger) -> dict[str, Record]:
    """Finished full-precision records of the same model by evaluation name; empty for full precision itself."""
    if configuration.quant == FP32:
        return {}
    full = next(c for c in plan.configurations if c.quant == FP32 and c.model is configuration.model)
    done = {e.name: ledger.done(e.key) for e in full.evaluations}
    return {name: record for name, record in done.items() if record is not None}


def _track(tracker: Tracker, finished: FinishedConfiguration, sweep: Sweep) -> None:
    """A tracker that fails loses nothing: the ledger has the records, `reliquant sync` brings them over."""
    if tracker.name in sweep.untracked:
        return
    try:
        tracker.log(finished)
    except Exception as error:  # a stranger's tracker or a server may raise anything
        sweep.untracked[tracker.name] = f"{type(error).__name__}: {error}"
