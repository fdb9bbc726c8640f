"""The integer path gives what the float reference gives, layer by layer."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from benchmark.errors import NonFiniteError
from benchmark.quantization.activation import TensorQuantizer, TokenQuantizer
from benchmark.quantization.affine import QuantizedWeight, Scheme, quantize_weight
from benchmark.quantization.hqq import half_quadratic
from benchmark.quantization.kernels import onednn, selection
from benchmark.quantization.kernels.int8 import Int8Layer, fits_int8, is_patchwise, is_product
from benchmark.quantization.kernels.onednn import (
    OneDnnConv2d,
    OneDnnLayer,
    exact_bits,
    exact_convolution_bits,
    is_dense,
    on_onednn,
)
from benchmark.quantization.kernels.selection import integer_engine, replacement
from benchmark.quantization.linear import simulated_layer


def activation(kind: str, bits: int, symmetric: bool, x: torch.Tensor) -> TokenQuantizer:
    if kind == "tensor":
        return TensorQuantizer(bits, symmetric, float(x.min()), float(x.max()))
    return TokenQuantizer(bits, symmetric, (-3, -2, -1) if x.ndim == 4 else (-1,))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("grain", ["tensor", "channel"])
@pytest.mark.parametrize("kind", ["tensor", "token"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activation_symmetric", [True, False])
@pytest.mark.parametrize(("bits", "activation_bits"), [(8, 8), (4, 6), (2, 4)])
def test_linear_equals_the_float_reference(
    bias: bool, grain: str, kind: str, symmetric: bool, activation_symmetric: bool, bits: int, activation_bits: int
) -> None:
    torch.manual_seed(bits)
    layer = nn.Linear(96, 40, bias=bias)
    x = torch.nn.functional.gelu(torch.randn(3, 11, 96) * 2)
    weight = quantize_weight(layer.weight, Scheme(bits, grain, None, symmetric))
    quantizer = activation(kind, activation_bits, activation_symmetric, x)
    with torch.inference_mode():
        exact = Int8Layer(layer, weight, quantizer)(x)
        simulated = simulated_layer(layer, weight.dequantize(), quantizer)(x).double()
        reference = quantizer(x).double() @ weight.dequantize().double().T
        reference += layer.bias.double() if bias else 0
    scale = reference.norm()
    assert (exact.double() - reference).norm() / scale < 1e-6
    assert (simulated - reference).norm() / scale < 1e-6
    assert exact.shape == simulated.shape


@pytest.mark.parametrize("kind", ["tensor", "token"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [32, 37])
@pytest.mark.parametrize("batch", [1, 5])
def test_patch_embedding_equals_the_float_reference(kind: str, symmetric: bool, size: int, batch: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 16, 8, 8)
    x = torch.randn(batch, 3, size, size)
    weight = quantize_weight(layer.weight, Scheme(8, "channel", None, symmetric))
    quantizer = activation(kind, 8, symmetric, x)
    with torch.inference_mode():
        exact = Int8Layer(layer, weight, quantizer)(x)
        simulated = simulated_layer(layer, weight.dequantize(), quantizer)(x)
    assert exact.shape == simulated.shape
    assert (exact - simulated).norm() / simulated.norm() < 1e-6


needs_onednn = pytest.mark.skipif(not exact_bits(), reason="no exact oneDNN product on this CPU")


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("grain", ["tensor", "channel"])
@pytest.mark.parametrize("kind", ["tensor", "token"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activation_symmetric", [True, False])
@pytest.mark.parametrize(("bits", "activation_bits"), [(8, 8), (7, 8), (8, 7), (6, 8), (4, 8), (2, 4)])
def test_onednn_equals_the_float_reference(
    bias: bool, grain: str, kind: str, symmetric: bool, activation_symmetric: bool, bits: int, activation_bits: int
) -> None:
    if bits + activation_bits > exact_bits():
        pytest.skip("this CPU adds pairs in 16 bits")
    torch.manual_seed(bits)
    layer = nn.Linear(1030, 40, bias=bias)
    x = torch.nn.functional.gelu(torch.randn(3, 11, 1030) * 2)
    x[0, 0] = 3.0  # a token of one value only, and codes as large as they get
    with torch.no_grad():
        layer.weight[3] = layer.weight.abs().max()
    weight = quantize_weight(layer.weight, Scheme(bits, grain, None, symmetric))
    quantizer = activation(kind, activation_bits, activation_symmetric, x)
    module = on_onednn(layer, weight, quantizer, None)
    assert isinstance(module, OneDnnLayer)
    with torch.inference_mode():
        reference = quantizer(x).double() @ weight.dequantize().double().T
        reference += layer.bias.double() if bias else 0
        for repeated in (module, copy.deepcopy(module)):
            assert (repeated(x).double() - reference).norm() / reference.norm() < 1e-6


@needs_onednn
@pytest.mark.parametrize("kind", ["tensor", "token"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("weight_symmetric", [True, False])
@pytest.mark.parametrize("batch", [1, 5])
def test_onednn_patch_embedding_equals_the_float_reference(
    kind: str, symmetric: bool, weight_symmetric: bool, batch: int
) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 16, 8, 8), torch.randn(batch, 3, 37, 32)
    weight = quantize_weight(layer.weight, Scheme(7, "channel", None, weight_symmetric))
    quantizer = activation(kind, 8, symmetric, x)
    with torch.inference_mode():
        exact = OneDnnLayer(layer, weight, quantizer)(x)
        simulated = simulated_layer(layer, weight.dequantize(), quantizer)(x)
    assert (exact - simulated).norm() / simulated.norm() < 1e-6


@pytest.mark.skipif(not exact_convolution_bits(), reason="no exact oneDNN convolution on this CPU")
@pytest.mark.parametrize("kind", ["tensor", "token"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("weight_symmetric", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "shape", [{"padding": 1}, {"padding": (0, 2), "stride": 2, "bias": False}, {"dilation": 2, "stride": (1, 3)}]
)
def test_onednn_convolution_equals_the_float_reference(
    kind: str, symmetric: bool, weight_symmetric: bool, batch: int, shape: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(20, 24, 3, **shape), torch.randn(batch, 20, 13, 16) + torch.arange(batch).reshape(-1, 1, 1, 1)
    weight = quantize_weight(layer.weight, Scheme(7, "channel", None, weight_symmetric))
    quantizer = activation(kind, 8, symmetric, x)
    module = on_onednn(layer, weight, quantizer, None)
    assert isinstance(module, OneDnnConv2d)
    with torch.inference_mode():
        simulated = simulated_layer(layer, weight.dequantize(), quantizer)(x)
        for repeated in (module, copy.deepcopy(module)):
            found = repeated(x)
            assert found.shape == simulated.shape
            assert (found - simulated).norm() / simulated.norm() < 1e-6


@needs_onednn
def test_the_sums_of_any_codes_are_exact() -> None:
    """Sums of int32 size whose zero-point correction cancels nearly all of them; shapes that fill no block."""
    generator = torch.Generator().manual_seed(0)
    bits = min(8, exact_bits() - 8)
    for rows, columns, outputs in ((1, 5, 3), (7, 130, 33), (65, 3072, 70), (200, 771, 129)):
        low = int(torch.randint(0, 200, (), generator=generator))
        codes = torch.randint(low, 256, (rows, columns), generator=generator).to(torch.uint8)
        half = 2 ** (bits - 1)
        weight = torch.randint(-half, half, (outputs, columns), generator=generator).to(torch.int8)
        for zero_point in (0, 128, 255):
            found = onednn._linear(codes, zero_point, onednn._packed(weight), torch.ones(outputs), None).double()
            exact = (codes.double() - zero_point) @ weight.double().T
            assert ((found - exact).abs() <= 5e-7 * exact.abs()).all()


@pytest.mark.parametrize(
    ("most", "bits", "activation_bits", "fits"),
    [(15, 8, 8, False), (15, 7, 8, True), (15, 8, 7, True), (16, 8, 8, True), (0, 4, 4, False)],
)
@pytest.mark.parametrize("layer", [nn.Linear(16, 8), nn.Conv2d(4, 8, 3)])
def test_onednn_is_kept_from_codes_whose_pairs_overflow_16_bits(
    monkeypatch: pytest.MonkeyPatch, most: int, bits: int, activation_bits: int, fits: bool, layer: nn.Linear
) -> None:
    monkeypatch.setattr(onednn, "exact_bits", lambda: most)
    monkeypatch.setattr(onednn, "exact_convolution_bits", lambda: most)
    weight = quantize_weight(layer.weight, Scheme(bits))
    dims = (-3, -2, -1) if isinstance(layer, nn.Conv2d) else (-1,)
    assert (on_onednn(layer, weight, TokenQuantizer(activation_bits, True, dims), None) is not None) == fits
    if fits and most == 15:
        assert 2 * (2**activation_bits - 1) * 2 ** (bits - 1) <= 2**15 - 1


def test_the_engine_of_a_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert integer_engine("meta") == "none"
    names = set()
    for most, gemm in ((16, True), (16, False), (15, False), (0, True), (0, False)):
        monkeypatch.setattr(selection, "exact_bits", lambda answer=most: answer)
        monkeypatch.setattr(selection, "int8_available", lambda device, answer=gemm: answer)
        names.add(integer_engine("cpu"))
    assert names == {"int8-onednn-16", "int8-onednn", "int8-gemm", "none"}


def test_weight_of_the_integer_layer_is_the_dequantized_one() -> None:
    layer = nn.Conv2d(3, 16, 8, 8)
    weight = quantize_weight(layer.weight, Scheme(5, "channel", None, False))
    module = Int8Layer(layer, weight, TokenQuantizer(8, True, (-3, -2, -1)))
    torch.testing.assert_close(module.weight, weight.dequantize())
    assert module.weight.shape == layer.weight.shape


def test_what_fits_integers() -> None:
    cpu = torch.device("cpu")

    def fits(layer: nn.Linear | nn.Conv2d, grain: str = "channel") -> bool:
        scheme = Scheme(8, grain, 4 if grain == "group" else None)
        return fits_int8(layer, quantize_weight(layer.weight, scheme), cpu)

    assert fits(nn.Linear(8, 4))
    assert fits(nn.Conv2d(3, 4, 4, 4))
    assert fits(nn.Conv2d(8, 4, 1), "tensor")
    assert not fits(nn.Linear(8, 4), "group")
    assert is_product(nn.Conv2d(8, 4, 1))
    assert not is_product(nn.Conv2d(8, 8, 3, padding=1))
    assert is_dense(nn.Conv2d(8, 8, 3, padding=1))
    assert not is_dense(nn.Conv2d(8, 8, 7, padding=3, groups=8))
    assert not is_dense(nn.Conv2d(8, 8, 3, padding="same"))
    assert not is_dense(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"))
    assert not is_patchwise(nn.Conv2d(4, 4, 2, 2, padding=1))
    assert not is_patchwise(nn.Conv2d(4, 4, 2, 2, dilation=2))


@pytest.mark.parametrize(
    ("most", "gemm", "engine", "convolution"),
    [
        (16, True, "int8-onednn", "int8-onednn"),
        (15, False, "float-simulated", "float-simulated"),
        (0, True, "int8-gemm", "float-simulated"),
        (0, False, "float-simulated", "float-simulated"),
    ],
)
def test_engine_is_chosen_by_the_device_and_by_exact_float(
    monkeypatch: pytest.MonkeyPatch, most: int, gemm: bool, engine: str, convolution: str
) -> None:
    layer, other = nn.Linear(16, 8), nn.Conv2d(4, 8, 3)
    weight, kernel = quantize_weight(layer.weight, Scheme(8)), quantize_weight(other.weight, Scheme(8))
    quantizer = TokenQuantizer(8, True)
    monkeypatch.setattr(onednn, "exact_bits", lambda: most)
    monkeypatch.setattr(onednn, "exact_convolution_bits", lambda: most)
    monkeypatch.setattr(selection, "int8_available", lambda device: gemm)
    assert replacement(layer, weight, quantizer, None, exact_float=False)[1] == engine
    images = TokenQuantizer(8, True, (-3, -2, -1))
    assert replacement(other, kernel, images, None, exact_float=False)[1] == convolution
    assert replacement(layer, weight, quantizer, None, exact_float=True)[1] == "float-simulated"
    assert replacement(layer, weight, None, None, exact_float=False)[1] == "float-simulated"


def test_float_zero_points_are_kept_from_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """HQQ's: an integer kernel would round them, and the weight would be another one."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    codes, scale, zero_point = half_quadratic(layer.weight.detach().reshape(8, 1, 16), 4, 20, 0.7)
    weight = QuantizedWeight((codes - 8).to(torch.int8), scale, zero_point - 8, Scheme(4, symmetric=False), (8, 16))
    assert (zero_point != zero_point.round()).any()
    monkeypatch.setattr(onednn, "exact_bits", lambda: 16)
    monkeypatch.setattr(selection, "int8_available", lambda device: True)
    module, engine = replacement(layer, weight, TokenQuantizer(8, True), None, exact_float=False)
    torch.testing.assert_close(module.weight, weight.dequantize(), rtol=0, atol=0)
    assert engine == "float-simulated"
    whole = replace(weight, zero_point=weight.zero_point.round())
    assert replacement(layer, whole, TokenQuantizer(8, True), None, exact_float=False)[1] != "float-simulated"


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("layer", [nn.Linear(16, 8), nn.Conv2d(4, 8, 2, 2), nn.Conv2d(4, 8, 3, padding=1)])
@pytest.mark.parametrize("exact_float", [True, False])
def test_nan_is_not_lost_in_integers(symmetric: bool, layer: nn.Linear | nn.Conv2d, exact_float: bool) -> None:
    """Cast to an integer it is 0: features would be wrong numbers without a sign of it."""
    x = torch.ones(3, 16) if isinstance(layer, nn.Linear) else torch.ones(3, 4, 6, 6)
    weight = quantize_weight(layer.weight, Scheme(7))
    token, static = (activation(kind, 8, symmetric, x) for kind in ("token", "tensor"))
    x[1].view(-1)[2] = float("nan")
    with torch.inference_mode():
        found = replacement(layer, weight, token, None, exact_float)[0](x)
        assert found[1].isnan().any()
        assert found[[0, 2]].isfinite().all()
        module, engine = replacement(layer, weight, static, None, exact_float)
        if engine == "float-simulated":
            assert module(x)[1].isnan().any()
        else:
            with pytest.raises(NonFiniteError, match="quantized layer: its input is NaN"):
                module(x)


def test_token_ranges_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, 32) * torch.rand(6, 5, 1) * 10
    quantizer = TokenQuantizer(8, False)
    assert torch.equal(quantizer(x)[2:3], quantizer(x[2:3]))
