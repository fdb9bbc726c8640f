"""Layers written down and made again: every method's model gives bit-identical embeddings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmark.errors import ModelError, QuantizationError
from benchmark.models.base import ClipModel
from benchmark.quantization import LayerState, parse, quantize_to_store, quantizers
from benchmark.quantization.graphs.quantizer import GraphQuantizer
from benchmark.quantization.linear import Transform
from benchmark.quantization.packing import Parts, pack, pack_layer, unpack
from benchmark.quantization.state import put
from tests.quant_models import calibration, toy, with_outliers

NAMES = [
    "rtn-w4a8-channel-token-vision",
    "rtn-w8a8-channel-token-vision+text",
    "rtn-w3-g16-asym-vision+text",
    "rtn-w6a8-tensor-tensor-actasym-vision",
    "rtn-w5a6-channel-token-asym-actasym-vision",
    "rtn-a8-token-vision",
    "rtn-w4-channel-skip_visual.conv-bits_visual.blocks.0.%2A_8-vision",
    "percentile-w4a8-channel-tensor-percentile_99-vision",
    "mse-w2-channel-vision",
    "smoothquant-w8a8-channel-token-vision+text",
    "smoothquant-w8a8-channel-tensor-vision",
    "smoothquant-a8-token-vision",
    "rotation-w4a8-channel-token-vision",
    "rotation-w4-g32-seed_3-vision+text",
    "gptq-w4-g16-asym-vision",
    "awq-w4-g16-asym-vision",
    "awq-w4a8-channel-token-vision",
    "hqq-w4-g16-vision",
    "hqq-w3a8-channel-token-vision",
    "fp8-w8-channel-vision+text",
    "fp8-w8a8-channel-token-vision",
    "fp8-w8a8-tensor-tensor-vision",
    "bnb-int8-vision+text",
    "bnb-nf4-vision",
    "bnb-nf4-doublequant_true-vision",
    "bnb-fp4-vision",
    "torchao-int8wo-vision",
    "torchao-int8da-vision+text",
    "torchao-fp8wo-vision+text",
    "bf16-vision+text",
]


@given(st.integers(2, 8), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_codes_survive_packing_in_the_least_bytes(bits: int, count: int, seed: int) -> None:
    low = -(1 << (bits - 1))
    codes = torch.from_numpy(np.random.default_rng(seed).integers(low, -low, count, dtype=np.int8))
    packed = pack(codes, bits)
    assert packed.numel() == -(-count * bits // 8)
    assert torch.equal(unpack(packed, bits, count), codes)


def test_packed_bytes_of_another_length_are_refused() -> None:
    with pytest.raises(ModelError, match="7 codes of 3 bits"):
        unpack(torch.zeros(2, dtype=torch.uint8), 3, 7)


def rebuilt(full: ClipModel, quantized: ClipModel, name: str, kept: dict[str, LayerState]) -> ClipModel:
    """The quantized model from its kept states and its other parameters; the layers' own weights are garbage."""
    spec, clone = parse(name), full.clone()
    state = quantized.module.state_dict()
    for key, value in clone.module.state_dict().items():
        value.copy_(state.get(key, value) if state.get(key, value).shape == value.shape else value)
    for layer_name, stored in kept.items():
        layer = clone.module.get_submodule(layer_name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        layer.weight.data.normal_()
        module, _ = quantizers.get(spec.method).rebuild(spec, layer, stored)
        put(clone.module, layer_name, module)
    return clone


@pytest.mark.parametrize("name", NAMES)
def test_a_rebuilt_model_is_bit_identical(name: str) -> None:
    if name.startswith("torchao"):
        pytest.importorskip("torchao")
    full, data = with_outliers(toy()), calibration(16)
    full.module.requires_grad_(False)
    quantized, report, kept = quantize_to_store(full, parse(name), data)
    assert sorted(kept) == sorted(layer.name for tower in report.towers.values() for layer in tower.layers)
    again = rebuilt(full, quantized, name, kept)
    pixels = torch.from_numpy(data.pixels)
    assert torch.equal(again.encode_image(pixels), quantized.encode_image(pixels))
    assert torch.equal(again.encode_text(data.captions), quantized.encode_text(data.captions))
    for before, after in zip(full.module.state_dict().values(), toy_state(full), strict=True):
        assert torch.equal(before, after)


def toy_state(full: ClipModel) -> list[torch.Tensor]:
    """What the model's parameters were: quantizing and storing must not touch them."""
    return list(with_outliers(toy()).module.state_dict().values())


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith(("bnb", "torchao"))])
def test_a_stored_layer_is_as_large_as_the_report_says(name: str) -> None:
    _, report, kept = quantize_to_store(with_outliers(toy()), parse(name), calibration(16))
    for tower in report.towers.values():
        for layer in tower.layers:
            tensors = kept[layer.name].tensors
            counted = ("codes", "scale", "zero_point", "weight", "transform.factor")
            stored = 8 * sum(t.nbytes for key, t in tensors.items() if key in counted)
            rotation = sum(len(tensors[key]) for key in ("transform.left", "transform.right") if key in tensors)
            assert layer.packed_bits <= stored + rotation < layer.packed_bits + 16


def test_every_method_that_quantizes_layers_can_be_stored() -> None:
    """Graphs of other runtimes are files already (tests/e2e/test_export_graphs.py)."""
    methods = {parse(name).method for name in NAMES}
    others = {name for name, q in quantizers if q.kind == "quantization" and "cpu" in q.runs_on}
    others -= {name for name, q in quantizers if isinstance(q, GraphQuantizer)}
    assert others - methods <= {"fp32", "fp16"} | {
        n for n, q in quantizers if n not in methods and _inherits_rebuild(q)
    }


def _inherits_rebuild(quantizer: object) -> bool:
    from benchmark.quantization.simulated import Simulated

    return isinstance(quantizer, Simulated)


def test_an_unknown_part_has_no_stored_form() -> None:
    class Stranger(Transform):
        pass

    with pytest.raises(QuantizationError, match="a Stranger, which has no stored form"):
        pack_layer(nn.Linear(4, 4), None, None, Stranger(), Parts())


@pytest.mark.parametrize("name", ["rtn-w4a8-channel-token-vision", "bnb-nf4-vision", "bnb-int8-vision"])
def test_a_damaged_state_is_one_clear_error(name: str) -> None:
    full, spec = toy(), parse(name)
    full.module.requires_grad_(False)
    kept = quantize_to_store(full, spec)[2]
    layer = full.module.get_submodule("visual.proj")
    state = kept["visual.proj"]
    assert isinstance(layer, nn.Linear)
    for key in state.tensors:
        if key == "weight_format":
            continue
        with pytest.raises(ModelError, match="damaged"):
            quantizers.get(spec.method).rebuild(
                spec, layer, replace(state, tensors={k: v for k, v in state.tensors.items() if k != key})
            )
