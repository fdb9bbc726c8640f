"""Run a plan: for each configuration the missing evaluations, each recorded as soon as it is finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.engine.banks import Caches
from benchmark.engine.driver import Driver, Sweep, replay
from benchmark.engine.holding import Models
from benchmark.engine.leases import Leases
from benchmark.engine.local import Local
from benchmark.engine.plan import Plan
from benchmark.engine.ray import OnRay
from benchmark.engine.request import RayOptions, Timing
from benchmark.ledger.records import Ledger
from benchmark.results.compare import Comparer
from benchmark.tracking import Tracker
from benchmark.utils.progress import Progress, Silent

__all__ = ["PIXEL_BUDGET", "Sweep", "replay", "run"]

PIXEL_BUDGET = 20_000_000_000
"""Bytes of decoded pixels kept on disk unless the user says otherwise."""


def run(
    plan: Plan,
    home: Path,
    *,
    trackers: Sequence[Tracker] = (),
    progress: Progress | None = None,
    pixel_budget: int = PIXEL_BUDGET,
    skip_broken: bool = False,
    compare: bool = True,
    timing: Timing = "never",
    ray: RayOptions | None = None,
    models: Models | None = None,
    ledger: Ledger | None = None,
) -> Sweep:
    """Evaluate a plan; what the ledger has already is not done again, nor what another process is doing.

    Args:
        plan: from `make_plan`.
        home: results folder (ledger, samples, caches). Several processes may share it, and the work.
        trackers: each finished configuration is logged to them.
        pixel_budget: bytes of decoded pixels to keep on disk, 0 for none.
        skip_broken: leave out images that cannot be decoded, instead of failing.
        compare: give intervals and p values against full precision (`Sweep.changes`); a second or so a configuration.
        timing: whether to time the configurations, about a second each (`benchmark.engine.timing`);
            not on Ray, where other tasks run beside it.
        ray: evaluate on this cluster instead of in this process.
        models: shared with other runs in this process; by default a run loads its own.
        ledger: of `home`, where it was read already.

    Returns:
        All records of the plan. A configuration that fails is recorded as failed, the others go on.

    Raises:
        InputError: the first model cannot be loaded, or an image cannot be decoded: said before any forward pass.
        StorageError: `home` cannot be written.
    """
    progress = progress or Silent()
    ledger = ledger or Ledger(home)
    caches = Caches.open(home / "cache", pixel_budget, skip_broken)
    with Leases(home) as leases, progress.phase(f"suite {plan.suite.name}", len(plan.configurations)) as advance:
        comparer = Comparer(ledger) if compare else None
        driver = Driver(plan, ledger, leases, trackers, progress, comparer, Sweep(plan))
        if ledger.damage and any(map(driver.pending, plan.configurations)):
            progress.message(f"{ledger.damage}; what they held is computed again")
        if ray is None:
            Local(driver, caches, timing, models or Models()).run(advance)
        else:
            OnRay(driver, ray, home, pixel_budget, skip_broken).run(advance)
    for damage in caches.damaged:
        progress.message(f"damaged cache entry found and recomputed: {damage}")
    for mended in ledger.mended:
        progress.message(mended)
    return driver.close()
