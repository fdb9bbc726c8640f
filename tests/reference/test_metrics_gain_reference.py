"""Gain, energy ratio, systematic share, SQNR and margins with their intervals, against plain NumPy on whole arrays."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from benchmark.metrics import gain as gains
from benchmark.metrics.uncertainty import from_replicates, intervals

BANDS = {"0-3": slice(0, 3), "3-6": slice(3, 6)}


def by_hand(p: np.ndarray, r: np.ndarray) -> dict[str, float]:
    """The formulas, on arrays (N, K)."""
    slopes = np.array([np.linalg.lstsq(p[:, [k]], r[:, k], rcond=None)[0][0] for k in range(p.shape[1])])
    explained = p * (slopes - 1)
    return {
        "gain": float(np.mean(np.sum(p * r, axis=1)) / np.mean(np.sum(p * p, axis=1))),
        "energy_ratio": float(np.linalg.norm(r) ** 2 / np.linalg.norm(p) ** 2),
        "systematic_share": float(np.linalg.norm(explained) ** 2 / np.linalg.norm(r - p) ** 2),
        "sqnr_db": float(20 * np.log10(np.linalg.norm(p) / np.linalg.norm(r - p))),
        "residual": float(np.linalg.norm(r - p - explained) / np.linalg.norm(p)),
    }


def interval(whole: float, without: list[float]) -> tuple[float, float]:
    """Jackknife over 64 groups, a group without samples counting as the whole; t with Satterthwaite's freedom."""
    occupied = len(without)
    values = np.array(without + [whole] * (64 - occupied))
    squares = (values - values.mean()) ** 2
    freedom = np.clip(squares.sum() ** 2 / (squares**2).sum(), 1, occupied - 1)
    low, high = stats.t.interval(0.95, freedom, whole, np.sqrt(63 / 64 * squares.sum()))
    return float(low), float(high)


def data(count: int = 200, used: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    p = rng.normal(size=(count, 6)) * np.linspace(4, 0.5, 6)
    r = p * np.linspace(0.7, 1.1, 6) + rng.normal(size=p.shape) * 0.5
    return p, r, rng.integers(used, size=count)


def sums_of(p: np.ndarray, r: np.ndarray, groups: np.ndarray, size: int = 37) -> gains.PairSums:
    meter = gains.PairAccumulator(p.shape[1])
    for start in range(0, len(p), size):
        at = slice(start, start + size)
        meter.update(p[at], (r - p)[at], groups[at])
    return meter.sums


@pytest.mark.parametrize("name", [*gains.RATIOS, "residual"])
def test_numbers_and_intervals_equal_whole_arrays(name: str) -> None:
    p, r, groups = data()
    ratio: Callable[..., np.ndarray] = gains.RATIOS.get(name, gains.residual)
    sums = sums_of(p, r, groups)
    cases = [(cut, sums.take(cut.start, cut.stop).together(ratio)) for cut in BANDS.values()]
    each = sums.each(ratio)
    cases += [(slice(k, k + 1), gains.Told(*(v[[k]] for v in (each.value, each.low, each.high)))) for k in range(6)]
    for cut, told in cases:
        whole = by_hand(p[:, cut], r[:, cut])[name]
        without = [by_hand(p[groups != g][:, cut], r[groups != g][:, cut])[name] for g in np.unique(groups)]
        np.testing.assert_allclose(told.value, whole, rtol=1e-10)
        np.testing.assert_allclose([told.low[0], told.high[0]], interval(whole, without), rtol=1e-9)


def test_margins_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 7)), rng.integers(7, size=50)
    expected = [row[y] - max(np.delete(row, y)) for row, y in zip(scores, labels, strict=True)]
    np.testing.assert_allclose(gains.margins(scores, labels), expected)
    assert np.array_equal(gains.margins(scores, labels) > 0, scores.argmax(1) == labels)


def test_damping_and_noise_are_told_apart() -> None:
    """Both lose 6 dB in the weak direction; the one halves it, the other leaves its gain at 1."""
    rng = np.random.default_rng(1)
    p, groups = rng.normal(size=(20_000, 1)), np.arange(20_000) % 64
    damped = sums_of(p, p / 2, groups)
    drowned = sums_of(p, p + rng.normal(size=p.shape) / 2, groups)
    for sums, slope, energy, share in ((damped, 0.5, 0.25, 1.0), (drowned, 1.0, 1.25, 0.0)):
        told = {name: sums.each(ratio).value[0] for name, ratio in gains.RATIOS.items()}
        assert told["gain"] == pytest.approx(slope, abs=0.02)
        assert told["energy_ratio"] == pytest.approx(energy, abs=0.03)
        assert told["systematic_share"] == pytest.approx(share, abs=0.001)
        assert told["sqnr_db"] == pytest.approx(6.02, abs=0.15)


def test_intervals_cover_the_truth() -> None:
    """400 samples of 300 images; the truth by the model: gain 0.8, energy ratio 0.64 + 0.25."""
    rng = np.random.default_rng(2)
    inside = {"gain": 0, "energy_ratio": 0}
    for _ in range(400):
        p = rng.normal(size=(300, 1))
        sums = sums_of(p, 0.8 * p + 0.5 * rng.normal(size=p.shape), rng.integers(64, size=300), 300)
        for name, truth in (("gain", 0.8), ("energy_ratio", 0.89)):
            told = sums.each(gains.RATIOS[name])
            inside[name] += bool(told.low[0] <= truth <= told.high[0])
    assert min(inside.values()) >= 0.93 * 400


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 64), st.booleans())
def test_intervals_of_many_equal_intervals_of_each(seed: int, occupied: int, constant: bool) -> None:
    rng = np.random.default_rng(seed)
    values, replicates = rng.normal(size=5), rng.normal(size=(64, 5)) * 0.01
    replicates[:, 0] = 0.5 if constant else replicates[:, 0]
    replicates[3, 1] = np.nan
    low, high = intervals(values, replicates, occupied)
    for k, value in enumerate(values):
        found = from_replicates(float(value), replicates[:, k], occupied)
        expected = (np.nan, np.nan) if found is None else found.interval()
        np.testing.assert_allclose([low[k], high[k]], expected, rtol=1e-10)


def test_an_unchanged_model_has_no_error_and_no_interval() -> None:
    p, _, groups = data()
    sums = sums_of(p, p, groups)
    for ratio, value in ((gains.gain, 1.0), (gains.energy_ratio, 1.0), (gains.residual, 0.0)):
        told = sums.each(ratio)
        assert set(told.value) == {value}
        assert np.isnan([*told.low, *told.high]).all()
    assert np.isnan(sums.each(gains.sqnr_db).value).all()
    assert np.isnan(sums.each(gains.systematic_share).value).all()


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    meter = gains.PairAccumulator(64)

    def streamed(batches: int) -> int:
        tracemalloc.start()
        for seed in range(batches):
            part = np.random.default_rng(seed).random((1000, 64))
            meter.update(part, part, np.arange(1000) % 64)
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    streamed(2)
    assert streamed(40) < 1.1 * streamed(4)
