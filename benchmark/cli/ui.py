"""`reliquant ui`: the default tracker's own pages."""

from __future__ import annotations

from benchmark.cli.requests import UiRequest
from benchmark.tracking import DEFAULT_TRACKER, trackers


def serve(request: UiRequest) -> None:
    """Serve the tracker's pages until the process is stopped."""
    tracker = trackers.get(DEFAULT_TRACKER)
    tracker.serve(request.home, request.host, request.port, request.tracking_uri, request.browse)
