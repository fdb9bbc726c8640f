"""What `reliquant report` does: find what is meant, read the results, draw, write one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmark.engine.include import include_files
from benchmark.errors import StorageError
from benchmark.ledger.records import Ledger
from benchmark.report.page import render
from benchmark.report.reproduce import origin, suite_file
from benchmark.report.request import ReportRequest
from benchmark.results.load import Asked, find, open_ledger
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
        if asked.told:
            progress.message(asked.told)
        with progress.phase("draw the page", 1) as advance:
            page = draw_page(ledger, asked, request.allow_outside, request.keep_paths)
            advance(1)
        for mended in ledger.mended:
            progress.message(mended)
    return save(page, request.output)


def draw_page(ledger: Ledger, asked: Asked, allow_outside: bool = False, keep_paths: bool = False) -> str:
    """The page as HTML.

    Args: allow_outside, keep_paths: as in `ReportRequest`.
    """
    results = replace(read_results(ledger, asked.suite, asked.spec), allow_outside=allow_outside)
    with rare_collection():
        about = origin(results, suite_file(asked.name))
        if not keep_paths:
            about, results = all_portable(about), without_paths(results)
        return render(results, about, _spectra(results, ledger.home), asked.runs)


def save(page: str, path: Path) -> Path:
    """Write a page; returns its path.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
    return path


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
