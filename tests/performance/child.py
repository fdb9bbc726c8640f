"""`python -m tests.performance.child REPORT run ...`: the command line, watched from inside.

The report (JSON) says when the engine began, how long it took, how many images went through a vision tower, and how
much time the tracker took, its import included, and how much the replicates.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

IMPORTED = "--imported"
"""An option of this module's own: the heavy libraries are imported before the command line begins."""


def since_start() -> float:
    """Seconds since this process was started."""
    return time.time() - psutil.Process().create_time()


class Watch:
    """Wraps functions; nested calls count once."""

    def __init__(self) -> None:
        self.depth, self.seconds = 0, 0.0
        self.report: dict[str, Any] = {}

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its wall time added to `seconds`."""

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.seconds += time.perf_counter() - start

        return wrapped

    def engine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The engine's `run`, with a note of what it did."""

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.report["startup"] = since_start()
            start = time.perf_counter()
            sweep = function(*args, **kwargs)
            self.report |= {
                "engine": time.perf_counter() - start,
                "forward_images": sweep.forward_images,
                "computed": sweep.computed,
                "evaluations": len(sweep.records),
                "configurations": len(sweep.plan.configurations),
                "failed": len(sweep.failed),
            }
            return sweep

        return wrapped


def main() -> None:
    """Patch, run the command line, write the report."""
    report = Path(sys.argv[1])
    if IMPORTED in sys.argv:
        for name in ("open_clip", "netcal.metrics", "scipy.stats"):
            import_module(name)
    watch, errors = Watch(), Watch()
    from benchmark.engine import evaluate, run
    from trackers.mlflow import MLflowTracker

    run.run = watch.engine(run.run)
    for name in ("gather", "with_comparison"):
        setattr(evaluate, name, errors.timed(getattr(evaluate, name)))
    for name in ("open", "connect", "log", "log_sweep"):
        setattr(MLflowTracker, name, watch.timed(getattr(MLflowTracker, name)))
    sys.argv = ["reliquant", *(each for each in sys.argv[2:] if each != IMPORTED)]
    from benchmark.cli import main as command

    try:
        command()
    finally:
        report.write_text(
            json.dumps(
                {**watch.report, "tracking": watch.seconds, "replicates": errors.seconds, "total": since_start()}
            )
        )


if __name__ == "__main__":
    main()
