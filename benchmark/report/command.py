"""What `reliquant report` does: find what is meant, read the results, draw, write one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmark.engine.include import include_files
from benchmark.errors import StorageError
from benchmark.report.page import render
from benchmark.report.reproduce import origin, suite_file
from benchmark.report.request import ReportRequest
from benchmark.results.load import find, open_ledger
from benchmark.results.rows import Results, read_results, read_spectra
from benchmark.utils.memory import rare_collection
from benchmark.utils.portable import all_portable
from benchmark.utils.progress import open_progress


def write_report(request: ReportRequest) -> Path:
    """Write the page; returns its path.

    Raises:
        ReliquantError: there are no results, an unknown name, or the file cannot be written.
    """
    include_files(request.include)
    with open_progress(request.quiet) as progress:
        with progress.phase("read the results", 1) as advance:
            ledger = open_ledger(request.home)
            asked = find(ledger, request.what, request.suite, request.data, request.catalogues)
            advance(1)
        results = read_results(ledger, asked.suite, asked.spec)
        results = replace(results, allow_outside=request.allow_outside)
        with progress.phase("draw the page", 1) as advance, rare_collection():
            about = origin(results, suite_file(asked.name))
            if not request.keep_paths:
                about, results = all_portable(about), without_paths(results)
            page = render(results, about, _spectra(results, request.home), asked.runs)
            advance(1)
        for mended in ledger.mended:
            progress.message(mended)
    try:
        request.output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{request.output} cannot be written: {error.strerror}") from error
    return request.output


def without_paths(results: Results) -> Results:
    """Results whose reasons and notes name no absolute paths of this machine."""
    rows = []
    for row in results.rows:
        records = {name: replace(r, notes=all_portable(r.notes)) for name, r in row.records.items()}
        report = row.report and {**row.report, "notes": all_portable(row.report.get("notes", []))}
        rows.append(replace(row, records=records, failed=all_portable(row.failed), report=report))
    return replace(results, rows=tuple(rows), uncompared=all_portable(results.uncompared))


def _spectra(results: Results, home: Path) -> list[dict[str, object]]:
    known = results.spec.data if results.spec else None
    return read_spectra(home, results.models, lambda data: known is None or data in known)
