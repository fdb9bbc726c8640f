"""Properties of the affine reference that every simulated method stands on."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from benchmark.quantization.affine import Scheme, choose_qparams, encode, error, quantize_weight, value_range

bits_of = st.integers(2, 8)
seeds = st.integers(0, 10_000)


def draw(seed: int, shape: tuple[int, ...] = (6, 32)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.randint(-6, 4, (), generator=generator)
    return (torch.randn(shape, generator=generator) + torch.randn((), generator=generator)) * scale


SCHEMES = st.builds(
    lambda bits, grain, symmetric: Scheme(bits, grain, 8 if grain == "group" else None, symmetric),
    bits_of,
    st.sampled_from(["tensor", "channel", "group"]),
    st.booleans(),
)


@given(seeds, SCHEMES)
@settings(max_examples=60, deadline=None)
def test_error_is_at_most_half_a_step_inside_the_range(seed: int, scheme: Scheme) -> None:
    weight = draw(seed)
    quantized = quantize_weight(weight, scheme)
    values, step = scheme.grouped(weight), quantized.scale
    # the range that the codes really reach: an asymmetric one moves by up to half a step with its rounded zero point
    low, high = (scheme.low - quantized.zero_point) * step, (scheme.high - quantized.zero_point) * step
    margin = step / 2 * (1 + 1e-5)
    inside = (values >= low - margin) & (values <= high + margin)
    difference = (scheme.grouped(quantized.dequantize()) - values).abs()
    assert (difference[inside] <= (step / 2 * (1 + 1e-4)).expand_as(values)[inside]).all()
    end = torch.where(values < low, low, high)
    assert torch.allclose((values - end)[~inside].abs(), difference[~inside], rtol=1e-3)
    assert (difference <= step * (1 + 1e-4)).all()
    if scheme.symmetric:
        assert inside.all()


@given(seeds, SCHEMES)
@settings(max_examples=60, deadline=None)
def test_quantizing_again_with_the_same_scales_changes_nothing(seed: int, scheme: Scheme) -> None:
    once = quantize_weight(draw(seed), scheme)
    again = encode(once.dequantize(), scheme, once.scale, once.zero_point)
    assert torch.equal(once.codes, again.codes)


@given(seeds, SCHEMES)
@settings(max_examples=60, deadline=None)
def test_codes_stay_within_their_bits(seed: int, scheme: Scheme) -> None:
    quantized = quantize_weight(draw(seed), scheme)
    assert quantized.codes.min() >= scheme.low
    assert quantized.codes.max() <= scheme.high
    assert quantized.codes.unique().numel() <= 2**scheme.bits
    assert quantized.scale.isfinite().all()
    assert (quantized.scale > 0).all()


@given(seeds, bits_of, st.booleans())
@settings(max_examples=40, deadline=None)
def test_groups_are_independent(seed: int, bits: int, symmetric: bool) -> None:
    weight = draw(seed)
    scheme = Scheme(bits, "group", 8, symmetric)
    changed = weight.clone()
    changed[:, 8:16] *= 100
    a, b = quantize_weight(weight, scheme), quantize_weight(changed, scheme)
    untouched = [0, 2, 3]
    assert torch.equal(a.codes[:, untouched], b.codes[:, untouched])
    assert torch.equal(a.scale[:, untouched], b.scale[:, untouched])
    assert not torch.equal(a.scale[:, 1], b.scale[:, 1])


@given(seeds, bits_of)
@settings(max_examples=40, deadline=None)
def test_a_zero_survives_asymmetric_quantization_exactly(seed: int, bits: int) -> None:
    weight = draw(seed).abs() + 1  # all on one side of zero
    weight[:, 0] = 0
    assert (quantize_weight(weight, Scheme(bits, "channel", None, False)).dequantize()[:, 0] == 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_constant_weights_have_no_nan(symmetric: bool) -> None:
    for value in (0.0, 1.5, -1e-30):
        weight = torch.full((3, 8), value)
        dense = quantize_weight(weight, Scheme(4, "channel", None, symmetric)).dequantize()
        assert dense.isfinite().all()
        assert (dense - weight).abs().max() <= abs(value) / 15 * 1.0001 + 1e-38


def test_values_worked_out_by_hand() -> None:
    weight = torch.tensor([[-1.0, 0.4, 0.5, 1.0]])
    scale, zero_point = choose_qparams(*value_range(weight), 2, True)
    assert scale.item() == pytest.approx(2 / 3)
    assert zero_point.item() == 0
    quantized = quantize_weight(weight, Scheme(2, "channel"))
    assert quantized.codes.flatten().tolist() == [
        -2,
        1,
        1,
        1,
    ]  # -1.5 and 0.6, 0.75, 1.5 in steps, half to even, clipped
    asymmetric = quantize_weight(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), Scheme(2, "channel", None, False))
    assert asymmetric.codes.flatten().tolist() == [-2, -1, 0, 1]
    assert asymmetric.zero_point.item() == -2


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_range_of_no_width_has_scale_one_and_one_of_width_one_its_own(symmetric: bool) -> None:
    low, high = torch.tensor([[0.0], [-0.5], [-0.25]]), torch.tensor([[0.0], [0.5], [0.75]])
    scale, _ = choose_qparams(low, high, 4, symmetric)
    assert scale.flatten().tolist() == pytest.approx([1.0, 1 / 15, (1.5 if symmetric else 1.0) / 15])


def test_packed_bits_count_scales_and_zero_points() -> None:
    weight = draw(0, (4, 64))
    assert quantize_weight(weight, Scheme(4, "tensor")).packed_bits == 4 * 256 + 32
    assert quantize_weight(weight, Scheme(3, "channel")).packed_bits == 3 * 256 + 4 * 32
    assert quantize_weight(weight, Scheme(2, "group", 16)).packed_bits == 2 * 256 + 16 * 32
    assert quantize_weight(weight, Scheme(2, "group", 16, False)).packed_bits == 2 * 256 + 16 * 32 + 16 * 2


def test_error_is_relative_frobenius_and_its_decibels() -> None:
    weight, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.5]])
    relative, decibels = error(weight, other)
    assert relative == pytest.approx(0.1)
    assert decibels == pytest.approx(20.0)
    assert error(weight, weight) == (0.0, None)
