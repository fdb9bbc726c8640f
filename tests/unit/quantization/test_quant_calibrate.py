"""Statistics of calibration data: masks, histograms, second moments, memory."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.errors import NonFiniteError, QuantizationError
from benchmark.ledger.store import Store
from benchmark.models.base import ClipModel
from benchmark.quantization import calibrate, parse, quantize
from benchmark.quantization.calibrate import Source, in_parts, masked_rows, observe
from benchmark.quantization.mse import best_scale
from benchmark.quantization.observers import (
    ChannelMagnitude,
    Histogram,
    Observer,
    Range,
    SecondMoment,
    Seen,
    unfolder,
)
from benchmark.quantization.percentile import histogram_range
from benchmark.utils.progress import Silent
from tests.quant_models import calibration, toy


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


@pytest.mark.parametrize("columns", [1, 3, 12, 13])
def test_a_second_moment_is_the_mean_outer_product(columns: int) -> None:
    layer = nn.Linear(columns, 3)
    seen = SecondMoment(layer)
    batches = [torch.randn(n, columns) for n in (5, 30, 1)]
    for batch in batches:
        seen.update(batch)
    rows = torch.cat(batches)
    torch.testing.assert_close(seen.matrix, rows.T @ rows / len(rows))
    assert torch.equal(seen.matrix, seen.matrix.T)


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
    patches = unfolder(layer)(x)
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
    found = observe(Source(model, "text", data), {layer: [ChannelMagnitude()]}, Silent(), "t")[layer].get(
        ChannelMagnitude
    )
    with torch.inference_mode():
        inputs = model.module.text["blocks"][0].ln_1(model.module.text["embedding"](tokens))
    real = inputs[tokens != ord("~")].abs()
    torch.testing.assert_close(found.mean, real.mean(0))
    assert torch.equal(found.largest, real.amax(0))
    assert not torch.equal(found.largest, inputs.abs().flatten(0, 1).amax(0))


class Counted:
    """A model whose images through the vision tower are counted."""

    def __init__(self) -> None:
        self.images, plain = 0, toy()

        def encode(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
            self.images += len(pixels)
            return plain.image_encoder(module, pixels)

        self.model = replace(plain, image_encoder=encode)


LAYER = "visual.blocks.0.fc1"


def observers(model: ClipModel) -> list[Observer]:
    """One of each kind."""
    return [Range(), ChannelMagnitude(), Histogram(), SecondMoment(model.layers("vision")[LAYER])]  # type: ignore[arg-type]


def collected(store: Store | None, counted: Counted | None = None, **changes: Any) -> tuple[Seen, int]:
    """Statistics of a layer, and the images that went through the tower for them."""
    counted = counted or Counted()
    source = Source(counted.model, "vision", calibration(6), store=store)
    wanted = {LAYER: observers(counted.model)}
    return observe(replace(source, **changes), wanted, Silent(), "t")[LAYER], counted.images


def test_another_process_finds_every_statistic_as_it_was(tmp_path: Path) -> None:
    """A store of its own is all that processes share."""
    first, images = collected(Store(tmp_path))
    again, more = collected(Store(tmp_path))
    assert images == 6
    assert more == 0
    for kind in (Range, ChannelMagnitude, Histogram, SecondMoment):
        old, new = (seen.get(kind).state() for seen in (first, again))
        assert old.keys() == new.keys()
        for name, value in old.items():
            np.testing.assert_array_equal(new[name], value)
            assert new[name].dtype == value.dtype


def test_a_restored_statistic_goes_on_counting(tmp_path: Path) -> None:
    """What is read from disk is no view of the file."""
    collected(Store(tmp_path))
    again, _ = collected(Store(tmp_path))
    rows = torch.randn(9, 64)
    for kind in (Range, ChannelMagnitude, Histogram, SecondMoment):
        again.get(kind).update(rows)
    assert collected(Store(tmp_path))[1] == 0


@pytest.mark.parametrize("changed", ["stage", "calibration", "model"])
def test_whatever_determines_a_statistic_is_in_its_key(tmp_path: Path, changed: str) -> None:
    store, counted = Store(tmp_path), Counted()
    other: dict[str, Any] = {
        "stage": "rotated",
        "calibration": replace(calibration(6), digest="other"),
        "model": replace(counted.model, digest="other"),
    }
    collected(store, counted)
    for _ in range(2):  # collected once more, and kept
        assert collected(store, counted, **{changed: other[changed]})[1] == 12


def test_keys_tell_towers_layers_kinds_and_versions_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(toy(), "vision", calibration(4))
    keys = {source.key("a", Range()), source.key("b", Range()), replace(source, tower="text").key("a", Range())}
    keys |= {source.key("a", Histogram()), source.key("a", Histogram(64))}
    monkeypatch.setattr(Range, "version", 2)
    assert len(keys | {source.key("a", Range())}) == 6


def test_a_flipped_bit_is_found_and_the_statistic_computed_again(tmp_path: Path) -> None:
    first, _ = collected(Store(tmp_path))
    file = next(tmp_path.glob("*/*/upper.bin"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    store = Store(tmp_path)
    again, images = collected(store)
    assert images == 6
    assert len(store.damaged) == 1
    assert torch.equal(again.get(SecondMoment).matrix, first.get(SecondMoment).matrix)
    assert collected(Store(tmp_path))[1] == 0


def test_the_least_recently_used_statistics_go(tmp_path: Path) -> None:
    store = Store(tmp_path, budget=120_000)
    for stage in "abcdef":
        collected(store, stage=stage)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.bin")) <= 120_000
    assert collected(store, stage="f")[1] < collected(store, stage="a")[1] == 6


@pytest.mark.parametrize(
    "name", ["gptq-w3-channel-vision", "awq-w4a8-channel-tensor-vision", "smoothquant-w8a8-vision"]
)
def test_a_second_quantization_looks_at_no_calibration_data(tmp_path: Path, name: str) -> None:
    """Only probes remain: the report's, and those that find what feeds a layer; the codes are the same."""
    spec, data = parse(name), calibration(40)
    found = []
    for _ in range(2):
        counted = Counted()
        model, report = quantize(counted.model, spec, data, statistics=Store(tmp_path))
        found.append((report.to_json(), model.encode_image(torch.from_numpy(data.pixels[:4].copy())), counted.images))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2] >= found[1][2] + 40


