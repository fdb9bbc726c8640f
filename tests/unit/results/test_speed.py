"""What is said of a measured speed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.results.speed import is_slower, ratio_text, speed_sentence, timing_state, where

SPEED: dict[str, Any] = {
    "latency_ratio": 0.5,
    "latency_ratio_low": 0.48,
    "latency_ratio_high": 0.52,
    "rounds": 9,
    "noisy": False,
    "latency_ms_p50": 2.5,
    "full_ms_p50": 5.0,
    "engine": "int8-onednn",
    "device": "cpu",
    "cpu": "AVX2",
    "threads": 2,
}


def efficiency(error: str | None = None, **changes: Any) -> dict[str, Any]:
    return {"speed": None if error is not None else {**SPEED, **changes}, "error": error}


def ratio(value: float) -> dict[str, Any]:
    return efficiency(latency_ratio=value, latency_ratio_low=value - 0.02, latency_ratio_high=value + 0.02)


@pytest.mark.parametrize(
    ("value", "words", "slower"),
    [(0.5, "faster than", False), (1.0, "about as fast as", False), (1.5, "slower than", True)],
)
def test_faster_or_slower_by_the_whole_interval(value: float, words: str, slower: bool) -> None:
    found = ratio(value)
    assert speed_sentence(found) == (
        f"It is {words} full precision: one image takes {value:.2f} times as long (95 % interval {value - 0.02:.2f} to "
        f"{value + 0.02:.2f}; 2.50 ms instead of 5.00 ms; int8-onednn, AVX2, 2 threads)."
    )
    assert is_slower(found) is slower
    assert timing_state(found) == "measured"


def test_nothing_is_said_of_what_is_not_known() -> None:
    cases = {
        "not measured": (None, "Its speed was not measured."),
        "noisy": (efficiency(noisy=True), "Its timing was noisy: the ratio to full precision is not known within 10%"),
        "simulated": ({"speed": None, "error": None}, "Its speed was not measured: it is simulated"),
        "failed": (efficiency("out of memory"), "Its speed could not be measured: out of memory."),
    }
    for state, (found, words) in cases.items():
        assert timing_state(found) == state
        assert speed_sentence(found).startswith(words)
        assert not is_slower(found)


def test_where_it_was_measured() -> None:
    assert where({**SPEED, "threads": 1}) == "int8-onednn, AVX2, 1 thread"
    assert where({**SPEED, "device": "NVIDIA A100"}) == "int8-onednn, NVIDIA A100, 2 threads"
    assert ratio_text(SPEED) == "0.50 ±4%"
