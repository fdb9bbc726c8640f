"""Peak memory of a sweep over N and 10 N images, child processes counted."""

from __future__ import annotations

from tests.performance import material
from tests.performance.setting import Result, Setting

NAME, TARGET = "memory", 1.2


def measure(setting: Setting) -> Result:
    """Two sweeps of the demo's checkpoint, cold caches, two configurations; memory of their own, 20 times a second."""
    peaks, images = [], []
    for size in setting.sizes.memory:
        made = material.demo(setting, size)
        setting.say(f"sweep over {made.images:,} images")
        home = setting.home(f"memory-{size}")
        quant = ("--quant", "fp32", "--quant", material.QUANTIZATIONS[5])
        peaks.append(setting.sweep(made.suite, home, *quant, watch=True).peak)
        images.append(made.images)
    ratio = peaks[1] / peaks[0]
    return Result(
        NAME,
        f"peak memory of a sweep, {images[0]:,} -> {images[1]:,} images",
        f"{ratio:.2f}",
        "1.0",
        f"<= {TARGET}",
        ratio <= TARGET,
        (
            f"{peaks[0] / 2**20:,.0f} MiB and {peaks[1] / 2**20:,.0f} MiB: anonymous and shared memory of the process "
            "and its children; pages of mapped cache files, which the system takes back at need, do not count.",
        ),
        {"ratio": ratio, "peaks": peaks, "images": images},
    )
