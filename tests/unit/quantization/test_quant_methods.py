"""What each method promises: identities at full precision, errors that shrink, outliers that are tamed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from benchmark.errors import SpecError
from benchmark.models.base import ClipModel, Tap
from benchmark.quantization import TowerJob, parse, quantize, quantizers
from benchmark.quantization.affine import Scheme, quantize_weight
from benchmark.quantization.awq import best_scale as awq_scale
from benchmark.quantization.awq import best_span
from benchmark.quantization.diagonal import input_groups
from benchmark.quantization.gptq import gptq, output_error
from benchmark.quantization.hadamard import Rotation, factors, hadamard, random_orthogonal
from benchmark.quantization.hqq import half_quadratic
from benchmark.quantization.mse import best_scale
from benchmark.quantization.observers import Histogram, Seen
from benchmark.quantization.percentile import percentile_range
from benchmark.quantization.simulated import Prepared, Simulated
from benchmark.quantization.smoothquant import smoothing_scale
from benchmark.quantization.targets import resolve
from benchmark.utils.progress import Silent
from tests.quant_models import calibration, toy, with_outliers

seeds = st.integers(0, 10_000)


@cache
def model() -> ClipModel:
    return toy()


def job_of(base: ClipModel, name: str, tower: str = "vision") -> tuple[TowerJob, Simulated]:
    spec = parse(name)
    method = quantizers.get(spec.method)
    assert isinstance(method, Simulated)
    clone = base.clone()
    targets, skipped = resolve(method, clone, tower, spec)
    return TowerJob(clone, tower, spec, targets, calibration(), Silent(), skipped=skipped), method


def run_prepared(job: TowerJob, prepared: dict[str, Prepared]) -> ClipModel:
    """The model with all exact transformations in place and no quantization."""
    for name, item in prepared.items():
        if item.online is not None:
            job.replace(name, nn.Sequential(item.online, item.target.layer))
    return job.model


def features(m: ClipModel, tower: str) -> Tensor:
    data = calibration(8)
    return m.encode_text(list(data.captions)) if tower == "text" else m.encode_image(torch.from_numpy(data.pixels))


@pytest.mark.parametrize("tower", ["vision", "text"])
@pytest.mark.parametrize(
    "name", ["smoothquant-w8a8", "smoothquant-w8a8-alpha_0.9", "rotation-w8a8", "awq-w4a8", "rotation-w8a8-seed_3"]
)
def test_transformations_keep_the_function_at_full_precision(name: str, tower: str) -> None:
    base = with_outliers(model())
    job, method = job_of(base, f"{name}-{tower}", tower)
    prepared = method.prepare(job)
    changed = run_prepared(job, prepared)
    assert any(not torch.equal(p.target.layer.weight, base.layers(tower)[n].weight) for n, p in prepared.items())
    assert (features(changed, tower) - features(base, tower)).abs().max() < 1e-5


def test_the_usual_seed_of_a_rotation_may_be_written_out() -> None:
    method = quantizers.get("rotation")
    method.check(parse("rotation-w8a8-seed_0-vision"))
    with pytest.raises(SpecError, match="seed"):
        method.check(parse("rotation-w8a8-seed_%2D1-vision"))


def test_layernorm_folds_cost_nothing_at_run_time() -> None:
    job, method = job_of(model(), "smoothquant-w8a8-vision")
    groups = {group.norm: group.layers for group in input_groups(job)}
    assert groups["visual.blocks.0.ln_1"] == ("visual.blocks.0.qkv",)
    assert groups["visual.blocks.1.ln_2"] == ("visual.blocks.1.fc1",)
    prepared = method.prepare(job)
    assert prepared["visual.blocks.0.qkv"].online is None
    assert prepared["visual.blocks.0.fc2"].online is not None
    assert job.notes == []


def test_a_layernorm_that_feeds_something_else_is_not_folded() -> None:
    class Leaky(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.inner = block

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.inner.ln_2(x)

    base = model().clone()
    base.module.visual["blocks"][0] = Leaky(base.module.visual["blocks"][0])
    job, method = job_of(base, "smoothquant-w8a8-vision")
    prepared = method.prepare(job)
    assert prepared["visual.blocks.0.inner.fc1"].online is not None
    assert any("visual.blocks.0.inner.ln_2" in note for note in job.notes)
    assert (features(run_prepared(job, prepared), "vision") - features(base, "vision")).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["smoothquant-w8-vision", "awq-w8-vision"])
def test_a_layernorm_that_a_tap_reads_is_not_folded(name: str) -> None:
    """What is read between a LayerNorm and its Linear must keep its basis."""
    watched = "visual.blocks.0.qkv"
    base = replace(with_outliers(model()), taps={"inner": Tap(watched, "input", lambda _, x: x[:, 0])})
    job, method = job_of(base, name)
    assert any(watched in group.layers and group.norm is not None for group in input_groups(job))
    prepared = method.prepare(job)
    assert prepared[watched].online is not None
    assert prepared["visual.blocks.1.qkv"].online is None
    pixels = torch.from_numpy(calibration(8).pixels)
    quantized = quantize(base, parse(name), calibration())[0]
    exact, found = (m.encode_image_with(pixels, ["inner"])["inner"] for m in (base, quantized))
    assert (found - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_smoothing_and_rotation_beat_rounding_on_outliers(tower: str) -> None:
    base = with_outliers(model())
    spread = {}
    for method in ("rtn", "smoothquant", "rotation"):
        _, report = quantize(base, parse(f"{method}-w8a8-channel-tensor-{tower}"), calibration())
        spread[method] = report.towers[tower].embedding_sqnr_db
    assert spread["smoothquant"] > spread["rtn"] + 10
    assert spread["rotation"] > spread["rtn"] + 2


@given(seeds, st.booleans(), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_more_bits_never_give_mse_a_larger_error(seed: int, symmetric: bool, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, size, generator=generator).pow(3)
    if seed % 3 == 0:
        values = values.round()  # falls on the codes of few bits exactly
    errors = [best_scale(values, bits, symmetric)[2] for bits in range(2, 9)]
    slack = 1e-9 + 1e-5 * values.square().sum(-1, keepdim=True)
    for fewer, more in pairwise(errors):
        assert (more <= fewer + slack).all()


@given(seeds, st.integers(2, 8), st.booleans())
@settings(max_examples=40, deadline=None)
def test_mse_is_never_worse_than_min_max(seed: int, bits: int, symmetric: bool) -> None:
    weight = torch.randn(4, 48, generator=torch.Generator().manual_seed(seed)).pow(3)
    plain = quantize_weight(weight, Scheme(bits, "channel", None, symmetric)).dequantize()
    least = best_scale(weight.unsqueeze(1), bits, symmetric)[2].flatten()
    assert (least <= (plain - weight).square().sum(1) * (1 + 1e-5)).all()


@given(seeds, st.integers(2, 8), st.sampled_from(["tensor", "channel", "group"]), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_gptq_never_changes_outputs_more_than_rounding(
    seed: int, bits: int, grain: str, symmetric: bool, actorder: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(12, 64, generator=generator)
    x = torch.randn(200, 16, generator=generator) @ torch.randn(16, 64, generator=generator)
    x += 0.1 * torch.randn(200, 64, generator=generator)
    scheme = Scheme(bits, grain, 16 if grain == "group" else None, symmetric)
    moment = x.T @ x / len(x)
    found = gptq(weight, moment, scheme, 0.01, actorder).dequantize()
    plain = quantize_weight(weight, scheme).dequantize()
    ours, theirs = ((x @ (w - weight).T).square().sum() for w in (found, plain))
    assert ours <= theirs * (1 + 1e-4)


def test_gptq_helps_clearly_on_correlated_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=generator)
    x = torch.randn(1000, 32, generator=generator) @ torch.randn(32, 128, generator=generator)
    x += 0.1 * torch.randn(1000, 128, generator=generator)
    moment = x.T @ x / len(x)
    plain = output_error(weight, quantize_weight(weight, Scheme(3)).dequantize(), moment).sum()
    for actorder, bound in ((False, 0.4), (True, 0.3)):
        assert output_error(weight, gptq(weight, moment, Scheme(3), 0.01, actorder).dequantize(), moment).sum() < (
            bound * plain
        )


@pytest.mark.parametrize("group", [None, 16])
def test_gptq_of_a_single_output_keeps_its_scales(group: int | None) -> None:
    generator = torch.Generator().manual_seed(3)
    weight, rows = torch.randn(1, 64, generator=generator), torch.randn(500, 64, generator=generator)
    rows[:, ::2] += rows[:, 1::2]
    scheme = Scheme(3, "group" if group else "channel", group)
    moment = rows.t() @ rows / len(rows)
    result = gptq(weight, moment, scheme)
    plain = quantize_weight(weight, scheme)
    assert result.scale.shape == plain.scale.shape
    assert output_error(weight, result.dequantize(), moment) <= output_error(weight, plain.dequantize(), moment)


def test_inputs_that_are_always_zero_have_a_range() -> None:
    """A static range of a layer that a calibration set never excites."""
    for kind in ("mse", "percentile", "rtn"):
        method = quantizers.get(kind)
        assert isinstance(method, Simulated)
        observer = method.range_observer()
        observer.update(torch.zeros(5, 4))
        for name in (f"{kind}-w8a8-channel-tensor-vision", f"{kind}-w8a8-channel-tensor-actasym-vision"):
            spec = parse(name)
            quantizer = method.static_activation(spec, 8, *method.activation_range(spec, 8, Seen([observer])))
            assert torch.equal(quantizer(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_zeros_before_the_first_value_count_in_a_histogram() -> None:
    first, second = Histogram(), Histogram()
    values = torch.tensor([0.5, -2.0])
    first.update(torch.zeros(7))
    first.update(values)
    second.update(values)
    second.update(torch.zeros(7))
    assert torch.equal(first.counts, second.counts)


def test_gptq_leaves_dead_features_alone() -> None:
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    x[:, 3] = 0
    found = gptq(weight, x.T @ x / 50, Scheme(8)).dequantize()
    assert (found[:, 3] - weight[:, 3]).abs().max() < 0.05


@pytest.mark.parametrize("columns", [1, 3, 12, 13])
def test_an_output_error_is_the_mean_square_of_the_outputs_change(columns: int) -> None:
    weight, other, rows = torch.randn(5, columns), torch.randn(5, columns), torch.randn(40, columns)
    expected = (rows @ (other - weight).T).square().mean(0)
    torch.testing.assert_close(output_error(weight, other, rows.T @ rows / len(rows)), expected)


def test_awq_picks_the_scale_with_the_least_output_error() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 64, generator=generator)
    loud = torch.ones(64)
    loud[:4] = 20
    x = torch.randn(500, 64, generator=generator) * loud
    moment, mean = x.T @ x / len(x), x.abs().mean(0)
    scale, errors = awq_scale([(weight, Scheme(3))], mean, moment, 20)
    direct = []
    for k in range(20):
        s = mean ** (k / 20)
        s = s / (s.max() * s.min()).sqrt()
        restored = quantize_weight(weight * s, Scheme(3)).dequantize() / s
        direct.append(float((x @ (restored - weight).T).square().sum() / len(x)))
    torch.testing.assert_close(torch.tensor(errors), torch.tensor(direct), rtol=1e-3, atol=0)
    assert min(errors) < 0.7 * errors[0]
    assert scale[:4].min() > scale[4:].max()


@given(seeds, st.integers(2, 4), st.sampled_from(["tensor", "channel", "group"]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_awq_clipping_never_hurts_the_outputs(seed: int, bits: int, grain: str, symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(8, 64, generator=generator), torch.randn(300, 64, generator=generator)
    scale = 1 + torch.rand(64, generator=generator)
    scheme = Scheme(bits, grain, 16 if grain == "group" else None, symmetric)
    # groups are judged as if the others were exact, which is true for inputs that do not correlate
    moment = torch.diag(x.square().mean(0)) if grain == "group" else x.T @ x / len(x)
    plain = quantize_weight(weight * scale, scheme).dequantize() / scale
    span = best_span(weight, scale, scheme, moment)
    clipped = quantize_weight(weight * scale, scheme, span).dequantize() / scale
    errors = [output_error(weight, w, moment).sum() for w in (clipped, plain)]
    assert errors[0] <= errors[1] * (1 + 1e-5)


def test_transformed_weights_may_be_rounded_three_ways() -> None:
    base, spread = with_outliers(model()), {}
    for method in ("rotation", "smoothquant"):
        for rounding in ("rtn", "mse", "gptq"):
            spec = parse(f"{method}-w3a8-rounding_{rounding}-vision")
            assert spec.method == "smoothquant" or quantizers.get("rotation").requires_calibration(spec) == (
                rounding == "gptq"
            )
            _, report = quantize(base, spec, calibration())
            spread[rounding] = report.towers["vision"].embedding_sqnr_db
        assert spread["gptq"] > spread["rtn"] + 1
        assert spread["mse"] != spread["rtn"]


def test_hqq_lowers_the_error_that_it_minimises_on_weights_as_they_are() -> None:
    values = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * 0.02
    for bits in (2, 3, 4, 8):
        codes, scale, zero_point = half_quadratic(values, bits, 20, 0.7)
        plain = quantize_weight(values, Scheme(bits, "channel", None, False)).dequantize()
        norms = [(w - values).abs().pow(0.7).sum() for w in ((codes - zero_point) * scale, plain)]
        assert norms[0] < norms[1]
        assert codes.min() >= 0
        assert codes.max() <= 2**bits - 1


@pytest.mark.parametrize("size", [1, 2, 4, 8, 12, 20, 28, 36, 24, 64, 768, 1152])
def test_hadamard_matrices_are_orthogonal_with_entries_of_one_size(size: int) -> None:
    matrix = hadamard(size)
    assert matrix is not None
    assert (matrix.abs() == 1).all()
    assert torch.equal(matrix @ matrix.T, size * torch.eye(size, dtype=torch.float64))


def test_sizes_without_a_hadamard_matrix() -> None:
    assert all(hadamard(size) is None for size in (3, 6, 10, 269, 4304))
    matrix = random_orthogonal(269)
    assert (matrix @ matrix.T - torch.eye(269, dtype=torch.float64)).abs().max() < 1e-12


@pytest.mark.parametrize("size", [1, 3, 10, 48, 64, 100, 768, 1152])
def test_rotations_are_orthogonal_and_cheap(size: int) -> None:
    left, right = factors(size)
    assert len(left) * len(right) == size
    rotation = Rotation(size, seed=1)
    dense = rotation.rotate(torch.eye(size))
    assert (dense @ dense.T - torch.eye(size, dtype=torch.float64)).abs().max() < 1e-6
    x = torch.randn(5, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotation(x).double(), x.double() @ dense, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotation.unrotate(rotation.rotate(x)), x.double(), rtol=1e-5, atol=1e-6)


def test_a_rotation_spreads_one_feature_over_all() -> None:
    for size in (64, 768):
        one = torch.zeros(1, size)
        one[0, 5] = 1
        spread = Rotation(size, 0)(one).abs()
        torch.testing.assert_close(spread, torch.full_like(spread, size**-0.5), rtol=1e-5, atol=1e-7)


def test_smoothing_scale_follows_its_formula() -> None:
    largest = torch.tensor([4.0, 0.0, 1.0])
    weights = [torch.tensor([[1.0, 1.0, 0.0], [0.25, 3.0, 0.0]])]
    assert smoothing_scale(largest, weights, 0.5).tolist() == pytest.approx([2.0, 1.0, 1.0])
    assert smoothing_scale(largest[:1], [weights[0][:, :1]], 1.0).item() == pytest.approx(4.0)


def test_percentiles_clip_the_tails() -> None:
    values = torch.arange(101.0).unsqueeze(0)
    low, high = percentile_range(values, 90, symmetric=False)
    assert (low.item(), high.item()) == (pytest.approx(10), pytest.approx(90))
    low, high = percentile_range(values, 95, symmetric=True)
    assert (low.item(), high.item()) == (pytest.approx(-95), pytest.approx(95))
    assert percentile_range(values, 100, symmetric=False)[1].item() == 100


def test_clipping_pays_with_heavy_tails() -> None:
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0)).pow(3)
    layer = nn.Linear(512, 64)
    layer.weight.data = weight
    scheme = Scheme(3)
    plain = quantize_weight(weight, scheme).dequantize()
    clipped = quantize_weight(weight, scheme, percentile_range(scheme.grouped(weight), 99, True)).dequantize()
    assert (clipped - weight).norm() < (plain - weight).norm()
