"""The sweep beside separate CLIP_benchmark zero-shot runs, same webdatasets and checkpoint (own venv, CPU, fp32).

CLIP_benchmark gets all data sets of the suite that it can answer: the labelled ones (it has no out-of-distribution
detection and corrupts no images). Its own time on the test set alone is given, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.parity import peer
from tests.performance import material, row_sweep
from tests.performance.material import Material
from tests.performance.setting import Result, Setting

TARGET, RUNS = 5.0, 8
WORKERS = (0, material.SHARDS)
LABELLED = ("test", "shifted", "common", "counter")


@dataclass(frozen=True)
class Peer:
    """One comparison: `ours` gives the material and the seconds of the sweep; `runs` of the 8 peer runs are timed."""

    name: str
    title: str
    ours: Callable[[Setting], tuple[Material, float]]
    timed: Callable[[Setting], int]

    def measure(self, setting: Setting) -> Result:
        """Run both."""
        made, seconds = self.ours(setting)
        python, count = peer.build(), self.timed(setting)
        setting.say(f"CLIP_benchmark on {self.title}, {count} of {RUNS} runs, and on the test set alone")
        tests = {workers: timed(python, made, LABELLED[:1], workers) for workers in WORKERS}
        workers = min(WORKERS, key=tests.__getitem__)
        times = [timed(python, made, LABELLED, workers) for _ in range(count)]
        theirs, theirs_test = RUNS * sum(times) / count, RUNS * tests[workers]
        setting.say(f"the same question alone, {self.title}")
        alone = setting.sweep(made.suite, setting.home(f"{self.name}-alone"), "--task", "zero_shot").wall
        ratio, size = theirs / seconds, len_of(made)
        labelled = sum(material.count(size, name) for name in LABELLED)
        extra = "" if count == RUNS else f" ({count} runs were timed: {', '.join(f'{t:.1f}' for t in times)} s)"
        return Result(
            self.name,
            f"{RUNS} separate CLIP_benchmark zero-shot runs / one six-task sweep of 8 configurations, {self.title}",
            f"{ratio:.1f} x",
            "-",
            f">= {TARGET:.0f} x",
            ratio >= TARGET,
            (
                f"CLIP_benchmark: {theirs:.1f} s for zero-shot on the suite's four labelled sets, {labelled} "
                f"images{extra}. The sweep: {seconds:.1f} s for six tasks on {made.images} images, five different "
                "image towers, tracking included.",
                f"It decodes images in {workers} workers here, the faster of "
                + ", ".join(f"{n} ({seconds:.1f} s for the test set)" for n, seconds in tests.items())
                + "; 4 is its default.",
                f"The test set alone ({size} images): CLIP_benchmark {theirs_test:.1f} s (one run, times {RUNS}), the "
                f"sweep with `--task zero_shot`, pixels decoded anew, {alone:.1f} s: {theirs_test / alone:.1f} x.",
            ),
            {"ratio": ratio, "theirs": theirs, "ours": seconds, "runs": times, "test": theirs_test, "alone": alone},
        )


def timed(python: Path, made: Material, names: Sequence[str], workers: int) -> float:
    """Seconds of one CLIP_benchmark run over data sets."""
    start = time.monotonic()
    peer.evaluate(python, made.folder, list(names), ["model"], workers)
    seconds = time.monotonic() - start
    for name in names:
        (made.folder / f"{name}+local-dir:model.json").unlink()
    return seconds


def len_of(made: Material) -> int:
    """Images of the test set, from the folder's name."""
    return int(made.folder.name.rpartition("-")[2])


def small(setting: Setting) -> tuple[Material, float]:
    """A sweep with the demo's checkpoint, made now."""
    made = material.sweep(setting, "demo")
    setting.say("sweep with the demo's checkpoint")
    return made, setting.sweep(made.suite, setting.home("small")).wall


def large(setting: Setting) -> tuple[Material, float]:
    """The ViT-B/32 sweep that other rows build on."""
    return material.sweep(setting, "vit"), float(row_sweep.sweep(setting)["wall"])


SMALL = Peer("peer-small", "the demo's checkpoint", small, lambda setting: 1 if setting.quick else RUNS)
LARGE = Peer("peer-vit", "ViT-B/32", large, lambda setting: setting.sizes.peer_runs)
