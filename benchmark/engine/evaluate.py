"""Compute an evaluation, on any executor: banks in, an outcome or a failure out. Writes nothing."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmark.bank import FeatureBank
from benchmark.engine.banks import BankMaker
from benchmark.engine.plan import Evaluation
from benchmark.engine.provenance import counts, prompts, skipped
from benchmark.errors import PluginError, ReliquantError, StorageError
from benchmark.plugins import Banks, Outcome, Summary, Task
from benchmark.results.evidence import Evidence, gather, with_comparison
from benchmark.utils.guard import described, guarded, text_of, within

READ_ONLY = ("read-only", "WRITEABLE flag to True")
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Result:
    """The result of computing one evaluation.

    Attributes:
        outcome: its metrics and samples; None where it failed with the reason `error`. evidence: their errors.
        provenance: machine, versions and inputs of the computation.
    """

    seconds: float = 0.0
    outcome: Outcome | None = None
    evidence: Evidence | None = None
    error: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def embed(maker: BankMaker, evaluations: Sequence[Evaluation], with_report: bool) -> dict[str, Any] | None:
    """Quantize, and compute the banks of these evaluations that the caches lack.

    Returns:
        The QuantizationReport as JSON, if wanted.

    Raises:
        Exception: whatever a model or a quantizer raises.
    """

    def make() -> dict[str, Any] | None:
        report = maker.quantized[1].to_json() if with_report else None
        if (full := maker.full_precision) is not None and full is not maker:
            full.prepare(_wanted([e for e in evaluations if e.task.full_precision], full_precision=True))
        maker.prepare(_wanted(evaluations))
        return report

    return guarded(f"{maker.configuration.quant.name}: quantizing or embedding", make)


def _wanted(evaluations: Sequence[Evaluation], full_precision: bool = False) -> dict[str, tuple[str, ...]]:
    """Data set -> taps that these evaluations need. Args: full_precision: of those that a task also wants so."""
    wanted: dict[str, tuple[str, ...]] = {}
    for evaluation in evaluations:
        roles = {r: n for r, n in evaluation.roles.items() if not full_precision or r in evaluation.task.full_precision}
        for name in {name for names in roles.values() for name in names}:
            wanted[name] = tuple(sorted({*wanted.get(name, ()), *evaluation.taps}))
    return wanted


def evaluate(maker: BankMaker, evaluation: Evaluation, about: Mapping[str, Any]) -> Result:
    """Run one task on its banks; a task that fails gives a result with the reason.

    Args:
        about: provenance shared by the evaluations of a configuration.

    Raises:
        StorageError: the cache cannot be written.
    """
    start = time.monotonic()
    try:
        given = guarded(f"{maker.configuration.quant.name}: embedding", lambda: _banks(maker, evaluation))
        seconds = maker.plan.settings.task_timeout
        outcome = run_task(evaluation.task, given, seconds)
        evidence = run_errors(evaluation.task, outcome, evaluation.options, seconds)
    except StorageError:
        raise
    except Exception as error:  # the rest of the sweep goes on; the reason is recorded
        return replace(failure(error, about), seconds=time.monotonic() - start)
    banks = given.by_role
    left_out = skipped(maker.plan, [bank for some in banks.values() for bank in some])
    names = {bank.dataset for some in banks.values() for bank in some}
    cut = prompts({name: about for name, about in maker.prompts.items() if name in names})
    seen = {"skipped": left_out, "counts": counts(maker.plan, banks), "prompts": cut}
    return Result(time.monotonic() - start, outcome, evidence, provenance={**about, **seen})


def _banks(maker: BankMaker, evaluation: Evaluation) -> Banks:
    """What a task gets; the banks in full precision come from the cache, or are made there."""
    task, roles, full = evaluation.task, evaluation.roles, maker.full_precision

    def made(by: BankMaker, role: str) -> list[FeatureBank]:
        return [by.bank(name, evaluation.taps, role in task.captions) for name in roles[role]]

    own = {role: made(maker, role) for role in roles}
    before = {}
    if full is not None:
        asked = [role for role in task.full_precision if role in roles]
        before = {role: own[role] if full is maker else made(full, role) for role in asked}
    return Banks(own, evaluation.options, maker.texts(evaluation.texts), before)


def run_task(task: Task, banks: Banks, seconds: float | None = None) -> Outcome:
    """Run a task on its banks, which are read-only.

    Args:
        seconds: time limit; None: no limit.

    Raises:
        PluginError: it took longer, wrote to its banks, tried to end the process, or see `Task.run`.
    """
    lent = banks.read_only()
    before = lent.checksums()
    try:
        outcome = within(seconds, f"task '{task.name}'", lambda: task.run(lent))
    except StorageError as error:  # the task raised it: our own storage is not at fault
        raise PluginError(f"task '{task.name}' raised {described(error)}") from error
    except (ValueError, TypeError) as error:
        if any(words in text_of(error) for words in READ_ONLY):
            raise PluginError(f"{_writes(task)} ({described(error)})") from error
        raise
    changed = [name for name, value in lent.checksums().items() if value != before[name]]
    if changed:
        raise PluginError(f"{_writes(task)} (changed: {', '.join(changed)})")
    return outcome


def run_errors(task: Task, outcome: Outcome, options: Any, seconds: float | None = None) -> Evidence:
    """What is known about the errors of a task's metrics.

    Raises:
        PluginError: it took longer than `seconds`, tried to end the process, or see `evidence.gather`.
    """
    return within(seconds, f"task '{task.name}': replicates", lambda: gather(task, outcome, options))


def run_comparison(
    evaluation: Evaluation, outcome: Outcome, evidence: Evidence, reference: Outcome, seconds: float | None = None
) -> tuple[Summary, Evidence]:
    """Metrics of a task against full precision, and the evidence with theirs.

    Raises:
        PluginError: it took longer than `seconds`, tried to end the process, or see `Task.run_comparison`.
    """
    task, options, pair = evaluation.task, evaluation.options, (outcome.columns, reference.columns)
    where = f"task '{task.name}': compare"
    compared = within(seconds, where, lambda: task.run_comparison(*pair, options))
    return compared, within(seconds, where, lambda: with_comparison(evidence, task, pair, compared, options))


def _writes(task: Task) -> str:
    return f"task '{task.name}' writes to its banks, which are read-only. Let it copy the arrays that it changes"


def failure(error: Exception, about: Mapping[str, Any], batch_size: int | None = None) -> Result:
    """A failed evaluation; unexpected errors keep their traceback.

    Args:
        batch_size: if given, the error suggests a smaller one when memory ran out.
    """
    if out_of_memory(error):
        first = text_of(error).split(". ")[0][:200]
        hint = f"; try a --batch-size below {batch_size}" if batch_size is not None and batch_size > 1 else ""
        return Result(error=f"out of memory ({first or type(error).__name__}){hint}", provenance=about)
    if isinstance(error, ReliquantError):
        return Result(error=text_of(error), provenance=about)
    trace = "".join(traceback.format_exception(error))
    return Result(error=described(error), provenance={**about, "traceback": trace})


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, on the device or on the host, also below an error that names a plugin."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(text in text_of(error) for text in _NO_MEMORY):
            return True
        error = error.__cause__
    return False
