"""`reliquant --help`."""

from __future__ import annotations

from tests.performance.setting import Result, Setting

NAME, TARGET = "help", 1.0


def measure(setting: Setting) -> Result:
    """Processor seconds, the median of five after one that may compile byte code."""
    setting.reliquant("--help")
    times = sorted(setting.reliquant("--help").cpu for _ in range(5))
    return Result(
        NAME,
        "`reliquant --help`, CPU seconds",
        f"{times[2]:.2f} s",
        "-",
        f"< {TARGET:.0f} s",
        times[2] < TARGET,
        (f"Five times: {', '.join(f'{t:.2f}' for t in times)} s.",),
        {"cpu": times},
    )
