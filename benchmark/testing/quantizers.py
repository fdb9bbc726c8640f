"""The contract of a quantizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import pytest
import torch

from benchmark.errors import ReliquantError, SpecError
from benchmark.models.base import ClipModel
from benchmark.quantization import QuantizationReport, Quantizer, TowerReport, parse, quantize, quantizers
from benchmark.spec import QuantSpec
from benchmark.spec.scalars import Scalar
from benchmark.testing.models import make_calibration, toy_model, with_outliers
from benchmark.testing.registering import register

BOTH = "vision+text"


@cache
def outlier_model() -> ClipModel:
    """The model that is quantized: some channels are 30 times louder than the others."""
    return with_outliers(toy_model())


@cache
def quantized(spec: QuantSpec) -> tuple[ClipModel, QuantizationReport]:
    """The model under a quantization, made once."""
    return quantize(outlier_model(), spec, make_calibration())


def pixels() -> torch.Tensor:
    """Sixteen images that are not among the calibration data."""
    return torch.from_numpy(make_calibration(16, seed=1).pixels)


def images(model: ClipModel) -> torch.Tensor:
    """Features of the images."""
    return model.encode_image(pixels())


def texts(model: ClipModel) -> torch.Tensor:
    """Features of sixteen captions."""
    return model.encode_text(make_calibration(16, seed=1).captions)


class QuantizerContract:
    """What every quantizer must satisfy, on a small two-tower model. Set `quantizer`.

    Attributes:
        quantizer: the object under test.
        fields: fields of the QuantSpec that is tried; by default 8-bit weights and activations, where it takes bits.
        least_cosine: features of the quantized model are at least that close to those of full precision.
        batch_options: options with which one image's features do not depend on the others of its batch.
    """

    quantizer: ClassVar[Quantizer]
    fields: ClassVar[Mapping[str, Any]] = {}
    least_cosine: ClassVar[float] = 0.9
    batch_options: ClassVar[Mapping[str, Scalar]] = {}

    @pytest.fixture(autouse=True)
    def _registered(self) -> None:
        register(quantizers, self.quantizer)

    def spec(self, scope: str = "vision", **more: Any) -> QuantSpec:
        """The quantization that is tried, with other fields where given."""
        takes: dict[str, Any] = {
            name: 8 for name in ("weight_bits", "activation_bits") if name in self.quantizer.fields
        }
        fields: dict[str, Any] = {"method": self.quantizer.name, **takes, **self.fields, "scope": scope, **more}
        return QuantSpec.model_validate(fields)

    def quantized(self, scope: str = "vision", **more: Any) -> tuple[ClipModel, QuantizationReport]:
        """The quantized model with its report; the test is skipped where the method cannot run on this machine."""
        try:
            self.quantizer.check_available("cpu")
        except ReliquantError as error:
            pytest.skip(str(error))
        return quantized(self.spec(scope, **more))

    def test_declaration_is_complete(self) -> None:
        """What `reliquant list quantizers` and the search rely on."""
        method = self.quantizer
        assert method.version >= 1
        assert method.title
        assert method.paper
        assert method.fields <= set(QuantSpec.model_fields) - {"method"}
        assert method.required <= method.fields
        assert set(method.runs_on) <= {"cpu", "cuda"}
        assert json.loads(json.dumps(method.describe()))["name"] == method.name
        assert all(key.isalnum() and key.islower() for key in method.options.model_fields)
        if method.options.model_fields:
            assert "options" in method.fields

    def test_short_names_parse_back(self) -> None:
        """A quantization is named in tables, files and runs by its short name alone."""
        assert parse(self.spec(BOTH).name) == self.spec(BOTH)

    def test_it_changes_features_a_little(self) -> None:
        """Something happened, and the model still works."""
        changed, _ = self.quantized(BOTH)
        for encode in (images, texts):
            before, after = encode(outlier_model()), encode(changed)
            assert not torch.equal(before, after)
            assert after.isfinite().all()
            assert (before * after).sum(1).min() > self.least_cosine

    def test_report_is_consistent_with_the_model(self) -> None:
        """Each layer is either replaced and described, or skipped and left alone."""
        changed, report = self.quantized(BOTH)
        assert report.kernel == self.quantizer.kernel
        assert report.version == self.quantizer.version
        assert set(report.towers) == {"vision", "text"}
        for tower, part in report.towers.items():
            layers = outlier_model().layers(tower)
            check_layers(layers, changed, part)
            check_totals(layers, part)
            assert part.weight_share > (0.99 if torch.nn.Conv2d in self.quantizer.layer_types else 0.8)
        json.dumps(report.to_json(), allow_nan=False)

    def test_it_is_deterministic(self) -> None:
        """Quantizing again gives the same model and the same report."""
        first, first_report = self.quantized(BOTH)
        again, report = quantize(outlier_model(), self.spec(BOTH), make_calibration())
        assert torch.equal(images(again), images(first))
        assert torch.equal(texts(again), texts(first))
        assert report == first_report

    def test_towers_are_independent(self) -> None:
        """Quantizing both towers does to each what quantizing it alone does: their features are cached apart."""
        (both, _), (vision, _), (text, _) = (self.quantized(scope) for scope in (BOTH, "vision", "text"))
        assert torch.equal(images(both), images(vision))
        assert torch.equal(texts(both), texts(text))
        assert torch.equal(images(text), images(outlier_model()))
        assert torch.equal(texts(vision), texts(outlier_model()))

    def test_features_hardly_depend_on_the_batch(self) -> None:
        """Exact up to flips of a rounding: a token's codes come from the token alone."""
        more: dict[str, Any] = {"options": dict(self.batch_options)} if self.batch_options else {}
        changed, _ = self.quantized("vision", **more)
        whole = images(changed)
        alone = torch.cat([changed.encode_image(pixels()[i : i + 1]) for i in range(len(pixels()))])
        assert (whole - alone).norm() / whole.norm() < 2e-2
        assert (whole * alone).sum(1).min() > 0.9995

    def test_asymmetric_activations_do_not_depend_on_the_batch(self) -> None:
        """A batch of one image included: the last batch of a data set may be one."""
        if "activation_symmetric" not in self.quantizer.fields:
            pytest.skip("it takes no asymmetric activations")
        changed, _ = self.quantized("vision", activation_symmetric=False)
        whole, alone = images(changed), torch.cat([changed.encode_image(one[None]) for one in pixels()])
        assert (whole * alone).sum(1).min() > 0.9995

    def test_fields_that_it_does_not_take_are_refused_before_work(self) -> None:
        """A field that would be ignored is an error, and so is an unknown option."""
        wrong: dict[str, dict[str, Any]] = {
            "weight_bits": {"weight_bits": 8},
            "activation_bits": {"activation_bits": 8},
            "symmetric": {"symmetric": False, "weight_bits": 8},
            "options": {"options": {"nosuchoption": 1}},
        }
        for field, values in wrong.items():
            spec = QuantSpec.model_validate({"method": self.quantizer.name, **values})
            if field not in self.quantizer.fields or field == "options":
                with pytest.raises(SpecError, match=self.quantizer.name):
                    self.quantizer.check(spec)

    def test_skipping_everything_is_an_error(self) -> None:
        """A quantization that changed nothing would be compared as if it had."""
        self.quantized()
        with pytest.raises(ReliquantError, match="replaced no layer"):
            quantize(outlier_model(), self.spec(skip=("*",)), make_calibration())

    def test_skipped_layers_stay_and_are_named(self) -> None:
        """`skip_PATTERN` leaves layers in full precision, and the report says so."""
        changed, report = self.quantized(skip=("visual.blocks.0.*",))
        kept = [layer for layer in outlier_model().layers("vision") if layer.startswith("visual.blocks.0.")]
        assert set(kept) <= set(report.towers["vision"].skipped)
        for layer in kept:
            assert type(changed.module.get_submodule(layer)) is torch.nn.Linear


