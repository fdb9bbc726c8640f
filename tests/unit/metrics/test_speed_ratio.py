"""The ratio of two computations timed side by side: value, interval, when it is settled, and when to stop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmark.errors import InputError
from benchmark.metrics.speed_ratio import SpeedRatio, another_round, speed_ratio

TRUE, ROUNDS, PASSES = 2.0, 60, 3
Times = NDArray[np.float64]


def phases(rng: np.random.Generator, begin: float, end: float) -> Times:
    """(rounds, 2, passes) slow-down of a machine on which other work comes and goes, in the order of the passes."""
    factors, busy = np.ones(ROUNDS * 2 * PASSES), False
    for i in range(len(factors)):
        busy = rng.random() > end if busy else rng.random() < begin
        factors[i] = rng.lognormal(math.log(4), 0.4) if busy else 1.0
    return factors.reshape(ROUNDS, 2, PASSES)


def scene(kind: str, rng: np.random.Generator) -> tuple[Times, Times]:
    """Seconds (rounds, passes) of a computation that takes twice as long, and of the other; they take turns."""
    first = rng.lognormal(0, {"wild": 0.8, "uneasy": 0.15}.get(kind, 0.03), (ROUNDS, 2, PASSES))
    if kind == "drift":
        first *= np.linspace(1, 3, ROUNDS)[:, None, None]
    if kind in ("busy", "bursts"):
        first *= phases(rng, *{"busy": (0.02, 0.05), "bursts": (0.05, 0.7)}[kind])
    first[1::2] = first[1::2, ::-1]  # who goes first changes
    return TRUE * 1e-3 * first[:, 0], 1e-3 * first[:, 1]


def until_settled(times: Times, reference: Times) -> SpeedRatio:
    rounds = 0
    while another_round(times[:rounds], reference[:rounds], float(rounds), float(ROUNDS)):
        rounds += 1
    return speed_ratio(times[:rounds], reference[:rounds])


@pytest.mark.parametrize("kind", ["quiet", "drift", "busy", "bursts", "uneasy"])
def test_the_interval_covers_the_true_ratio_whatever_the_machine_does(kind: str) -> None:
    """Also of those alone that are called settled: what is concluded from is right as often as it says."""
    rng = np.random.default_rng(7)
    found = [until_settled(*scene(kind, rng)) for _ in range(400)]
    covered = np.array([each.low <= TRUE <= each.high for each in found])
    settled = np.array([each.settled for each in found])
    least = 0.925 - 1.65 * math.sqrt(0.05 * 0.95 / 400)  # of 400 draws
    assert covered.mean() > least
    assert covered[settled].mean() > least
    assert settled.mean() > 0.5
    if kind in ("quiet", "drift"):
        assert all(each.rounds == 6 for each in found)


def test_a_machine_that_never_settles_is_noisy() -> None:
    rng = np.random.default_rng(8)
    found = [until_settled(*scene("wild", rng)) for _ in range(100)]
    assert sum(each.settled for each in found) <= 2
    assert all(each.rounds == ROUNDS for each in found if not each.settled), "the budget was spent on it"


def test_times_apart_would_have_misled() -> None:
    """One computation timed in a quiet minute and the other in a busy one: the case that rounds are for."""
    rng = np.random.default_rng(9)
    times, reference = scene("drift", rng)
    apart = np.median(times[-6:]) / np.median(reference[:6])
    assert apart > 2.5 * TRUE
    assert until_settled(times, reference).value == pytest.approx(TRUE, rel=0.05)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=9), st.floats(0.1, 10))
def test_it_is_students_interval_of_the_logarithms(ratios: list[float], unit: float) -> None:
    reference = np.full((len(ratios), 1), unit)
    found = speed_ratio(np.array(ratios)[:, None] * unit, reference)
    logs = np.log(ratios)
    assert found.value == pytest.approx(math.exp(logs.mean()))
    if np.ptp(logs) > 1e-6:
        low, high = student.interval(0.95, len(logs) - 1, logs.mean(), logs.std(ddof=1) / math.sqrt(len(logs)))
        assert (math.log(found.low), math.log(found.high)) == pytest.approx((low, high), rel=1e-6, abs=1e-9)
    other = speed_ratio(reference, np.array(ratios)[:, None] * unit)
    assert other.value == pytest.approx(1 / found.value)
    assert other.half_width == pytest.approx(found.half_width, rel=1e-9, abs=1e-9)


def test_an_interrupted_pass_is_forgiven_within_a_round() -> None:
    reference = np.ones((6, 3))
    interrupted = 2 * reference
    interrupted[2, 1] = 500.0
    assert speed_ratio(interrupted, reference) == SpeedRatio(2.0, 2.0, 2.0, 6)


def test_six_rounds_at_least_and_no_more_than_the_budget() -> None:
    times = np.array([[1.0], [3.0]] * 20)
    for rounds in range(40):
        goes_on = another_round(times[:rounds], np.ones((rounds, 1)), spent_s=5.0, budget_s=5.0)
        assert goes_on == (rounds < 6)
    still = [n for n in range(6, 40) if not another_round(np.ones((n, 1)), np.ones((n, 1)), 0.0, 5.0)]
    assert still == [6, 9, 13, 19, 28], "a settled ratio is looked at now and then, not after every round"


@pytest.mark.parametrize(
    ("times", "reference"),
    [([[1.0]], [[1.0]]), ([[1.0], [2.0]], [[1.0]]), ([1.0, 2.0], [1.0, 2.0]), ([[1.0], [0.0]], [[1.0], [1.0]])],
)
def test_what_has_no_ratio_is_refused(times: list[list[float]], reference: list[list[float]]) -> None:
    with pytest.raises(InputError, match="speed ratio"):
        speed_ratio(times, reference)