def test_a_statistic_that_nobody_asked_for_is_an_error() -> None:
    with pytest.raises(LookupError, match="no SecondMoment"):
        Seen([Range()]).get(SecondMoment)
    assert Seen().find(Range) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = toy(), calibration(6)
    layers = {n: m for n, m in model.layers("vision").items() if isinstance(m, nn.Linear)}
    one_pass = {n: (SecondMoment(m),) for n, m in layers.items()}
    whole = {n: s.get(SecondMoment).matrix for p in _parts(model, data, one_pass) for n, s in p.items()}
    monkeypatch.setattr(calibrate, "STATISTICS_BYTES", 40_000)
    parts = list(_parts(model, data, {n: (SecondMoment(m),) for n, m in layers.items()}))
    assert len(parts) > 1
    for part in parts:
        assert len(part) == 1 or sum(s.get(SecondMoment).nbytes for s in part.values()) <= 40_000
        for name, seen in part.items():
            assert torch.equal(seen.get(SecondMoment).matrix, whole[name])


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


def test_two_at_once_compute_the_same_statistics_once(tmp_path: Path) -> None:
    """The second waits for the first and finds its statistics."""
    gate, first, second = threading.Barrier(2), Counted(), Counted()

    def work(counted: Counted) -> None:
        gate.wait()
        collected(Store(tmp_path), counted)

    threads = [threading.Thread(target=work, args=(counted,)) for counted in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted([first.images, second.images]) == [0, 6]
