"""What `reliquant report` does: find what is meant, read the results, draw, write one file."""

from __future__ import annotations

from pathlib import Path

from benchmark.engine.include import include_files
from benchmark.errors import StorageError
from benchmark.report.page import render
from benchmark.report.reproduce import origin, suite_file
from benchmark.report.request import ReportRequest
from benchmark.results.load import find, open_ledger
from benchmark.results.rows import Results, read_results, read_spectra
from benchmark.utils.memory import rare_collection
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
        with progress.phase("draw the page", 1) as advance, rare_collection():
            about = origin(results, suite_file(asked.name))
            page = render(results, about, _spectra(results, request.home), asked.runs)
            advance(1)
    try:
        request.output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{request.output} cannot be written: {error.strerror}") from error
    return request.output


def _spectra(results: Results, home: Path) -> list[dict[str, object]]:
    known = results.spec.data if results.spec else None
    return read_spectra(home, results.models, lambda data: known is None or data in known)
