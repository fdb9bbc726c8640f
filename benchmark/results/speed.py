"""What a measured speed is worth, in words: one rule for table, report, model card and trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from benchmark.metrics.speed_ratio import WITHIN, SpeedRatio

State = Literal["measured", "noisy", "simulated", "failed", "not measured"]


def timing_state(efficiency: Mapping[str, Any] | None) -> State:
    """What the times of an Efficiency (as JSON) are worth. Nothing may be concluded from any state but `measured`.

    `simulated`: nothing that `export` writes runs this way, so that it has no speed.
    """
    if efficiency is None:
        return "not measured"
    if efficiency["speed"] is None:
        return "failed" if efficiency["error"] else "simulated"
    return "noisy" if efficiency["speed"]["noisy"] else "measured"


def ratio_of(speed: Mapping[str, Any]) -> SpeedRatio:
    """Latency of one image as a share of full precision's."""
    return SpeedRatio(speed["latency_ratio"], speed["latency_ratio_low"], speed["latency_ratio_high"], speed["rounds"])


def ratio_text(speed: Mapping[str, Any]) -> str:
    """`2.07 ±4%`: the ratio with the half width of its interval."""
    ratio = ratio_of(speed)
    return f"{ratio.value:.2f} ±{100 * ratio.half_width:.0f}%"


def runtime_ratio(speed: Mapping[str, Any]) -> SpeedRatio | None:
    """Latency as a share of float32's on the same runtime; None where it runs in torch."""
    value, low, high = (speed.get(f"runtime_ratio{end}") for end in ("", "_low", "_high"))
    return None if value is None or low is None or high is None else SpeedRatio(value, low, high, speed["rounds"])


def runtime_text(speed: Mapping[str, Any]) -> str:
    """`0.39 ±2%` of float32 on the same runtime; `-` where it runs in torch."""
    ratio = runtime_ratio(speed)
    return "-" if ratio is None else f"{ratio.value:.2f} ±{100 * ratio.half_width:.0f}%"


def where(speed: Mapping[str, Any]) -> str:
    """`int8-onednn, AVX2, 2 threads`."""
    device, threads = speed["cpu"] if speed["device"] == "cpu" else speed["device"], speed["threads"]
    return f"{speed['engine']}, {device}, {threads} {'thread' if threads == 1 else 'threads'}"


def is_slower(efficiency: Mapping[str, Any] | None) -> bool:
    """Whether it is shown to be slower than full precision: the whole interval is."""
    return efficiency is not None and timing_state(efficiency) == "measured" and ratio_of(efficiency["speed"]).low > 1


def speed_sentence(efficiency: Mapping[str, Any] | None) -> str:
    """Faster or slower than full precision by how much, or why nothing is said."""
    state = timing_state(efficiency)
    if efficiency is None or state == "not measured":
        return "Its speed was not measured."
    if state == "simulated":
        return "Its speed was not measured: it is simulated, nothing that `export` writes runs this way."
    if state == "failed":
        return f"Its speed could not be measured: {efficiency['error']}."
    if state == "noisy":
        return (
            f"Its timing was noisy: the ratio to full precision is not known within {WITHIN:.0%}, so nothing is said "
            "about its speed."
        )
    speed = efficiency["speed"]
    ratio = ratio_of(speed)
    verdict = "slower than" if ratio.low > 1 else "faster than" if ratio.high < 1 else "about as fast as"
    times = f"{speed['latency_ms_p50']:.2f} ms instead of {speed['full_ms_p50']:.2f} ms"
    return (
        f"It is {verdict} full precision: one image takes {ratio.value:.2f} times as long (95 % interval "
        f"{ratio.low:.2f} to {ratio.high:.2f}; {times}; {where(speed)}).{_own(speed)}"
    )


def _own(speed: Mapping[str, Any]) -> str:
    own = runtime_ratio(speed)
    if own is None:
        return ""
    return f" Of float32 on the same runtime it takes {own.value:.2f} times the time ({own.low:.2f} to {own.high:.2f})."
