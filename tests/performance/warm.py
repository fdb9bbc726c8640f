"""`python -m tests.performance.warm SUITE HOME`: fill the pixel cache of a suite; no model runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmark.data.pixels import PixelCache
from benchmark.engine.plan import make_plan
from benchmark.engine.run import PIXEL_BUDGET
from benchmark.spec.suite import load_suite


def main() -> None:
    """Open the pixels of every data set."""
    plan = make_plan(load_suite(sys.argv[1]))
    cache = PixelCache(Path(sys.argv[2]) / "cache" / "pixels", PIXEL_BUDGET)
    for data in plan.data.values():
        cache.open(data, plan.configurations[0].model.preprocess, workers=os.cpu_count() or 1)


if __name__ == "__main__":
    main()
