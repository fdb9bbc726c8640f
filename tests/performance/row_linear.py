"""Cost over images and over configurations: the straight line through a few sizes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np

from tests.performance import material
from tests.performance.setting import Result, Setting

NAME, TARGET = "linear", 0.98
TOWERS = ("fp32", *(f"rtn-w{bits}a8-channel-token-vision" for bits in (8, 7, 6, 5, 4, 3, 2)))


def measure(setting: Setting) -> Result:
    """Engine seconds of the demo's checkpoint: no features, all pixels, libraries imported; one variable at a time.

    What a configuration costs is its image tower, so configurations with towers of their own are counted.
    """
    sizes = setting.sizes
    made = material.demo(setting, max(sizes.images))
    over_images = [(n, engine(setting, n, 2, fresh=True)) for n in reversed(sizes.images)]
    over_configurations = [(n, engine(setting, sizes.images[0], n, fresh=False)) for n in sizes.configurations]
    fits = {"images of the test set": fit(over_images), "configurations": fit(over_configurations)}
    details = [
        f"Over {what}: {slope:.4g} s each + {intercept:.2f} s, R^2 = {r2:.4f}; "
        + ", ".join(f"{n}: {seconds:.1f} s" for n, seconds in points)
        + "."
        for (what, (slope, intercept, r2)), points in zip(fits.items(), (over_images, over_configurations), strict=True)
    ]
    worst = min(r2 for _, _, r2 in fits.values())
    return Result(
        NAME,
        "cost is linear in images and in configurations: smaller R^2 of the two fits",
        f"{worst:.3f}",
        "1.0",
        f">= {TARGET}",
        worst >= TARGET,
        (
            *details,
            f"Seconds in the engine, tracking left out; the demo's checkpoint, {made.folder.name}, `--limit`, "
            "pixels decoded and libraries imported before; every configuration has an image tower of its own.",
        ),
        {"images": over_images, "configurations": over_configurations, "fits": fits},
    )


def engine(setting: Setting, images: int, configurations: int, fresh: bool) -> float:
    """Seconds of one sweep in the engine; where it starts `fresh`, a run before it fills the pixel cache."""
    setting.say(f"{images} images, {configurations} configurations")
    made = material.demo(setting, max(setting.sizes.images))
    home = setting.home(NAME, fresh)
    more = ("--limit", str(images), "--no-speed", "--tracker", "jsonl")
    if fresh:
        setting.sweep(made.suite, home, "--quant", "fp32", *more)
    for folder, kept in ((home, "cache"), (home / "cache", "pixels")):
        for entry in folder.iterdir():
            if entry.name != kept:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    quants = [each for name in TOWERS[:configurations] for each in ("--quant", name)]
    return float(setting.sweep(made.suite, home, *quants, *more, imported=True).report["engine"])


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Slope, intercept and R^2 of the least-squares line."""
    x, y = np.array(points, dtype=np.float64).T
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - (slope * x + intercept)
    return float(slope), float(intercept), float(1.0 - (rest @ rest) / np.square(y - y.mean()).sum())
