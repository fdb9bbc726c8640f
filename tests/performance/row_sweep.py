"""The sweep of 8 configurations of ViT-B/32 that other rows build on; itself the row of the tracking overhead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.performance import material, page
from tests.performance.setting import Result, Setting

NAME, TARGET = "tracking", 0.02


def measure(setting: Setting) -> Result:
    """The sweep, anew; the time in the tracker is taken inside of it."""
    found = sweep(setting, anew=True)
    rest = found["wall"] - found["tracking"]
    share = found["tracking"] / rest
    images = material.images_of(setting.sizes.sweep)
    return Result(
        NAME,
        "tracking overhead of a sweep (MLflow on SQLite, figures and tables as artifacts)",
        f"{100 * share:.1f} %",
        "0",
        f"<= {100 * TARGET:.0f} %",
        share <= TARGET,
        (
            f"{found['tracking']:.1f} s in the tracker, MLflow's import included, beside {rest:.1f} s: "
            f"{found['configurations']} configurations, {found['evaluations']} evaluations, "
            f"{found['forward_images']:,} images through a vision tower. A configuration's runs, tables and figures "
            f"cost the same for any number of images: {100 * TARGET:.0f} % is kept from "
            f"{images * share / TARGET:,.0f} images a configuration on, here {images:,.0f}.",
        ),
        {"share": share, **found},
    )


def sweep(setting: Setting, anew: bool = False) -> dict[str, Any]:
    """The finished sweep's numbers; it is run `anew`, and when code, suite or machine are not those of the last one."""
    place = setting.folder / "homes" / "sweep-first.json"
    made = material.sweep(setting, "vit")
    key = [setting.code(), made.suite.read_text(), page.machine(setting.device)["machine"]]
    last: dict[str, Any] = json.loads(place.read_text()) if place.is_file() else {}
    if anew or last.get("key") != key:
        setting.say(f"sweep of 8 configurations, {made.images} images each")
        used = setting.sweep(made.suite, setting.home("sweep"))
        last = {"wall": used.wall, "cpu": used.cpu, **used.report, "key": key}
        if last["failed"]:
            raise SystemExit(f"{last['failed']} evaluations of the sweep failed: {used.stdout[-2000:]}")
        place.write_text(json.dumps(last))
    return {name: value for name, value in last.items() if name != "key"}


def suite(setting: Setting) -> Path:
    """The sweep's suite file."""
    return material.sweep(setting, "vit").suite
