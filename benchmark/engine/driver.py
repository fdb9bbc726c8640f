"""The driver of a sweep: it decides what to do and alone writes to ledger and trackers. It runs no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from benchmark.engine.evaluate import Result, failure, run_comparison
from benchmark.engine.leases import Leases
from benchmark.engine.plan import Configuration, Evaluation, Plan
from benchmark.errors import DamagedSamplesError, ReliquantError, StorageError
from benchmark.ledger.records import Alias, Ledger, Record, ReportRow
from benchmark.plugins import Outcome, Summary
from benchmark.results import published
from benchmark.results.compare import Change, Comparer
from benchmark.results.evidence import pack
from benchmark.results.identity import identity
from benchmark.spec import FP32, DataSpec
from benchmark.tracking import (
    FinishedConfiguration,
    FinishedSweep,
    TrackedConfiguration,
    TrackedEvaluation,
    Tracker,
    UsedData,
    sweeps,
)
from benchmark.utils.guard import described, guarded
from benchmark.utils.portable import all_portable, portable
from benchmark.utils.progress import Progress, Silent


@dataclass
class Sweep:
    """The result of a run.

    Attributes:
        records: one per evaluation of the plan, in its order, finished now or before.
        reports: configuration key -> QuantizationReport as JSON. efficiencies: the same for size and speed.
        computed: evaluations done by this process. forward_images: images that went through a vision tower here.
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


@dataclass
class Driver:
    """The part that every executor (local, Ray) shares."""

    plan: Plan
    ledger: Ledger
    leases: Leases
    trackers: Sequence[Tracker]
    progress: Progress
    comparer: Comparer | None
    sweep: Sweep

    def __post_init__(self) -> None:
        self._failed_before = {k: r for k, r in self.ledger.records.items() if r.status == "failed"}
        self._full = full_precision(self.plan)
        self._references: tuple[str, dict[str, Outcome]] = ("", {})
        self._finished: dict[str, FinishedConfiguration] = {}

    def pending(self, configuration: Configuration) -> list[Evaluation]:
        """Evaluations that are not finished and, in any process, have not failed since this run began."""
        return [e for e in configuration.evaluations if not self._settled(e.key)]

    def _settled(self, key: str) -> bool:
        if self.ledger.done(key) is not None:
            return True
        record = self.ledger.records.get(key)
        return record is not None and record.status == "failed" and record is not self._failed_before.get(key)

    def reference(self, configuration: Configuration) -> Configuration | None:
        """Full precision of the same model; None for full precision itself, and where the plan lacks it."""
        return reference(configuration, self._full)

    def references(self, configuration: Configuration) -> dict[str, Outcome]:
        """Finished full-precision outcomes by evaluation name, cached while the model stays the same.

        Raises:
            DamagedSamplesError: one cannot be read; it is then pending again.
        """
        records = reference_records(configuration, self._full, self.ledger)
        key = ",".join(record.key for record in records.values())
        if self._references[0] != key:
            self._references = key, {name: self.ledger.outcome(record) for name, record in records.items()}
        return self._references[1]

    def report(self, configuration: Configuration, report: Mapping[str, Any] | None) -> None:
        """Keep the QuantizationReport of a configuration, unless the ledger has it."""
        if report is not None and configuration.quantized_key not in self.ledger.reports:
            self.ledger.append_report(ReportRow(configuration.quantized_key, report))

    def write(self, configuration: Configuration, evaluation: Evaluation, result: Result) -> None:
        """Compare with full precision and record; the references must be settled."""
        metrics, notes, evidence = {}, {}, result.evidence
        if result.outcome is not None and evidence is not None:
            reference = self.references(configuration).get(evaluation.name)
            try:
                compared = Summary({})
                if reference:
                    seconds = self.plan.settings.task_timeout
                    compared, evidence = run_comparison(evaluation, result.outcome, evidence, reference, seconds)
                metrics = {**result.outcome.metrics, **compared.metrics}
                notes = {**result.outcome.notes, **compared.notes}
            except Exception as error:  # a plugin's task may raise anything; the reason is recorded
                result = failure(error, result.provenance)
        prefix = f"{evaluation.name}/"
        named = {prefix + key: float(value) for key, value in metrics.items()}
        checked = published_checks(self.plan, configuration, evaluation, named, result.provenance)
        record = Record(
            key=evaluation.key,
            configuration=configuration.key,
            suite=self.plan.suite.name,
            model=configuration.model.name,
            quantization=configuration.quant.name,
            task=evaluation.task.name,
            dataset=evaluation.label,
            comparison_key=evaluation.comparison_key,
            status="failed" if result.outcome is None else "done",
            seconds=result.seconds,
            error=result.error,
            metrics=named,
            notes={prefix + key: note for key, note in notes.items()},
            provenance={**result.provenance, "asked": dict(self.plan.asked), **checked},
            identity=identity_of(self.plan, configuration, evaluation),
        )
        self.ledger.append(record, result.outcome, pack(evidence) if evidence and result.outcome else None)
        self.sweep.computed += 1

    def finish(self, configuration: Configuration) -> None:
        """Gather all records of a configuration and log them to the trackers; call it while holding its lease.

        If another process took the lease over, while this one was suspended, that process logs them.

        Raises:
            DamagedSamplesError: the samples of one cannot be read; it is then pending again.
        """
        found = [self.ledger.records[e.key] for e in configuration.evaluations]
        for evaluation, record in zip(configuration.evaluations, found, strict=True):
            if record.status == "done":
                names = configuration.key, self.plan.suite.name, configuration.model.name
                identity = identity_of(self.plan, configuration, evaluation)
                self.ledger.append_alias(Alias(record.key, *names, identity))
        records = [adopted(record, self.plan, configuration) for record in found]
        bases = reference_records(configuration, self._full, self.ledger)
        finished = finished_configuration(
            self.plan, configuration, records, bases, self.ledger, self.comparer, self.progress
        )
        self._finished[configuration.key] = replace(finished, outcomes={}, references={})
        if self.leases.ours(configuration.quantized_key):
            self._track(configuration.quant.name, lambda tracker: tracker.log(finished))

    def _track(self, title: str, tell: Callable[[Tracker], None]) -> None:
        """Log to every tracker. If one fails, nothing is lost: `reliquant sync` logs the records later."""
        with self.progress.phase(f"track {title}", len(self.trackers)) as advance:
            for tracker in self.trackers:
                if tracker.name not in self.sweep.untracked:
                    try:
                        guarded(f"tracker '{tracker.name}'", partial(tell, tracker))
                    except Exception as error:  # a plugin's tracker or a server may raise anything
                        self.sweep.untracked[tracker.name] = described(error)
                advance(1)

    def close(self) -> Sweep:
        """The sweep, in the plan's order; its comparison is logged to the trackers."""
        for sweep in sweeps([self._finished[c.key] for c in self.plan.configurations]):
            self._track(f"sweep {sweep.model}", partial(_log_sweep, sweep))
        for finished in (self._finished[c.key] for c in self.plan.configurations):
            self.sweep.records += finished.records
            self.sweep.changes += finished.changes
            if finished.report is not None:
                self.sweep.reports[finished.configuration.key] = finished.report
            if finished.efficiency is not None:
                self.sweep.efficiencies[finished.configuration.key] = finished.efficiency
        self.sweep.uncompared = self.comparer.failures if self.comparer else {}
        return self.sweep


