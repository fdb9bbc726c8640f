"""Statistics of calibration data: masks, histograms, second moments, memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.errors import NonFiniteError, QuantizationError
from benchmark.progress import Silent
from benchmark.quantization import calibrate
from benchmark.quantization.calibrate import (
    ChannelMagnitude,
    Histogram,
    Range,
    SecondMoment,
    Source,
    forget,
    in_parts,
    masked_rows,
    observe,
)
from benchmark.quantization.mse import best_scale
from benchmark.quantization.percentile import histogram_range
from tests.quant_models import calibration, toy


@pytest.fixture(autouse=True)
def _fresh() -> None:
    forget()


def test_a_histogram_counts_the_same_whatever_the_order_of_batches() -> None:
    batches = [torch.randn(500, generator=torch.Generator().manual_seed(k)) * 10.0 ** (k % 3) for k in range(6)]
    seen = Histogram(256)
    for batch in batches:
        seen.update(batch)
    values = torch.cat(batches)
    assert seen.counts.sum() == len(values)
    assert (seen.low, seen.high) == (float(values.min()), float(values.max()))
    expected = torch.histc(values, 256, -seen.limit, seen.limit).double()
    # values on a bin's edge may fall to either side
    assert (expected - seen.counts).abs().sum() <= 4
    assert seen.limit >= values.abs().max()


def test_a_histogram_of_zeros_stays_empty() -> None:
    seen = Histogram(16)
    seen.update(torch.zeros(10))
    seen.update(torch.tensor([0.0, 1.0]))
    assert seen.limit == 1.0


@pytest.mark.parametrize("percentile", [99.0, 99.9, 100.0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_histogram_percentiles_are_those_of_the_values(percentile: float, symmetric: bool) -> None:
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0)) + 0.5
    seen = Histogram()
    seen.update(values)
    low, high = histogram_range(seen, percentile, symmetric)
    array = values.numpy()
    if symmetric:
        assert high == pytest.approx(float(np.percentile(np.abs(array), percentile)), abs=0.02)
        assert low == -high
    else:
        assert high == pytest.approx(float(np.percentile(array, percentile)), abs=0.02)
        assert low == pytest.approx(float(np.percentile(array, 100 - percentile)), abs=0.02)


def test_the_best_scale_of_a_histogram_is_that_of_the_values() -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).pow(3)
    seen = Histogram()
    seen.update(values)
    from_bins, _, _ = best_scale(seen.centres().float(), 4, True, seen.counts)
    from_values, _, _ = best_scale(values, 4, True)
    assert from_bins.item() == pytest.approx(from_values.item(), rel=0.1)


def test_a_second_moment_is_the_mean_outer_product() -> None:
    layer = nn.Linear(12, 3)
    seen = SecondMoment(layer)
    batches = [torch.randn(n, 12) for n in (5, 30, 1)]
    for batch in batches:
        seen.update(batch)
    rows = torch.cat(batches)
    torch.testing.assert_close(seen.matrix, rows.T @ rows / len(rows))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 4, 4),
        nn.Conv2d(3, 5, 3, stride=2, padding=1),
        nn.Conv2d(3, 5, 3, padding="same", padding_mode="reflect", dilation=2),
    ],
)
def test_a_convolution_is_a_linear_on_its_patches(layer: nn.Conv2d) -> None:
    x = torch.randn(2, 3, 12, 12)
    patches = calibrate.unfolder(layer)(x)
    output = patches @ layer.weight.flatten(1).T + layer.bias
    expected = layer(x).permute(0, 2, 3, 1).reshape(-1, 5)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_padding_positions_are_left_out() -> None:
    x = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    expected = torch.stack([x[0, 0], x[0, 1], x[1, 0]])
    assert torch.equal(masked_rows(x, mask), expected)
    assert torch.equal(masked_rows(x.transpose(0, 1), mask), expected)
    longer = torch.cat([x, torch.full((2, 1, 4), 9.0)], 1)  # a class token at the end counts
    assert len(masked_rows(longer, mask)) == 5
    assert torch.equal(masked_rows(x[:, 0], mask), x[:, 0])
    assert masked_rows(x, None).shape == (6, 4)


def test_text_statistics_do_not_see_padding() -> None:
    model, data = toy(), calibration(6)
    tokens = model.tokenizer(list(data.captions))
    layer = "text.blocks.0.qkv"
    found = observe(Source(model, "text", data), {layer: [ChannelMagnitude()]}, Silent(), "t")[layer]["magnitude"]
    with torch.inference_mode():
        inputs = model.module.text["blocks"][0].ln_1(model.module.text["embedding"](tokens))
    real = inputs[tokens != ord("~")].abs()
    assert isinstance(found, ChannelMagnitude)
    torch.testing.assert_close(found.mean, real.mean(0))
    assert torch.equal(found.largest, real.amax(0))
    assert not torch.equal(found.largest, inputs.abs().flatten(0, 1).amax(0))


def test_statistics_are_kept_by_content() -> None:
    model, data = toy(), calibration(6)
    layer = "visual.proj"

    def range_of(source: Source) -> Range:
        found = observe(source, {layer: [Range()]}, Silent(), "t")[layer]["range"]
        assert isinstance(found, Range)
        return found

    first = range_of(Source(model, "vision", data))
    assert range_of(Source(model, "vision", data)) is first
    assert range_of(Source(model, "vision", data, "rotated")) is not first
    assert range_of(Source(model, "vision", replace(data, digest="other"))) is not first
    assert range_of(Source(replace(model, digest="other"), "vision", data)) is not first


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = toy(), calibration(6)
    layers = {n: m for n, m in model.layers("vision").items() if isinstance(m, nn.Linear)}
    one_pass = {n: (SecondMoment(m),) for n, m in layers.items()}
    whole = {n: s[SecondMoment.kind].matrix for p in _parts(model, data, one_pass) for n, s in p.items()}
    forget()
    monkeypatch.setattr(calibrate, "STATISTICS_BYTES", 40_000)
    parts = list(_parts(model, data, {n: (SecondMoment(m),) for n, m in layers.items()}))
    assert len(parts) > 1
    for part in parts:
        assert len(part) == 1 or sum(s[SecondMoment.kind].nbytes for s in part.values()) <= 40_000
        for name, seen in part.items():
            assert torch.equal(seen[SecondMoment.kind].matrix, whole[name])
    assert sum(o.nbytes for o in calibrate._kept.values()) <= 40_000


def _parts(model: object, data: object, wanted: object) -> object:
    return in_parts(Source(model, "vision", data), dict(wanted), Silent(), "t")


def test_activations_that_are_not_finite_name_their_layer() -> None:
    model = toy()
    with torch.no_grad():
        model.module.visual["blocks"][1].ln_2.bias[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"visual\.blocks\.1\.fc1"):
        observe(Source(model, "vision", calibration(4)), {"visual.blocks.1.fc1": [Range()]}, Silent(), "t")


def test_a_layer_that_is_never_called_is_an_error() -> None:
    with pytest.raises(QuantizationError, match=r"never calls text\.proj"):
        observe(Source(toy(), "vision", calibration(4)), {"text.proj": [Range()]}, Silent(), "t")
