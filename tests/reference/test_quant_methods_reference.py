"""Each method against an implementation that shares no code with ours: a library's where one runs, else a naive one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from benchmark.quantization import parse, quantize_to_store
from benchmark.quantization.affine import Scheme, quantize_weight
from benchmark.quantization.awq import best_scale
from benchmark.quantization.bnb import _bitsandbytes, _four_bit, _int8
from benchmark.quantization.fp8 import LARGEST, cast, float8_scale, rounded_
from benchmark.quantization.gptq import gptq, output_error
from benchmark.quantization.hadamard import hadamard
from benchmark.quantization.hqq import half_quadratic
from benchmark.quantization.packing import unpack
from benchmark.quantization.smoothquant import smoothing_scale
from tests.quant_models import toy


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(seed: int, rows: int, columns: int) -> Tensor:
    x = draw(seed, rows, columns // 4) @ draw(seed + 1, columns // 4, columns)
    return x + 0.3 * draw(seed + 2, rows, columns)


def optimal_brain_quantization(
    weight: np.ndarray, hessian: np.ndarray, bits: int, group: int, symmetric: bool, order: list[int], static: bool
) -> np.ndarray:
    """Frantar's update with an explicit inverse that loses a row and a column at each step (no Cholesky factor)."""
    work, result = weight.copy(), np.zeros_like(weight)
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    scales: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    remaining = list(order)
    for j in order:
        g = j // group
        if g not in scales:
            block = (weight if static else work)[:, g * group : (g + 1) * group]
            scales[g] = grid(block.min(1), block.max(1), bits, symmetric)
        scale, zero_point = scales[g]
        bottom = -(2 ** (bits - 1))
        codes = np.clip(np.rint(work[:, j] / scale) + zero_point, bottom, bottom + 2**bits - 1)
        result[:, j] = (codes - zero_point) * scale
        position = remaining.index(j)
        step = (work[:, j] - result[:, j]) / inverse[position, position]
        work[:, remaining] -= np.outer(step, inverse[position])
        inverse = inverse - np.outer(inverse[:, position], inverse[position]) / inverse[position, position]
        inverse = np.delete(np.delete(inverse, position, 0), position, 1)
        remaining.remove(j)
    return result


def grid(low: np.ndarray, high: np.ndarray, bits: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    levels = 2**bits - 1
    if symmetric:
        return 2 * np.maximum(abs(low), abs(high)) / levels, np.zeros_like(low)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = (high - low) / levels
    return scale, -(2 ** (bits - 1)) - np.rint(low / scale)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("actorder", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(2, 96), (3, 96), (4, 96), (8, 96), (3, 32), (4, 12)])
def test_gptq_equals_optimal_brain_quantization(bits: int, group: int, actorder: bool, symmetric: bool) -> None:
    weight, x = draw(bits, 10, 96), correlated(5, 400, 96)
    moment = x.T @ x / len(x)
    hessian = moment.double().numpy() + 0.01 * moment.diagonal().double().mean().item() * np.eye(96)
    order = moment.diagonal().argsort(descending=True).tolist() if actorder else list(range(96))
    scheme = Scheme(bits, "group", group, symmetric) if group < 96 else Scheme(bits, "channel", None, symmetric)
    static = actorder or group == 96
    expected = optimal_brain_quantization(
        weight.double().numpy(), hessian, bits, group, symmetric, order, static=static
    )
    found = gptq(weight, moment, scheme, 0.01, actorder).dequantize().double().numpy()
    plain = quantize_weight(weight, scheme).dequantize()
    reference = torch.from_numpy(expected).float()
    better = output_error(weight, reference, moment) <= output_error(weight, plain, moment)
    assert better.float().mean() > 0.8, "plain rounding is kept only where it is better"
    rows = better.numpy()
    same = np.isclose(found[rows], expected[rows], rtol=1e-4, atol=1e-5).all(1).mean()
    assert same >= 0.8, "one tie that float32 and float64 round differently changes the rest of its row"
    close = output_error(weight, torch.from_numpy(found).float(), moment)[better].sum()
    assert float(close) == pytest.approx(float(output_error(weight, reference, moment)[better].sum()), rel=0.05)