def finished_configuration(
    plan: Plan,
    configuration: Configuration,
    records: Sequence[Record],
    bases: Mapping[str, Record],
    ledger: Ledger,
    comparer: Comparer | None,
    progress: Progress | None = None,
) -> FinishedConfiguration:
    """A configuration with its outcomes, references and changes, in the form for trackers.

    Args:
        bases: full-precision records by evaluation name; empty for full precision itself.
    """
    report, efficiency = (
        ledger.reports.get(configuration.quantized_key),
        ledger.efficiencies.get(configuration.quantized_key),
    )
    changes: list[Change] = []
    compared = [record for record in records if record.status == "done" and record.name in bases] if comparer else []

    with (progress or Silent()).phase(f"compare {configuration.quant.name}", len(compared)) as advance:
        for record in compared:
            if comparer:
                changes += comparer.changes(record, bases[record.name])
            advance(1)
    about = tracked(plan, configuration)
    if not plan.settings.keep_paths:
        records = [replace(r, error=r.error and portable(r.error), notes=all_portable(r.notes)) for r in records]
        about = replace(about, evaluations=tuple(map(_portable_data, about.evaluations)))
    return FinishedConfiguration(
        suite=plan.suite,
        configuration=about,
        report=report.report if report else None,
        efficiency=efficiency.efficiency if efficiency else None,
        records=tuple(records),
        outcomes=ledger.outcomes({r.key: r for r in records if r.status == "done"}),
        references=ledger.outcomes(bases),
        changes=tuple(changes),
    )


def _portable_data(evaluation: TrackedEvaluation) -> TrackedEvaluation:
    """The evaluation with data that do not say where they lie on this machine."""
    data = {name: replace(used, spec=_portable_spec(used.spec)) for name, used in evaluation.data.items()}
    return replace(evaluation, data=data)


def _portable_spec(spec: DataSpec) -> DataSpec:
    update = {name: all_portable(getattr(spec, name)) for name in type(spec).model_fields}
    found: DataSpec = spec.model_copy(update=update)
    return found


