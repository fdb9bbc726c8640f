"""`reliquant compare`: read the ledger, pair each quantization with full precision, print or write."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from benchmark.cli.requests import CompareRequest
from benchmark.engine.include import include_files
from benchmark.errors import PARTIAL, InputError, StorageError, UnknownNameError
from benchmark.ledger.records import Record
from benchmark.plugins import tasks
from benchmark.results.answers import mixed_versions, of_model, records_of
from benchmark.results.compare import Change, Comparer, adjust, find_changes
from benchmark.results.formats import FORMATS
from benchmark.results.hypotheses import paragraph
from benchmark.results.images import by_evaluation
from benchmark.results.load import find_suite, newest, open_ledger
from benchmark.results.tables import shallowest_headlines
from benchmark.spec.suite import expand_all
from benchmark.utils.output import out
from benchmark.utils.progress import open_progress


def compare_runs(request: CompareRequest) -> int:
    """Print or write the comparison; returns the exit status (0, or 3 when something could not be compared)."""
    if request.json:
        request = replace(request, format="jsonl")
    if request.format not in FORMATS:
        raise UnknownNameError("--format", request.format, FORMATS)
    include_files(request.include)
    ledger, comparer = open_ledger(request.home), Comparer(request.home)
    name, spec = find_suite(request.suite, ledger)
    records = newest(records_of(ledger, name, spec))
    with open_progress(request.quiet) as progress:
        changes = find_changes(_chosen(request, records, name), records, comparer, ledger, progress)
    for evaluation, reason in () if request.quiet else comparer.failures.items():
        print(f"warning: {evaluation} cannot be compared: {reason}", file=sys.stderr)
    if not request.quiet and (warning := mixed_versions(records)):
        print(f"warning: {warning}", file=sys.stderr)
    text = _text(request, name, spec.headline if spec else (), changes, records)
    if request.output is None:
        out().write(text)
    else:
        try:
            request.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{request.output} cannot be written: {error.strerror}") from error
    return PARTIAL if comparer.failures else 0


def _chosen(request: CompareRequest, records: Sequence[Record], suite: str) -> list[Record]:
    """The quantized records that the command line asks for.

    Raises:
        UnknownNameError: a model or quantization that the ledger does not have.
    """
    for model in request.models:
        if not any(of_model(record, model) for record in records):
            known = {record.model for record in records}
            raise UnknownNameError(f"model in the results of '{suite}'", model, known)
    asked = [r for r in records if not request.models or any(of_model(r, model) for model in request.models)]
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


def _text(
    request: CompareRequest, suite: str, headline: Sequence[str], changes: Sequence[Change], records: Sequence[Record]
) -> str:
    if request.claims:
        text = paragraph(suite, changes)
        return (
            json.dumps({"suite": suite, "claims": " ".join(text.split())}) + "\n" if request.format == "jsonl" else text
        )
    shown = _shown(request, headline, changes)
    if not shown:
        keys = sorted({change.key.rsplit("/", 1)[0] for change in changes})
        raise InputError(f"no metric begins with {' or '.join(request.metrics)}; there are, for example: {keys[:5]}")
    names = {"/".join(change.key.split("/")[:2]) for change in shown}
    return FORMATS[request.format](adjust(shown), by_evaluation(r for r in records if r.name in names))


def _shown(request: CompareRequest, headline: Sequence[str], changes: Sequence[Change]) -> list[Change]:
    if request.metrics:
        return [change for change in changes if change.key.startswith(tuple(request.metrics))]
    if request.all_metrics:
        return list(changes)
    present = dict.fromkeys(change.key for change in changes)
    keys: Mapping[str, object] = dict.fromkeys(key for key in headline if key in present)
    keys = keys or dict.fromkeys(shallowest_headlines(present, tasks.get))
    return [change for change in changes if change.key in keys]
