"""Cost over images and over configurations: the straight line through a few sizes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np

from tests.performance import material
from tests.performance.setting import Result, Setting

NAME, TARGET, ROUNDS = "linear", 0.98, 2
TOWERS = ("fp32", *(f"rtn-w{bits}a8-channel-token-vision" for bits in (8, 7, 6, 5, 4, 3, 2)))


def measure(setting: Setting) -> Result:
    """Engine seconds of ViT-B/32: no features, all pixels, libraries imported; one variable at a time.

    What a configuration costs is its image tower, so configurations with towers of their own are counted. The sizes
    take turns, `ROUNDS` times, and the best of each counts: other load on the machine only adds seconds.
    """
    images, configurations = setting.sizes.images, setting.sizes.configurations
    for size in images:
        setting.say(f"filling the pixel cache, {size} images")
        setting.sweep(material.vit(setting, size).suite, setting.home(f"{NAME}-{size}"), *options(1))
    runs = [(n, configurations[0]) for n in images] + [(images[1], n) for n in configurations[1:]]
    rounds = [{run: engine(setting, *run) for run in runs} for _ in range(ROUNDS)]
    best = {run: min(each[run] for each in rounds) for run in runs}
    over_images = [(material.images_of(n), best[n, configurations[0]]) for n in images]
    over_configurations = [(n, best[images[1], n]) for n in configurations]
    fits = {"images": fit(over_images), "configurations": fit(over_configurations)}
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
            f"Seconds in the engine, the better of {ROUNDS} rounds, tracking left out; ViT-B/32, pixels "
            "decoded and libraries imported before; every configuration has an image tower of its own.",
        ),
        {
            "images": over_images,
            "configurations": over_configurations,
            "fits": fits,
            "rounds": [list(r.items()) for r in rounds],
        },
    )


def engine(setting: Setting, images: int, configurations: int) -> float:
    """Seconds of one sweep in the engine; of the results folder only the pixels are kept."""
    setting.say(f"{images} images, {configurations} configurations")
    home = setting.home(f"{NAME}-{images}", fresh=False)
    for folder, kept in ((home, "cache"), (home / "cache", "pixels")):
        for entry in folder.iterdir():
            if entry.name != kept:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    used = setting.sweep(material.vit(setting, images).suite, home, *options(configurations), imported=True)
    return float(used.report["engine"])


def options(configurations: int) -> list[str]:
    """Of `reliquant run`."""
    quants = [each for name in TOWERS[:configurations] for each in ("--quant", name)]
    return [*quants, "--no-speed", "--tracker", "jsonl"]


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Slope, intercept and R^2 of the least-squares line."""
    x, y = np.array(points, dtype=np.float64).T
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - (slope * x + intercept)
    return float(slope), float(intercept), float(1.0 - (rest @ rest) / np.square(y - y.mean()).sum())
