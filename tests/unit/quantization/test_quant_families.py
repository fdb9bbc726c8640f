"""Coverage on every model family: at least 99 % of the weights of Linear and Conv2d layers, all towers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.quantization import parse, quantize
from tests.models_zoo import FAMILIES, write_checkpoint
from tests.quant_models import calibration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized-families")


@cache
def load(family: str, folder: Path) -> ClipModel:
    return resolve(write_checkpoint(family, folder / family)).load()


@pytest.mark.parametrize(
    "name",
    [
        "rtn-w8a8",
        "percentile-w8a8-channel-tensor-actasym",
        "mse-w6a8-asym",
        "smoothquant-w8a8-channel-tensor",
        "gptq-w4",
        "rotation-w6a8",
        "awq-w4a8",
        "hqq-w4",
        "fp8-w8a8",
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_and_convolution_weights_are_quantized(family: str, name: str, folder: Path) -> None:
    model = load(family, folder)
    spec = parse(f"{name}-vision+text")
    _, report = quantize(model, spec, calibration(8, model.preprocess.size[0]))
    assert set(report.towers) == {"vision", "text"}
    assert not any("of the weights are quantized" in note for note in report.notes)
    for tower in report.towers.values():
        assert tower.weight_share >= 0.99
        assert tower.mac_share >= 0.99
        assert tower.skipped == {}
        assert tower.cosine > 0.9
        assert 4 < tower.bits_per_weight < 11  # these widths are small, so scales weigh


def test_weights_without_a_kernel_are_told(folder: Path) -> None:
    _, report = quantize(load("ConvNeXt", folder), parse("bnb-nf4-vision"))
    part = report.towers["vision"]
    count = len(part.skipped)
    assert part.weight_share < 0.99
    assert report.notes == (
        f"vision: {part.weight_share:.1%} of the weights are quantized, the others stay in full precision "
        f"({count} layers: bnb-nf4 does not quantize Conv2d)",
    )


@pytest.mark.parametrize("method", ["smoothquant", "awq", "rotation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_transformations_leave_penultimate_features_in_their_basis(method: str, family: str, folder: Path) -> None:
    """They are read between layers, where a scale folded into the last LayerNorm would show."""
    model = load(family, folder)
    if "penultimate" not in model.taps:
        pytest.skip("no penultimate features")
    data = calibration(8, model.preprocess.size[0])
    pixels = torch.from_numpy(data.pixels)

    def error(name: str) -> float:
        quantized, _ = quantize(model, parse(name), data)
        exact, found = (m.encode_image_with(pixels, ["penultimate"])["penultimate"] for m in (model, quantized))
        return float((found - exact).norm() / exact.norm())

    assert error(f"{method}-w8-vision") < 2 * error("rtn-w8-vision") + 1e-3
