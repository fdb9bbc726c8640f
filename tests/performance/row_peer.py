"""The sweep beside separate CLIP_benchmark zero-shot runs, same webdataset and checkpoint (own venv, CPU, fp32)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.parity import peer
from tests.performance import material, row_sweep
from tests.performance.material import Material
from tests.performance.setting import Result, Setting

TARGET, RUNS = 5.0, 8


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
        setting.say(f"CLIP_benchmark on {self.title}, {count} of {RUNS} runs")
        times = []
        for _ in range(count):
            start = time.monotonic()
            peer.evaluate(python, made.folder, ["test"], ["model"])
            times.append(time.monotonic() - start)
            (made.folder / "test+local-dir:model.json").unlink()
        theirs = RUNS * sum(times) / count
        ratio = theirs / seconds
        setting.say(f"the same question alone, {self.title}")
        alone = setting.sweep(made.suite, setting.home(f"{self.name}-alone"), "--task", "zero_shot").wall
        extra = "" if count == RUNS else f" ({count} runs were timed: {', '.join(f'{t:.1f}' for t in times)} s)"
        return Result(
            self.name,
            f"{RUNS} separate CLIP_benchmark zero-shot runs / one six-task sweep of 8 configurations, {self.title}",
            f"{ratio:.1f} x",
            "-",
            f">= {TARGET:.0f} x",
            ratio >= TARGET,
            (
                f"CLIP_benchmark: {theirs:.1f} s for zero-shot on the {material.count(len_of(made), 'test')} test "
                f"images{extra}. The sweep: {seconds:.1f} s for six tasks on {made.images} images, five different "
                "image towers, tracking included.",
                f"The same question alone (`--task zero_shot`, pixels decoded anew): {alone:.1f} s, "
                f"{theirs / alone:.1f} x.",
            ),
            {"ratio": ratio, "theirs": theirs, "ours": seconds, "runs": times, "alone": alone},
        )


def len_of(made: Material) -> int:
    """Images of the test set, from the folder's name."""
    return int(made.folder.name.rpartition("-")[2])


def small(setting: Setting) -> tuple[Material, float]:
    """A sweep with the demo's checkpoint, made now."""
    made = material.demo(setting, setting.sizes.small)
    setting.say("sweep with the demo's checkpoint")
    return made, setting.sweep(made.suite, setting.home("small")).wall


def large(setting: Setting) -> tuple[Material, float]:
    """The ViT-B/32 sweep that other rows build on."""
    return material.vit(setting, setting.sizes.sweep), float(row_sweep.sweep(setting)["wall"])


SMALL = Peer("peer-small", "the demo's checkpoint", small, lambda setting: 1 if setting.quick else RUNS)
LARGE = Peer("peer-vit", "ViT-B/32", large, lambda setting: setting.sizes.peer_runs)
