"""Commands that run no model, on the demo's results."""

from __future__ import annotations

from statistics import median

from tests.performance.setting import Result, Setting

NAME, RUN = "commands", "rtn-w4a8-channel-token-vision"
LIMITS = {
    "list tasks": 1.0,
    "list data": 1.0,
    "list suites": 1.0,
    "compare": 3.0,
    f"show {RUN}": 3.0,
    "validate demo": 12.0,
    "report demo": 7.0,
    "validate paper": 7.0,
}
"""Command -> processor seconds that it may take on a quiet machine."""
AFTER_TORCH = {"list quantizers": 1.0, "run demo": 1.0}
"""Command -> processor seconds that it may take beside the import of torch, which it cannot do without."""


def measure(setting: Setting) -> Result:
    """Processor seconds of each command, the median of three after one that may compile byte code; quick: of one."""
    repeats = range(1 if setting.quick else 3)
    home = ["--home", str(setting.home("commands", fresh=False))]
    small = ["--no-speed", "--tracker", "jsonl", *(["--limit", "40"] if setting.quick else [])]
    setting.reliquant("run", "demo", *small, *home)
    torch = median(setting.python("-c", "import torch").cpu for _ in repeats)
    found, limits = {}, {**LIMITS, **{name: torch + more for name, more in AFTER_TORCH.items()}}
    for name in limits:
        words = name.split()
        words += small if words[0] == "run" else []
        words += ["-o", str(setting.folder / "report.html")] if words[0] == "report" else []
        words += home if words[0] in ("run", "compare", "show", "report") else []
        if not setting.quick:
            setting.reliquant(*words)
        found[name] = [setting.reliquant(*words).cpu for _ in repeats]
    late = [name for name, times in found.items() if median(times) > limits[name]]
    worst = max(median(times) / limits[name] for name, times in found.items())
    return Result(
        NAME,
        "commands that run no model, CPU seconds / what each may take: the largest",
        f"{worst:.2f}",
        "-",
        "<= 1",
        not late,
        (
            "; ".join(f"`{name}` {median(times):.2f} of {limits[name]:.1f} s" for name, times in found.items())
            + f". Importing torch takes {torch:.2f} s.",
        ),
        {"cpu": found, "torch": torch},
    )
