"""`quantize`: what the report proves, what is refused, and what one tower may know of the other."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import NonFiniteError, QuantizationError, SpecError, UnknownNameError
from benchmark.quantization import check_model, parse, quantize, quantizers, requires_calibration
from benchmark.quantization.affine import Scheme, quantize_weight
from benchmark.spec import FP32, QuantSpec
from tests.quant_models import calibration, toy


def test_full_precision_is_the_model_itself() -> None:
    model = toy()
    same, report = quantize(model, FP32)
    assert same is model
    assert report.towers == {}
    assert report.kernel is None
    assert report.engine == "float"


def test_the_model_given_is_left_alone() -> None:
    model = toy()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    quantize(model, parse("smoothquant-w4a8-vision+text"), calibration())
    after = model.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_short_quantization_worked_out_by_hand() -> None:
    """Every Linear's weight is the reference's, and the features are those of the model with these weights."""
    model = toy()
    quantized, report = quantize(model, parse("rtn-w3-g16-asym-vision"))
    by_hand = model.clone()
    for name, layer in by_hand.layers("vision").items():
        dense = quantize_weight(layer.weight, Scheme(3, "group", 16, False)).dequantize()
        layer.weight = nn.Parameter(dense)
        assert torch.equal(quantized.module.get_submodule(name).weight, dense)
    pixels = torch.from_numpy(calibration(8).pixels)
    assert torch.equal(quantized.encode_image(pixels), by_hand.encode_image(pixels))
    assert len(report.towers["vision"].layers) == len(model.layers("vision"))


def test_report_counts_weights_macs_bits_and_bytes() -> None:
    model = toy()
    _, report = quantize(model, parse("rtn-w4-skip_visual.blocks.1.%2A-vision+text"))
    vision, text = report.towers["vision"], report.towers["text"]
    layers = model.layers("vision")
    weights = {name: layer.weight.numel() for name, layer in layers.items()}
    kept = {name for name in layers if name.startswith("visual.blocks.1.")}
    done = sum(count for name, count in weights.items() if name not in kept)
    assert vision.skipped == dict.fromkeys(kept, "skip pattern 'visual.blocks.1.*'")
    assert vision.weight_share == pytest.approx(done / sum(weights.values()))
    tokens = {name: 1 if name == "visual.proj" else 16 for name in layers}  # 4 x 4 patches; the projection is pooled
    macs = {name: tokens[name] * weights[name] for name in layers}
    expected = sum(macs[name] for name in layers if name not in kept) / sum(macs.values())
    assert vision.mac_share == pytest.approx(expected)
    rows = sum(layer.weight.shape[0] for name, layer in layers.items() if name not in kept)
    assert vision.bits_per_weight == pytest.approx(4 + 32 * rows / done)
    parameters = sum(p.numel() for p in model.module.visual.parameters())
    assert vision.float_bytes == 4 * parameters
    packed = 4 * done + 32 * rows + 32 * (parameters - done)
    assert vision.packed_bytes == packed // 8
    assert vision.bits_per_parameter == pytest.approx(packed / parameters)
    assert vision.bits_per_parameter_without_embedding == vision.bits_per_parameter
    assert text.bits_per_parameter_without_embedding < text.bits_per_parameter
    assert text.weight_share == 1
    assert report.kernel == "simulated"
    assert report.quantization == "rtn-w4-channel-skip_visual.blocks.1.%2A-vision+text"


def test_report_measures_errors() -> None:
    model = toy()
    quantized, report = quantize(model, parse("rtn-w4-vision"), calibration())
    vision = report.towers["vision"]
    original = model.module.visual["proj"].weight.detach()
    dense = quantized.module.visual["proj"].weight
    record = next(r for r in vision.layers if r.name == "visual.proj")
    assert record.relative_error == pytest.approx(float((dense - original).norm() / original.norm()), rel=1e-5)
    pixels = torch.from_numpy(calibration().pixels[:8].copy())
    reference, changed = model.encode_image(pixels), quantized.encode_image(pixels)
    assert vision.cosine == pytest.approx(float((reference * changed).sum(1).mean()), abs=1e-6)
    ratio = float(reference.square().sum() / (changed - reference).square().sum())
    assert 10 ** (vision.embedding_sqnr_db / 10) == pytest.approx(ratio, rel=1e-3)
    original_all = torch.cat([layer.weight.detach().flatten() for layer in model.layers("vision").values()])
    dense_all = torch.cat([quantized.module.get_submodule(n).weight.flatten() for n in model.layers("vision")])
    expected = float((dense_all - original_all).norm() / original_all.norm())
    assert vision.weight_relative_error == pytest.approx(expected, rel=1e-5)


def test_report_is_plain_json() -> None:
    _, report = quantize(toy(), parse("rtn-w8a8-vision"))
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert value["engine"] == report.engine
    assert value["towers"]["vision"]["weight_share"] == 1
    assert len(value["towers"]["vision"]["layers"]) == len(toy().layers("vision"))
    assert "LayerNorm" in value["kept"]


def test_overrides_change_bits_and_the_last_match_wins() -> None:
    overrides = ({"pattern": "visual.blocks.[0-1].*", "bits": 8}, {"pattern": "visual.blocks.1.fc?", "bits": 2})
    spec = QuantSpec.model_validate({"method": "rtn", "weight_bits": 4, "overrides": overrides})
    assert parse(spec.name) == spec
    _, report = quantize(toy(), spec)
    bits = {record.name: record.bits for record in report.towers["vision"].layers}
    assert bits["visual.blocks.0.fc1"] == 8
    assert bits["visual.blocks.1.qkv"] == 8
    assert bits["visual.blocks.1.fc1"] == 2
    assert bits["visual.proj"] == 4


def test_activation_quantization_alone() -> None:
    _, report = quantize(toy(), parse("rtn-a8-vision"))
    assert report.towers["vision"].bits_per_weight == 32
    assert report.towers["vision"].weight_sqnr_db is None


def test_exact_float_says_so() -> None:
    _, report = quantize(toy(), parse("rtn-w8a8-vision"), exact_float=True)
    assert report.engine == "float-simulated"


@pytest.mark.parametrize("wanted", ["rtn-w4a8", "smoothquant-w4a8", "gptq-w3-g16", "rotation-w8a8-channel-tensor"])
def test_towers_are_independent(wanted: str) -> None:
    model, data = toy(), calibration()
    pixels = torch.from_numpy(data.pixels)
    both, _ = quantize(model, parse(f"{wanted}-vision+text"), data)
    vision, _ = quantize(model, parse(f"{wanted}-vision"), data)
    text, _ = quantize(model, parse(f"{wanted}-text"), data)
    assert torch.equal(both.encode_image(pixels), vision.encode_image(pixels))
    assert torch.equal(both.encode_text(data.captions), text.encode_text(data.captions))
    assert torch.equal(text.encode_image(pixels), model.encode_image(pixels))
    assert torch.equal(vision.encode_text(data.captions), model.encode_text(data.captions))


class Bypassing(nn.Linear):
    """Its parent reads the weight and never calls it, as nn.MultiheadAttention does with its output projection."""


def test_a_layer_that_is_never_called_fails_the_report() -> None:
    model = toy()
    inner = model.image_encoder

    def encoder(module: nn.Module, pixels: Tensor) -> Tensor:
        return inner(module, pixels) @ module.visual["extra"].weight.T

    model.module.visual["extra"] = Bypassing(32, 32)
    bypassing = replace(model, image_encoder=encoder)
    with pytest.raises(QuantizationError, match=r"never calls visual\.extra"):
        quantize(bypassing, parse("rtn-w4-vision"))


def test_nothing_replaced_is_an_error() -> None:
    with pytest.raises(QuantizationError, match="replaced no layer of the vision tower: skip pattern"):
        quantize(toy(), parse("rtn-w4-skip_%2A-vision"))


def test_nothing_changed_is_an_error() -> None:
    model = toy()
    with torch.no_grad():
        for layer in model.layers("vision").values():
            layer.weight.zero_()
            if layer.bias is not None:
                layer.bias.fill_(1)
        model.module.visual["proj"].weight.fill_(127 / 128)
    with pytest.raises(QuantizationError, match="changed nothing: the vision embeddings are bit-identical"):
        quantize(model, parse("rtn-w8-asym-vision"))


def test_weights_that_are_not_finite_name_their_tensor() -> None:
    model = toy()
    with torch.no_grad():
        model.module.visual["blocks"][1].fc1.weight[3, 4] = float("inf")
    with pytest.raises(NonFiniteError, match=r"visual\.blocks\.1\.fc1\.weight.* 1 NaN or infinite"):
        quantize(model, parse("rtn-w8-vision"))
    quantize(model, parse("rtn-w8-text"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rtn-vision", "needs weight_bits, activation_bits or both"),
        ("rtn-w4-alpha_0.5-vision", "rtn does not take options; it takes activation_bits"),
        ("gptq-a8-vision", "gptq needs weight_bits"),
        ("bnb-nf4-w4-vision", "bnb-nf4 does not take weight_bits; it takes options, scope, skip"),
        ("hqq-w4-asym-vision", "hqq does not take symmetric"),
        ("fp8-w4-vision", "fp8 has 8 bits, so weight_bits must be 8"),
        ("smoothquant-w8a8-alpha_2-vision", "option alpha: .*less than or equal to 1.*got 2"),
        ("smoothquant-w8a8-alpa_0.5-vision", "unknown option 'alpa'. Did you mean 'alpha'"),
        ("torchao-int8wo-w8-vision", "torchao-int8wo does not take weight_bits"),
    ],
)
def test_bad_requests_are_refused_without_a_model(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(name)


def test_unknown_methods_are_suggested() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'gptq'"):
        parse("gtpq-w4-vision")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gptq-w4-vision", "the method gptq."),
        ("awq-w4-vision", "the method awq."),
        ("smoothquant-w8a8-vision", "the method smoothquant."),
        ("rtn-w8a8-channel-tensor-vision", "a static activation range."),
        ("rotation-w4-rounding_gptq-vision", "the method rotation with these options."),
    ],
)
def test_missing_calibration_names_the_method_or_the_static_range(name: str, why: str) -> None:
    spec = parse(name)
    assert requires_calibration(spec)
    with pytest.raises(QuantizationError, match=re.escape(f"needs calibration data for {why}")):
        quantize(toy(), spec)


def test_group_sizes_that_do_not_divide_name_layer_and_alternatives() -> None:
    with pytest.raises(
        QuantizationError, match=r"group_size 48 .* 64 input features of 'visual\.blocks\.0\.qkv'.*32, 64"
    ):
        quantize(toy(), parse("rtn-w4-g48-vision"))


def test_a_convolution_without_fitting_groups_goes_per_channel() -> None:
    model = toy()
    model.module.visual["conv"] = nn.Conv2d(3, 64, 7, 8, padding=3)
    _, report = quantize(model, parse("rtn-w4-g16-vision"))
    grain = {record.name: record.granularity for record in report.towers["vision"].layers}
    assert grain["visual.conv"] == "channel"
    assert grain["visual.proj"] == "group 16"


@pytest.mark.parametrize("token", ["skip_visual.block.%2A", "bits_visual.block.%2A_8"])
def test_patterns_that_match_nothing_are_errors(token: str) -> None:
    with pytest.raises(QuantizationError, match=r"pattern 'visual\.block\.\*' matches no Linear.*visual\.blocks"):
        quantize(toy(), parse(f"rtn-w4-{token}-vision"))


def test_patterns_of_a_tower_that_is_left_alone_are_errors() -> None:
    name = "rtn-w4-bits_visual.blocks.%2A_8"
    with pytest.raises(QuantizationError, match=r"'visual\.blocks\.\*' matches no Linear .* of the text tower of toy"):
        check_model(toy(), [parse(f"{name}-text")])
    check_model(toy(), [parse(f"{name}-vision+text"), parse(f"{name}-vision")])
    quantize(toy(), parse(f"{name}-vision+text").for_tower("text"))  # one tower of a valid whole


def test_a_model_is_checked_against_all_quantizations_before_any_work() -> None:
    with pytest.raises(QuantizationError, match="group_size 48"):
        check_model(toy(), [FP32, parse("rtn-w4-vision"), parse("rtn-w4-g48-vision")])
    broken = toy().clone()
    with torch.no_grad():
        broken.layers("text")["text.proj"].weight[0, 0] = float("nan")
    check_model(broken, [parse("rtn-w4-vision")])
    with pytest.raises(NonFiniteError, match=r"'text\.proj\.weight' has 1 NaN"):
        check_model(broken, [parse("rtn-w4-vision"), parse("rtn-w4-text")])


def test_a_device_that_a_method_does_not_know_is_refused() -> None:
    with pytest.raises(QuantizationError, match="rtn does not run on mps; it runs on cpu, cuda"):
        quantizers.get("rtn").check_available("mps")


def test_shared_layers_are_replaced_under_all_their_names() -> None:
    model = toy()
    model.module.visual["again"] = model.module.visual["proj"]
    quantized, _ = quantize(model, parse("rtn-w4-vision"))
    assert quantized.module.visual["again"] is quantized.module.visual["proj"]
