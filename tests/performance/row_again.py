"""The sweep run again with nothing changed."""

from __future__ import annotations

from tests.performance import row_sweep
from tests.performance.setting import Result, Setting

NAME, TARGET = "again", 0.02


def measure(setting: Setting) -> Result:
    """Wall time of the whole command, twice; the better one counts (the first may compile byte code)."""
    first = row_sweep.sweep(setting)
    home = setting.home("sweep", fresh=False)
    found = [setting.sweep(row_sweep.suite(setting), home) for _ in range(2)]
    best = min(found, key=lambda used: used.wall)
    if any(used.report["computed"] or used.report["forward_images"] for used in found):
        raise SystemExit("the unchanged sweep computed something")
    share, startup = best.wall / first["wall"], best.report["startup"] / best.wall
    return Result(
        NAME,
        "the same sweep again with nothing changed / the first",
        f"{100 * share:.1f} %",
        "0",
        f"<= {100 * TARGET:.0f} %, most of it start-up",
        share <= TARGET and startup > 0.5,
        (
            f"{best.wall:.1f} s against {first['wall']:.1f} s; of it {best.report['startup']:.1f} s until the engine "
            f"began (imports, the plan, hashing the checkpoint), {best.report['engine']:.2f} s in it, "
            f"{best.report['tracking']:.2f} s in the tracker.",
        ),
        {"share": share, "wall": best.wall, **best.report},
    )
