"""`python -m tests.performance.loop SUITE HOME DEVICE PART`: the least that embedding can take.

`encode_image` of the full-precision model over the pixels of all data sets of a suite, from the warm pixel cache that
the engine uses, batch by batch (64) with the engine's normalisation, threads, type and memory setting; nothing is kept.
PART 0 takes the first half of each data set, 1 the second. Prints seconds and images as JSON; loading is not in the
seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # as the command line sets it

import torch

from benchmark.data.pixels import PixelCache
from benchmark.engine.plan import Settings, make_plan
from benchmark.engine.run import PIXEL_BUDGET
from benchmark.spec.suite import load_suite
from benchmark.utils.memory import keep_freed_memory
from tests.performance.child import since_start

BATCH = 64


def main() -> None:
    """Load, loop, print."""
    suite, home, device, part = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    plan = make_plan(load_suite(suite), Settings(device))
    resolved = plan.configurations[0].model
    model = resolved.load(device)
    cache = PixelCache(home / "cache" / "pixels", PIXEL_BUDGET)
    used = {n for e in plan.configurations[0].evaluations for names in e.roles.values() for n in names}
    halves = []
    for name in sorted(used):
        pixels = cache.open(plan.data[name], resolved.preprocess).array
        middle = len(pixels) // 2
        halves.append(pixels[:middle] if part == 0 else pixels[middle:])
    keep_freed_memory()
    startup, images = since_start(), 0
    start = time.perf_counter()
    for half in halves:
        for first in range(0, len(half), BATCH):
            model.encode_image(torch.tensor(half[first : first + BATCH])).cpu()
        images += len(half)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "images": images, "startup": startup}))


if __name__ == "__main__":
    main()
