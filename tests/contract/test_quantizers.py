"""What every registered quantizer must keep, a stranger's included: the suite is parametrised over the registry."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch

from benchmark.errors import ReliquantError, SpecError
from benchmark.models.base import ClipModel
from benchmark.quantization import QuantizationReport, Quantizer, parse, quantize, quantizers
from benchmark.spec import FP32, QuantSpec
from tests.quant_models import calibration, toy, with_outliers

METHODS = [name for name, method in quantizers if method.kind == "quantization" and name != "fp32"]


def spec_of(name: str, scope: str = "vision", **more: Any) -> QuantSpec:
    """The richest simple request that a method takes: 8-bit weights, 8-bit activations."""
    method = quantizers.get(name)
    fields: dict[str, Any] = {"method": name, "scope": scope}
    if "weight_bits" in method.fields:
        fields["weight_bits"] = 8
    if "activation_bits" in method.fields:
        fields["activation_bits"] = 8
    return QuantSpec.model_validate(fields | more)


@cache
def model() -> ClipModel:
    return with_outliers(toy())


@cache
def quantized(name: str, scope: str) -> tuple[ClipModel, QuantizationReport]:
    method = quantizers.get(name)
    try:
        method.check_available("cpu")
    except ReliquantError as error:
        pytest.skip(str(error))
    return quantize(model(), spec_of(name, scope), calibration())


def images(m: ClipModel) -> torch.Tensor:
    return m.encode_image(torch.from_numpy(calibration(16, seed=1).pixels))


def texts(m: ClipModel) -> torch.Tensor:
    return m.encode_text(calibration(16, seed=1).captions)


@pytest.mark.parametrize("name", quantizers.names())
def test_declaration_is_complete(name: str) -> None:
    method = quantizers.get(name)
    assert isinstance(method, Quantizer)
    assert method.name == name
    assert method.version >= 1
    assert method.title
    assert method.paper
    assert method.fields <= set(QuantSpec.model_fields) - {"method"}
    assert method.required <= method.fields
    assert set(method.runs_on) <= {"cpu", "cuda"}
    assert json.loads(json.dumps(method.describe()))["name"] == name
    assert all(key.isalnum() and key.islower() for key in method.options.model_fields)
    if method.options.model_fields:
        assert "options" in method.fields


@pytest.mark.parametrize("name", METHODS)
def test_short_names_parse_back(name: str) -> None:
    spec = spec_of(name, "vision+text")
    assert parse(spec.name) == spec


@pytest.mark.parametrize("name", METHODS)
def test_it_changes_features_a_little(name: str) -> None:
    changed, _ = quantized(name, "vision+text")
    for encode in (images, texts):
        before, after = encode(model()), encode(changed)
        assert not torch.equal(before, after)
        assert after.isfinite().all()
        assert (before * after).sum(1).min() > 0.9


@pytest.mark.parametrize("name", METHODS)
def test_report_is_consistent_with_the_model(name: str) -> None:
    changed, report = quantized(name, "vision+text")
    method = quantizers.get(name)
    assert report.kernel == method.kernel
    assert report.version == method.version
    assert set(report.towers) == {"vision", "text"}
    for tower, part in report.towers.items():
        layers = model().layers(tower)
        done = {record.name for record in part.layers}
        assert done | set(part.skipped) == set(layers)
        assert not done & set(part.skipped)
        for record in part.layers:
            assert changed.module.get_submodule(record.name) is not layers[record.name]
            assert record.shape == tuple(layers[record.name].weight.shape)
            assert record.relative_error > 0
            assert record.packed_bits >= record.bits * layers[record.name].weight.numel()
        for skipped in part.skipped:
            assert torch.equal(changed.module.get_submodule(skipped).weight, layers[skipped].weight)
        linear = {n: m for n, m in layers.items() if isinstance(m, torch.nn.Linear)}
        assert set(linear) <= done, "every Linear is covered"
        assert part.weight_share > (0.99 if torch.nn.Conv2d in method.layer_types else 0.8)
        assert 2 < part.bits_per_weight < 12
        assert part.packed_bytes < part.float_bytes
        assert sum(part.engines.values()) == len(part.layers)
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("name", METHODS)
def test_it_is_deterministic(name: str) -> None:
    first, first_report = quantized(name, "vision+text")
    again, report = quantize(model(), spec_of(name, "vision+text"), calibration())
    assert torch.equal(images(again), images(first))
    assert torch.equal(texts(again), texts(first))
    assert report == first_report


@pytest.mark.parametrize("name", METHODS)
def test_towers_are_independent(name: str) -> None:
    both, _ = quantized(name, "vision+text")
    vision, _ = quantized(name, "vision")
    text, _ = quantized(name, "text")
    assert torch.equal(images(both), images(vision))
    assert torch.equal(texts(both), texts(text))
    assert torch.equal(images(text), images(model()))
    assert torch.equal(texts(vision), texts(model()))


@pytest.mark.parametrize("name", METHODS)
def test_features_hardly_depend_on_the_batch(name: str) -> None:
    """Exact up to flips of a rounding: a token's codes come from the token alone."""
    if name == "bnb-int8":
        spec = QuantSpec.model_validate({"method": name, "options": {"threshold": 0.0}})  # outliers are per batch
        changed, _ = quantize(model(), spec, calibration())
    else:
        changed, _ = quantized(name, "vision")
    pixels = torch.from_numpy(calibration(16, seed=1).pixels)
    whole = changed.encode_image(pixels)
    alone = torch.cat([changed.encode_image(pixels[i : i + 1]) for i in range(len(pixels))])
    assert (whole - alone).norm() / whole.norm() < 2e-2
    assert (whole * alone).sum(1).min() > 0.9995


@pytest.mark.parametrize("name", METHODS)
def test_fields_that_it_does_not_take_are_refused_before_work(name: str) -> None:
    method = quantizers.get(name)
    wrong = {
        "weight_bits": {"weight_bits": 8},
        "activation_bits": {"activation_bits": 8},
        "symmetric": {"symmetric": False, "weight_bits": 8},
        "options": {"options": {"nosuchoption": 1}},
    }
    for field, values in wrong.items():
        spec = QuantSpec.model_validate({"method": name, **values})
        if field not in method.fields or field == "options":
            with pytest.raises(SpecError, match=name):
                method.check(spec)


@pytest.mark.parametrize("name", METHODS)
def test_skipping_everything_is_an_error(name: str) -> None:
    quantized(name, "vision")
    with pytest.raises(ReliquantError, match="replaced no layer"):
        quantize(model(), spec_of(name, skip=("*",)), calibration())


@pytest.mark.parametrize("name", METHODS)
def test_skipped_layers_stay_and_are_named(name: str) -> None:
    quantized(name, "vision")
    changed, report = quantize(model(), spec_of(name, skip=("visual.blocks.0.*",)), calibration())
    kept = [layer for layer in model().layers("vision") if layer.startswith("visual.blocks.0.")]
    assert set(kept) <= set(report.towers["vision"].skipped)
    for layer in kept:
        assert type(changed.module.get_submodule(layer)) is torch.nn.Linear


def test_full_precision_takes_nothing() -> None:
    same, report = quantize(model(), FP32)
    assert same is model()
    assert report.towers == {}
