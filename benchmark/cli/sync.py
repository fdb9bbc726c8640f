"""`reliquant sync`: from the ledger to MLflow."""

from __future__ import annotations

import json

from benchmark.engine.include import include_files
from benchmark.engine.request import SyncRequest
from benchmark.engine.requested import recorded_plan
from benchmark.engine.run import replay
from benchmark.ledger.records import Ledger
from benchmark.tracking import DEFAULT_TRACKER, trackers
from benchmark.utils.output import out
from benchmark.utils.progress import open_progress


def sync_suite(request: SyncRequest) -> int:
    """Log the finished configurations of a run from the ledger to MLflow."""
    include_files(request.include)
    with open_progress(request.quiet) as progress:
        ledger = Ledger(request.home)
        if ledger.damage:
            progress.message(ledger.damage)
        plan = recorded_plan(request, ledger.records)
        tracker = trackers.get(DEFAULT_TRACKER).open(request.home, request.tracking_uri)
        count = replay(plan, ledger, tracker, progress)
    missing = len(plan.configurations) - count
    if request.json:
        print(json.dumps({"suite": plan.suite.name, "configurations": count, "missing": missing}), file=out())
    else:
        print(
            f"{count} configurations of suite '{request.suite}' are in MLflow"
            + (f"; {missing} are not finished in {request.home}" if missing else "")
        )
    return 0