@pytest.mark.parametrize(("bits", "tolerance"), [(2, 1e-3), (3, 1e-5), (4, 2e-3), (8, 1e-5)])
@pytest.mark.parametrize("group", [64, 128])
def test_hqq_equals_its_package(bits: int, tolerance: float, group: int) -> None:
    package = pytest.importorskip("hqq.core.quantize")
    weight = draw(bits, 64, 256) * 0.05
    packed, meta = package.Quantizer.quantize(
        weight, nbits=bits, group_size=group, axis=1, device="cpu", round_zero=bits == 4, bitpack=False
    )
    theirs = ((packed.float() - meta["zero"]) * meta["scale"]).reshape(weight.shape)
    codes, scale, zero_point = half_quadratic(weight.reshape(-1, group), bits, 20, 0.7)
    ours = ((codes - zero_point) * scale).reshape(weight.shape)
    assert (ours - theirs).norm() / theirs.norm() < tolerance
    assert (codes == packed.reshape(codes.shape)).float().mean() > 0.999


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_hqq_equals_torchao(bits: int) -> None:
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    weight = draw(bits, 64, 256) * 0.05
    codes, scale, zero_point, _ = primitives._choose_qparams_and_quantize_affine_hqq(
        weight, bits, 64, compute_dtype=torch.float32, device="cpu", raw_output=True
    )
    theirs = (codes.float().reshape(-1, 64) - zero_point.reshape(-1, 1)) * scale.reshape(-1, 1)
    mine, my_scale, my_zero = half_quadratic(weight.reshape(-1, 64), bits, 20, 0.7)
    assert ((mine - my_zero) * my_scale - theirs).norm() / theirs.norm() < 2e-3


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.8])
def test_smoothing_scale_equals_torchao(alpha: float) -> None:
    core = pytest.importorskip("torchao.prototype.smoothquant.core")
    weight, x = draw(0, 48, 64), correlated(1, 200, 64)
    observer = core.SmoothQuantObserver(weight, alpha)
    observer(x[:100])
    observer(x[100:])
    theirs, _, _ = observer.calculate_qparams()
    torch.testing.assert_close(smoothing_scale(x.abs().amax(0), [weight], alpha), theirs, rtol=5e-6, atol=0)


def test_awq_scale_equals_torchao() -> None:
    core = pytest.importorskip("torchao.prototype.awq.core")
    library = pytest.importorskip("torchao.quantization")
    weight, x = draw(0, 48, 64), correlated(1, 400, 64)
    x[:, :3] *= 25
    observer = core.AWQObserver(weight, None, library.Int8WeightOnlyConfig())
    observer(x, x)
    theirs = observer.calculate_qparams()
    ours, _ = best_scale([(weight, Scheme(8))], x.abs().mean(0), x.T @ x / len(x), 20)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("order", [2, 8, 64, 256])
def test_hadamard_equals_scipy(order: int) -> None:
    matrix = hadamard(order)
    assert matrix is not None
    assert np.array_equal(matrix.numpy(), scipy.linalg.hadamard(order))


def e4m3_values() -> list[float]:
    """All finite values of the format by its definition: bias 7, subnormals, no infinity."""
    values = []
    for sign, exponent, mantissa in itertools.product((1, -1), range(16), range(8)):
        if (exponent, mantissa) == (15, 7):
            continue  # not a number
        magnitude = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        values.append(sign * magnitude)
    return values


def test_fp8_rounds_to_the_nearest_value_of_the_format() -> None:
    table = np.array(sorted(set(e4m3_values())))
    assert table.max() == 448
    values = draw(0, 4000).pow(3)
    scale = float8_scale(values.abs().max())
    ours = cast(values, scale).float().numpy()
    scaled = (values / scale).numpy()
    distance = abs(scaled[:, None] - table[None])
    assert np.array_equal(abs(ours - scaled), distance.min(1).astype(np.float32))


