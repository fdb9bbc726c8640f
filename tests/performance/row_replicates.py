"""What replicates add to a sweep, and what they cost on the largest column sets of the study."""

from __future__ import annotations

import time

from benchmark.plugins import Outcome, tasks
from benchmark.results.evidence import gather
from tests.performance import row_summarise, row_sweep
from tests.performance.setting import Result, Setting

NAME, TARGET = "replicates", 0.05


def measure(setting: Setting) -> Result:
    """Their share of the sweep of ViT-B/32; seconds on made-up columns, as for the row `summarise`."""
    found = row_sweep.sweep(setting)
    share = found["replicates"] / (found["wall"] - found["tracking"] - found["replicates"])
    images = 500 if setting.quick else 50_000
    seconds = {name: timed(name, images) for name in row_summarise.COLUMNS}
    return Result(
        NAME,
        "what replicates add to a sweep",
        f"{100 * share:.1f} %",
        "0",
        f"<= {100 * TARGET:.0f} %",
        share <= TARGET,
        (
            f"{found['replicates']:.1f} s for {found['evaluations']} evaluations. Seconds an evaluation on columns of "
            f"{images:,} images (OOD: as many unknown ones, five scores): "
            + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
            + ".",
        ),
        {"share": share, "seconds": seconds, "images": images},
    )


def timed(name: str, images: int) -> float:
    """Seconds for the replicates of one evaluation, after one of few images that imports what it needs."""
    task, options = tasks.get(name), tasks.get(name).options()
    for count in (200, images):
        columns = row_summarise.COLUMNS[name](count)
        outcome = Outcome(columns, task.run_summarise(columns, options))
        start = time.perf_counter()
        gather(task, outcome, options)
    return time.perf_counter() - start
