"""`reliquant compare`: read the ledger, pair each quantization with full precision, print or write."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

from benchmark.cli.requests import CompareRequest
from benchmark.engine.include import include_files
from benchmark.errors import PARTIAL, InputError, StorageError, UnknownNameError
from benchmark.ledger.records import Ledger, Record
from benchmark.plugins import tasks
from benchmark.results import findings, group_formats, hypotheses, mechanism, published
from benchmark.results.answers import mixed_versions, records_of, require_model
from benchmark.results.compare import Change, Comparer, adjust, find_changes
from benchmark.results.effects import asked_of, collect, companion, without_exported
from benchmark.results.evidence import evidence_of
from benchmark.results.formats import FORMATS
from benchmark.results.groups import (
    calibrated_on,
    facts_by_model,
    few_models,
    group_means,
    keys_of,
    require_keys,
    runs_of,
)
from benchmark.results.images import by_evaluation
from benchmark.results.last import default_suite
from benchmark.results.load import find_suite, newest, open_ledger
from benchmark.results.tables import shallowest_headlines
from benchmark.spec import FP32, SuiteSpec
from benchmark.spec.suite import expand_all
from benchmark.utils.output import out
from benchmark.utils.progress import Progress, open_progress


def compare_runs(request: CompareRequest) -> int:
    """Print or write the comparison; returns the exit status (0, or 3 when something could not be compared)."""
    if request.json:
        request = replace(request, format="jsonl")
    _check(request)
    include_files(request.include)
    ledger = open_ledger(request.home)
    comparer = Comparer(ledger)
    default = default_suite(ledger)
    name, spec = find_suite(request.suite or default.suite, ledger)
    if request.suite is None and not request.quiet:
        print(default.told, file=sys.stderr)
    headline = spec.headline if spec else ()
    records = newest(records_of(ledger, name, spec))
    chosen = _chosen(request, records, name)
    with open_progress(request.quiet) as progress:
        if request.controls:
            keys = _keys(request, headline, [key for record in chosen for key in record.metrics])
            full = [record for record in records if record.quantization == FP32.name]
            matches, failures = mechanism.match([*full, *chosen], partial(evidence_of, ledger), keys, progress)
            text = mechanism.FORMATS[request.format](name, matches)
        elif request.by or request.claims:
            text, failures = _grouped(request, ledger, records, chosen, (name, spec), progress)
        else:
            changes = find_changes(chosen, records, comparer, progress)
            shown = _shown(request, headline, changes)
            names = {"/".join(change.key.split("/")[:2]) for change in shown}
            data = by_evaluation(record for record in records if record.name in names)
            text, failures = FORMATS[request.format](adjust(shown), data), comparer.failures
    for mended in () if request.quiet else ledger.mended:
        print(f"warning: {mended}", file=sys.stderr)
    for evaluation, reason in () if request.quiet else failures.items():
        print(f"warning: {evaluation} cannot be compared: {reason}", file=sys.stderr)
    for warning in () if request.quiet else (*published.warnings(records), *filter(None, [mixed_versions(records)])):
        print(f"warning: {warning}", file=sys.stderr)
    if request.output is None:
        out().write(text)
    else:
        try:
            request.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{request.output} cannot be written: {error.strerror}") from error
    return PARTIAL if failures else 0


def _check(request: CompareRequest) -> None:
    """What can be refused without reading results."""
    if request.format not in FORMATS:
        raise UnknownNameError("--format", request.format, FORMATS)
    if sum(map(bool, (request.by, request.claims, request.controls))) > 1:
        raise InputError("--by, --claims and --controls: one of them at a time")
    if request.by:
        keys_of(request.by)


def _grouped(
    request: CompareRequest,
    ledger: Ledger,
    records: Sequence[Record],
    chosen: Sequence[Record],
    suite: tuple[str, SuiteSpec | None],
    progress: Progress,
) -> tuple[str, dict[str, str]]:
    """Means over groups or the study's claims, as text; and what could not be compared."""
    name, spec = suite
    models = spec.models if spec else ()
    own = without_exported(chosen, records)
    names = [(record.model, record.quantization) for record in own]
    runs = runs_of(names, facts_by_model(records, models), calibrated_on(own))
    kept = [record for record in own if (record.model, record.quantization) in runs]
    load = partial(evidence_of, ledger)
    if request.claims:
        effects, failures = collect(kept, records, load, hypotheses.wanted, progress)
        return findings.FORMATS[request.format](name, hypotheses.examine(effects, runs), runs), failures
    keys = keys_of(request.by)
    require_keys(runs, keys)
    if not request.quiet and (note := few_models(runs, keys)):
        print(f"note: {note}", file=sys.stderr)
    metrics = _keys(request, spec.headline if spec else (), [key for record in kept for key in record.metrics])
    effects, failures = collect(kept, records, load, lambda record: asked_of(record, metrics), progress)
    order = {name: at for at, key in enumerate(metrics) for name in (key, companion(key))}
    effects.sort(key=lambda effect: order[effect.key])
    return group_formats.FORMATS[request.format](group_means(effects, runs, keys), keys), failures


def _chosen(request: CompareRequest, records: Sequence[Record], suite: str) -> list[Record]:
    """The quantized records that the command line asks for.

    Raises:
        UnknownNameError: a model or quantization that the ledger does not have.
    """
    asked = list(records)
    if request.models:
        chosen = {(r.key, r.model) for model in request.models for r in require_model(records, model, suite)}
        asked = [record for record in records if (record.key, record.model) in chosen]
    quantized = [record for record in asked if record.quantization != "fp32"]
    names = {record.quantization for record in quantized}
    if not names:
        raise InputError(f"the results of suite '{suite}' hold no quantization to compare")
    patterns = expand_all(request.runs)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError(f"run in the results of '{suite}'", pattern, names)
    if not patterns:
        return quantized
    return [record for record in quantized if any(fnmatchcase(record.quantization, p) for p in patterns)]


def _shown(request: CompareRequest, headline: Sequence[str], changes: Sequence[Change]) -> list[Change]:
    keys = set(_keys(request, headline, [change.key for change in changes]))
    return [change for change in changes if change.key in keys]


def _keys(request: CompareRequest, headline: Sequence[str], keys: Iterable[str]) -> list[str]:
    """The metric keys that are shown, among those that there are.

    Raises:
        InputError: `--metric` fits none.
    """
    present = list(dict.fromkeys(keys))
    if request.metrics:
        chosen = [key for key in present if key.startswith(tuple(request.metrics))]
        if not chosen:
            known = sorted({key.rsplit("/", 1)[0] for key in present})
            raise InputError(
                f"no metric begins with {' or '.join(request.metrics)}; there are, for example: {known[:5]}"
            )
        return chosen
    if request.all_metrics:
        return present
    return [key for key in dict.fromkeys(headline) if key in present] or shallowest_headlines(present, tasks.get)