def check_layers(layers: Mapping[str, torch.nn.Module], changed: ClipModel, part: TowerReport) -> None:
    """Layer by layer: replaced ones are other modules with an error, skipped ones have the same weights."""
    done = {record.name for record in part.layers}
    assert done | set(part.skipped) == set(layers)
    assert not done & set(part.skipped)
    for record in part.layers:
        weight = layers[record.name].get_parameter("weight")
        assert changed.module.get_submodule(record.name) is not layers[record.name]
        assert record.shape == tuple(weight.shape)
        assert record.relative_error > 0
        assert record.packed_bits >= record.bits * weight.numel()
    for skipped in part.skipped:
        kept = changed.module.get_submodule(skipped).get_parameter("weight")
        assert torch.equal(kept, layers[skipped].get_parameter("weight"))


def check_totals(layers: Mapping[str, torch.nn.Module], part: TowerReport) -> None:
    """Every Linear is covered, and the sums are those of the layers."""
    done = {record.name for record in part.layers}
    assert {name for name, layer in layers.items() if isinstance(layer, torch.nn.Linear)} <= done
    assert part.bits_per_weight is not None
    assert 2 < part.bits_per_weight < 17
    assert part.packed_bytes is not None
    assert part.packed_bytes < part.float_bytes
    assert sum(part.engines.values()) == len(part.layers)
