"""Six tasks on one configuration beside a bare loop of `encode_image` over the same pixels."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.performance import material
from tests.performance.setting import Result, Setting, run

NAME, TARGET, DEVICE_TARGET = "suite", 1.10, 0.9


def measure(setting: Setting) -> Result:
    """Loop over one half of the pixels, the suite, loop over the other half: drift of the machine cancels."""
    made = material.vit(setting, setting.sizes.loop)
    home = setting.home(NAME)
    warm(setting, made.suite, home)
    first = loop(setting, made.suite, home, 0)
    used = setting.sweep(made.suite, home, "--quant", "fp32")
    second = loop(setting, made.suite, home, 1)
    bare = first["seconds"] + second["seconds"]
    startup = min(first["startup"], second["startup"])
    inside = used.report["total"] - used.report["startup"]
    ratio, whole = inside / bare, used.report["total"] / (startup + bare)
    images = int(first["images"] + second["images"])
    speed = bare / used.report["engine"]
    return Result(
        NAME,
        f"six-task suite on one configuration / bare loop of `encode_image` ({images:,} images)",
        f"{ratio:.2f}",
        "1.0",
        f"<= {TARGET:.2f}",
        ratio <= TARGET and (setting.device == "cpu" or speed >= DEVICE_TARGET),
        (
            f"The loop took {bare:.1f} s ({images / bare:.1f} images a second), the suite {inside:.1f} s from the "
            "start of the engine to the end of the process: "
            f"embedding, the texts of {material.CLASSES * material.TEMPLATES} prompts, six tasks, the ledger, MLflow "
            f"with figures ({used.report['tracking']:.1f} s with its import), the table. With start-up on both sides "
            f"(suite {used.report['startup']:.1f} s, loop {startup:.1f} s): {whole:.2f}.",
            f"Images a second of the engine against the loop: {speed:.2f} (target on a GPU: >= {DEVICE_TARGET}).",
        ),
        {"ratio": ratio, "whole": whole, "speed": speed, "images": images, "bare": bare, "suite": inside},
    )


def warm(setting: Setting, suite: Path, home: Path) -> None:
    """Fill the pixel cache: a plan whose pixels are opened; no model runs."""
    setting.say("filling the pixel cache")
    run([sys.executable, "-m", "tests.performance.warm", str(suite), str(home)])


def loop(setting: Setting, suite: Path, home: Path, part: int) -> dict[str, float]:
    """Seconds, images and start-up of the bare loop."""
    setting.say(f"bare loop, part {part + 1} of 2")
    command = [sys.executable, "-m", "tests.performance.loop", str(suite), str(home), setting.device, str(part)]
    found: dict[str, float] = json.loads(run(command).stdout)
    return found
