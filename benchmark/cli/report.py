"""`reliquant report`."""

from __future__ import annotations

from benchmark.report.command import write_report
from benchmark.report.request import ReportRequest


def report(request: ReportRequest) -> None:
    """Write the page and print its path."""
    path = write_report(request)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")
