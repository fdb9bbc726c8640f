"""The affine reference against torch's own fake-quantize operators and torchao's primitives: identical codes."""

from __future__ import annotations

import pytest
import torch

from benchmark.quantization.activation import TensorQuantizer, TokenQuantizer
from benchmark.quantization.affine import Scheme, quantize_weight

BITS = range(2, 9)


def draw(seed: int = 0, shape: tuple[int, ...] = (24, 96)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.rand(shape[0], 1, generator=generator) + 0.1


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_per_channel_equals_torch_fake_quantize(bits: int, symmetric: bool) -> None:
    weight = draw(bits)
    ours = quantize_weight(weight, Scheme(bits, "channel", None, symmetric))
    theirs = torch.fake_quantize_per_channel_affine(
        weight, ours.scale.flatten(), ours.zero_point.flatten().int(), 0, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    )
    torch.testing.assert_close(ours.dequantize(), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(4, 9))
def test_static_activations_equal_torch_fake_quantize(bits: int, symmetric: bool) -> None:
    x = draw(bits, (21, 96)).reshape(3, 7, 96)
    ours = TensorQuantizer(bits, symmetric, -1.3, 2.1)
    theirs = torch.fake_quantize_per_tensor_affine(
        x, float(ours.scale), int(ours.zero_point), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    )
    torch.testing.assert_close(ours(x), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("grain", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_codes_equal_torchao(bits: int, symmetric: bool, grain: str) -> None:
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    weight = draw(bits)
    block = {"tensor": weight.shape, "channel": (1, 96), "group": (1, 32)}[grain]
    kind = primitives.MappingType.SYMMETRIC if symmetric else primitives.MappingType.ASYMMETRIC
    limits = {"quant_min": -(2 ** (bits - 1)), "quant_max": 2 ** (bits - 1) - 1}
    scale, zero_point = primitives.choose_qparams_affine(weight, kind, block, torch.int8, **limits)
    codes = primitives.quantize_affine(weight, block, scale, zero_point, torch.int8, **limits)
    ours = quantize_weight(weight, Scheme(bits, grain, 32 if grain == "group" else None, symmetric))
    torch.testing.assert_close(ours.scale.flatten(), scale.flatten(), rtol=1e-6, atol=0)
    assert torch.equal(ours.zero_point.flatten().int(), zero_point.flatten().int())
    assert torch.equal(ours.codes.reshape(weight.shape), codes)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(4, 9))
def test_token_codes_equal_torchao(bits: int, symmetric: bool) -> None:
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    x = draw(bits, (40, 96))
    kind = primitives.MappingType.SYMMETRIC if symmetric else primitives.MappingType.ASYMMETRIC
    limits = {"quant_min": -(2 ** (bits - 1)), "quant_max": 2 ** (bits - 1) - 1}
    scale, zero_point = primitives.choose_qparams_affine(x, kind, (1, 96), torch.int8, **limits)
    codes = primitives.quantize_affine(x, (1, 96), scale, zero_point, torch.int8, **limits)
    ours, our_scale, _ = TokenQuantizer(bits, symmetric).codes(x)
    torch.testing.assert_close(our_scale.flatten(), scale.flatten(), rtol=1e-6, atol=0)
    assert torch.equal(ours.to(torch.int8), codes)
