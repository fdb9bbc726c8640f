"""What `reliquant compare` does: read the ledger, pair each quantization with full precision, print or write."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from benchmark.engine.include import include_files
from benchmark.engine.plan import tasks
from benchmark.errors import InputError, StorageError, UnknownNameError
from benchmark.ledger.records import Ledger, Record
from benchmark.results.compare import Change, Comparer, adjust
from benchmark.results.formats import FORMATS
from benchmark.results.hypotheses import paragraph
from benchmark.results.tables import shallowest_headlines
from benchmark.spec.suite import expand_all, load_suite, suite_names
from benchmark.utils.output import out
from benchmark.utils.progress import Progress, open_progress, shown

UNPAIRED = 3
"""Exit status when some evaluations could not be compared."""


@dataclass(frozen=True)
class CompareRequest:
    """The command line of `reliquant compare`."""

    runs: Sequence[str] = ()
    suite: str = "demo"
    models: Sequence[str] = ()
    metrics: Sequence[str] = ()
    all_metrics: bool = False
    claims: bool = False
    format: str = "table"
    output: Path | None = None
    home: Path = Path("mlruns")
    include: Sequence[Path] = field(default_factory=list)
    quiet: bool = False


def compare_runs(request: CompareRequest) -> int:
    """Print or write the comparison; returns the exit status (0, or 3 when something could not be compared)."""
    if request.format not in FORMATS:
        raise UnknownNameError("--format", request.format, FORMATS)
    include_files(request.include)
    if not (request.home / "ledger.jsonl").is_file():
        raise InputError(f"{request.home} holds no results; run a suite first, or name the folder with --home DIR")
    ledger, comparer = Ledger(request.home), Comparer(request.home)
    name, headline = find_suite(request.suite, ledger)
    records = newest(record for record in ledger.records.values() if record.suite == name)
    with open_progress(request.quiet) as progress:
        changes = find_changes(_chosen(request, records, name), records, comparer, ledger, progress)
    for evaluation, reason in () if request.quiet else comparer.failures.items():
        print(f"warning: {evaluation} cannot be compared: {reason}", file=sys.stderr)
    text = _text(request, name, headline, changes)
    if request.output is None:
        out().write(text)
    else:
        try:
            request.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{request.output} cannot be written: {error.strerror}") from error
    return UNPAIRED if comparer.failures else 0


def newest(records: Iterable[Record]) -> list[Record]:
    """Finished records that are not superseded.

    The ledger also keeps evaluations with another limit, prompt or task version. Of a quantization the last one of each
    evaluation counts; full-precision records are all kept, a quantization is compared with the one that matches it.
    """
    found: dict[tuple[str, ...], Record] = {}
    for record in records:
        if record.status == "done":
            key = (record.model, record.quantization, record.name)
            found.pop(key, None)
            found[(*key, record.pair) if record.quantization == "fp32" else key] = record
    return list(found.values())


def find_changes(
    chosen: Sequence[Record],
    records: Sequence[Record],
    comparer: Comparer,
    ledger: Ledger,
    progress: Progress | None = None,
) -> list[Change]:
    """All changes of the chosen records against the full-precision records that they can be compared with."""
    full = [record for record in records if record.quantization == "fp32"]
    bases = {(r.model, r.name, r.pair): r for r in full}
    origins = {(r.name, r.pair): r for r in full if r.pair}  # of exported models, which have another name
    changes: list[Change] = []
    with (progress or shown()).phase("compare", len(chosen)) as advance:
        for record in chosen:
            base = bases.get((record.model, record.name, record.pair)) or origins.get((record.name, record.pair))
            if base is None:
                comparer.failures[f"{record.model}, {record.quantization}: {record.name}"] = (
                    "the ledger has no full-precision evaluation on the same data; run the suite again with its --limit"
                )
            else:
                changes += comparer.changes(tasks.get(record.task), record, base, ledger.outcome)
            advance(1)
    return changes


def find_suite(asked: str, ledger: Ledger) -> tuple[str, tuple[str, ...]]:
    """Name of the suite in the ledger and its headline metrics, if its file can be found."""
    recorded = {record.suite for record in ledger.records.values()}
    if asked in suite_names() or asked.endswith((".yaml", ".yml")):
        suite = load_suite(asked)
        if suite.name not in recorded:
            raise InputError(f"suite '{suite.name}' has no results in {ledger.home}; there are: {', '.join(recorded)}")
        return suite.name, suite.headline
    if asked not in recorded:
        raise UnknownNameError(f"suite in {ledger.home}", asked, recorded)
    return asked, ()


def _chosen(request: CompareRequest, records: Sequence[Record], suite: str) -> list[Record]:
    """The quantized records that the command line asks for.

    Raises:
        UnknownNameError: a model or quantization that the ledger does not have.
    """
    for model in request.models:
        if model not in (known := {record.model for record in records}):
            raise UnknownNameError(f"model in the results of '{suite}'", model, known)
    quantized = [
        record
        for record in records
        if record.quantization != "fp32" and (not request.models or record.model in request.models)
    ]
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


def _text(request: CompareRequest, suite: str, headline: Sequence[str], changes: Sequence[Change]) -> str:
    if request.claims:
        text = paragraph(suite, changes)
        return (
            json.dumps({"suite": suite, "claims": " ".join(text.split())}) + "\n" if request.format == "jsonl" else text
        )
    shown = _shown(request, headline, changes)
    if not shown:
        keys = sorted({change.key.rsplit("/", 1)[0] for change in changes})
        raise InputError(f"no metric begins with {' or '.join(request.metrics)}; there are, for example: {keys[:5]}")
    return FORMATS[request.format](adjust(shown))


def _shown(request: CompareRequest, headline: Sequence[str], changes: Sequence[Change]) -> list[Change]:
    if request.metrics:
        return [change for change in changes if change.key.startswith(tuple(request.metrics))]
    if request.all_metrics:
        return list(changes)
    present = dict.fromkeys(change.key for change in changes)
    keys: Mapping[str, object] = dict.fromkeys(key for key in headline if key in present)
    keys = keys or dict.fromkeys(shallowest_headlines(present, tasks.get))
    return [change for change in changes if change.key in keys]