def tracked(plan: Plan, configuration: Configuration) -> TrackedConfiguration:
    """A configuration as trackers get it: plain values, without model and data."""
    evaluations = []
    for evaluation in configuration.evaluations:
        names = {name for bound in evaluation.roles.values() for name in bound}
        data = {name: UsedData(plan.data[name].spec, plan.data[name].digest) for name in sorted(names)}
        evaluations.append(TrackedEvaluation(evaluation.name, evaluation.task, evaluation.options, data))
    model = configuration.model
    return TrackedConfiguration(configuration.key, model.name, model.family, configuration.quant, tuple(evaluations))


def published_checks(
    plan: Plan,
    configuration: Configuration,
    evaluation: Evaluation,
    metrics: Mapping[str, float],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Full precision against published accuracies, for the record's provenance; empty where none are known.

    Args: metrics: by their full keys. about: the provenance of the computation.
    """
    if configuration.quant != FP32 or configuration.model.quantized is not None:
        return {}
    data = {name: plan.data[name].spec for bound in evaluation.roles.values() for name in bound}
    own = evaluation.task, f"{evaluation.name}/", evaluation.roles, data, configuration.model.spec
    found = published.checks(*own, metrics, about.get("counts", {}))
    return {"published": found} if found else {}


def identity_of(plan: Plan, configuration: Configuration, evaluation: Evaluation) -> dict[str, Any]:
    """The identity of an evaluation of a plan, with the digest of its model."""
    model = configuration.model
    return identity(
        plan.suite, model.spec, configuration.quant, evaluation.task, evaluation.label, evaluation.options, model.digest
    )


def adopted(record: Record, plan: Plan, configuration: Configuration) -> Record:
    """A record relabelled for this plan: another suite, or the model under another name, may have computed it."""
    return replace(record, configuration=configuration.key, suite=plan.suite.name, model=configuration.model.name)


def full_precision(plan: Plan) -> dict[str, Configuration]:
    """Model name -> its configuration in full precision."""
    return {c.model.name: c for c in plan.configurations if c.quant == FP32}


def reference(configuration: Configuration, full: Mapping[str, Configuration]) -> Configuration | None:
    """Its model in full precision; None for full precision itself, and for a model that was stored quantized."""
    if configuration.quant == FP32 or configuration.model.quantized is not None:
        return None
    return full[configuration.model.name]


def reference_records(
    configuration: Configuration, full: Mapping[str, Configuration], ledger: Ledger
) -> dict[str, Record]:
    """Finished full-precision records of its model by evaluation name; empty for full precision itself.

    For a stored quantized model they are those of the model it was made from, if the ledger has them.
    """
    if configuration.model.quantized is not None:
        done = [r for r in ledger.records.values() if r.quantization == FP32.name and r.status == "done"]
        by_pair = {(r.name, r.comparison_key): r for r in done}
        return {
            e.name: by_pair[e.name, e.comparison_key]
            for e in configuration.evaluations
            if (e.name, e.comparison_key) in by_pair
        }
    base = reference(configuration, full)
    found = {e.name: ledger.done(e.key) for e in base.evaluations} if base else {}
    return {name: record for name, record in found.items() if record is not None}


def replay(plan: Plan, ledger: Ledger, tracker: Tracker, progress: Progress) -> int:
    """Log every complete configuration of the ledger to a tracker; returns how many. Runs no model.

    Raises:
        StorageError: the tracker cannot be written; earlier configurations stay logged, the ledger has everything.
    """
    logged: list[FinishedConfiguration] = []
    comparer, full = Comparer(ledger), full_precision(plan)
    with progress.phase(f"sync {plan.suite.name}", len(plan.configurations)) as advance, Leases(ledger.home) as leases:
        for configuration in plan.configurations:
            advance(1)
            found = [ledger.records.get(e.key) for e in configuration.evaluations]
            records = [adopted(record, plan, configuration) for record in found if record is not None]
            with leases.lease(configuration.quantized_key) as holder:
                if len(records) < len(found) or holder is not None:  # the owner of its lease logs it
                    continue
                try:
                    bases = reference_records(configuration, full, ledger)
                    finished = finished_configuration(plan, configuration, records, bases, ledger, comparer, progress)
                    _tell(tracker, partial(tracker.log, finished))
                    logged.append(replace(finished, outcomes={}, references={}))
                except DamagedSamplesError as damage:
                    progress.message(str(damage))
    for sweep in sweeps(logged):
        _tell(tracker, partial(tracker.log_sweep, sweep))
    return len(logged)


def _tell(tracker: Tracker, log: Callable[[], object]) -> None:
    try:
        guarded(f"tracker '{tracker.name}'", log)
    except ReliquantError:
        raise
    except Exception as error:  # an unreachable server; every library raises its own error
        reason = described(error)
        raise StorageError(
            f"tracker '{tracker.name}' could not be written ({reason}). Nothing is lost, the ledger has everything: "
            "once it is back, run the same command again."
        ) from error


def _log_sweep(sweep: FinishedSweep, tracker: Tracker) -> None:
    tracker.log_sweep(sweep)