def test_fp8_in_floats_equals_the_cast_of_torch() -> None:
    """Over the bits of every 977th float32, and over all ties between neighbours of the format."""
    every = torch.arange(0, 2**32, 977, dtype=torch.int64).to(torch.int32).view(torch.float32)
    table = torch.tensor(sorted(set(e4m3_values())), dtype=torch.float32)
    values = torch.cat([every[torch.isfinite(every)].clamp_(-LARGEST, LARGEST), table, (table[1:] + table[:-1]) / 2])
    assert torch.equal(rounded_(values.clone()), values.to(torch.float8_e4m3fn).float())


def test_fp8_equals_torchao() -> None:
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    weight = draw(0, 32, 64).pow(3)
    scale = primitives._choose_scale_float8(weight, [1, 64])
    theirs = primitives._quantize_affine_float8(weight, scale)
    ours_scale = float8_scale(weight.abs().amax(1, keepdim=True))
    torch.testing.assert_close(ours_scale, scale, rtol=1e-7, atol=0)
    assert torch.equal(cast(weight, ours_scale).float(), theirs.float())


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bit_formats_are_the_nearest_table_entry_of_each_block(kind: str, double: bool) -> None:
    layer = nn.Linear(256, 24)
    module, dense, packed = _four_bit(layer, kind, double)
    table = _bitsandbytes().functional.get_4bit_type(kind, device="cpu").sort().values
    blocks = layer.weight.detach().reshape(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    edges = (table[1:] + table[:-1]) / 2
    expected = (table[torch.bucketize(blocks / largest, edges)] * largest).reshape(layer.weight.shape)
    if double:  # the block maxima are themselves rounded
        assert (dense - expected).norm() / expected.norm() < 0.02
        assert packed == 4 * 256 * 24 + 8 * 96 + 32 + 32
    else:
        assert ((dense - expected).abs() < 1e-6).float().mean() > 0.9999
        assert packed == 4 * 256 * 24 + 32 * 96
    x = draw(0, 7, 256)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), x @ dense.T + layer.bias, rtol=2e-2, atol=2e-2)


def test_llm_int8_is_absmax_over_127_per_channel() -> None:
    layer = nn.Linear(64, 40)
    module, dense, packed = _int8(layer, 0.0)
    weight = layer.weight.detach()
    scale = weight.half().float().abs().amax(1, keepdim=True) / 127
    expected = torch.round(weight.half().float() / scale) * scale
    assert (dense - expected).abs().max() <= scale.max() * 1.01  # its half-precision input may flip a code
    assert ((dense - expected).abs() < 1e-6).float().mean() > 0.98
    assert packed == 8 * 64 * 40 + 32 * 40
    x = draw(1, 9, 64)
    token = x.abs().amax(1, keepdim=True) / 127
    reference = torch.round(x / token) * token @ dense.T + layer.bias
    with torch.inference_mode():
        assert (module(x) - reference).norm() / reference.norm() < 3e-3


def test_outlier_columns_are_kept_in_float() -> None:
    layer, x = nn.Linear(64, 40), draw(1, 9, 64)
    x[:, 7] *= 100
    exact = x @ layer.weight.T + layer.bias
    with torch.inference_mode():
        off, on = (((_int8(layer, threshold)[0](x) - exact).norm() / exact.norm()).item() for threshold in (0.0, 6.0))
    assert on < off / 3


def test_torchao_weights_are_round_to_nearest() -> None:
    pytest.importorskip("torchao")
    model = toy()
    _, ours, kept_ours = quantize_to_store(model, parse("rtn-w8-skip_visual.conv-vision"))
    _, theirs, kept_theirs = quantize_to_store(model, parse("torchao-int8wo-vision"))
    mine = {record.name: record for record in ours.towers["vision"].layers}
    for name, state in kept_theirs.items():
        codes = kept_ours[name].tensors["codes"]
        assert torch.equal(unpack(codes, 8, state.tensors["qdata"].numel()), state.tensors["qdata"].flatten())
    for record in theirs.towers["vision"].layers:
        assert record.packed_bits == mine[record.name].packed_bits
        assert record.relative_error == pytest.approx(mine[record.name].relative_error, rel=2e-2)
