"""Clipped ranges against references that share no code with them: torch's fake-quantize in a loop, and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.quantization.mse import best_scale, scale_fractions
from benchmark.quantization.observers import Histogram
from benchmark.quantization.percentile import histogram_range, percentile_range

seeds = st.integers(0, 10_000)


def heavy(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator).abs().add(0.05).pow(2)


def squared_error(values: torch.Tensor, scale: float, bits: int) -> float:
    half = 2 ** (bits - 1)
    rounded = torch.fake_quantize_per_tensor_affine(values, scale, 0, -half, half - 1)
    return float((rounded.double() - values.double()).square().sum())


@given(seeds, st.integers(2, 8))
@settings(max_examples=40, deadline=None)
def test_mse_finds_the_best_of_its_candidates(seed: int, bits: int) -> None:
    """Each candidate is tried again with torch's own operator."""
    values = heavy(seed, 200)
    scale, zero_point, error = best_scale(values, bits, symmetric=True)
    width = 2 * float(values.abs().max())
    tried = [squared_error(values, width * fraction, bits) for fraction in {1 / (2**bits - 1), *scale_fractions(bits)}]
    assert float(zero_point) == 0
    assert float(error) == pytest.approx(min(tried), rel=1e-3)
    assert squared_error(values, float(scale), bits) == pytest.approx(min(tried), rel=1e-3)


@given(seeds, st.integers(2, 8))
@settings(max_examples=25, deadline=None)
def test_mse_is_close_to_the_best_of_all_scales(seed: int, bits: int) -> None:
    """The candidates are 9 % apart: a scan of 4,000 scales finds little more, and clipping never loses to min-max."""
    values = heavy(seed, 200)
    found = squared_error(values, float(best_scale(values, bits, symmetric=True)[0]), bits)
    widest = 2 * float(values.abs().max()) / (2**bits - 1)
    best = min(squared_error(values, float(scale), bits) for scale in np.geomspace(0.05 * widest, widest * 5, 4000))
    assert found <= 1.25 * best
    assert found <= squared_error(values, widest, bits) * (1 + 1e-6)


@given(seeds, st.floats(50.1, 100), st.booleans())
@settings(max_examples=40, deadline=None)
def test_percentiles_equal_numpy(seed: int, percentile: float, symmetric: bool) -> None:
    values = heavy(seed, 6, 333)
    low, high = percentile_range(values, percentile, symmetric)
    array = values.double().numpy()
    if symmetric:
        expected = np.percentile(np.abs(array), percentile, axis=1)
        np.testing.assert_allclose(low[:, 0], -expected, rtol=1e-4, atol=1e-6)
    else:
        expected = np.percentile(array, percentile, axis=1)
        np.testing.assert_allclose(low[:, 0], np.percentile(array, 100 - percentile, axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(high[:, 0], expected, rtol=1e-4, atol=1e-6)


@given(seeds, st.floats(90, 100), st.booleans())
@settings(max_examples=25, deadline=None)
def test_ranges_of_a_histogram_equal_numpy_up_to_a_bin(seed: int, percentile: float, symmetric: bool) -> None:
    """The histogram grows while it fills; in the end its bins are at most one 2,048th of the range wide."""
    batches = [heavy(seed + k, 400) * (k + 1) for k in range(4)]
    seen = Histogram()
    for batch in batches:
        seen.update(batch)
    array = torch.cat(batches).double().numpy()
    low, high = histogram_range(seen, percentile, symmetric)
    values = np.abs(array) if symmetric else array
    width = 2 * seen.limit / seen.bins
    assert width <= 2 * np.abs(array).max() / 1024
    ordered = np.sort(values)
    rank = percentile / 100 * len(ordered)
    around = ordered[max(int(np.floor(rank)) - 2, 0)], ordered[min(int(np.ceil(rank)) + 1, len(ordered) - 1)]
    assert around[0] - width <= high <= around[1] + width
    if symmetric:
        assert low == -high
    else:
        below = ordered[::-1]
        around = below[min(int(np.ceil(rank)) + 1, len(below) - 1)], below[max(int(np.floor(rank)) - 2, 0)]
        assert around[0] - width <= low <= around[1] + width
