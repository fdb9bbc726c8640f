"""The spectral study: noise put into one direction is found there and nowhere else; memory does not grow."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Iterator

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from benchmark.errors import UndefinedMetric
from benchmark.metrics.gain import PairAccumulator
from benchmark.metrics.spectrum import numerical_rank
from benchmark.spectrum.figures import draw
from benchmark.spectrum.layers import Features, Readout, Samples, layer_bases, spectra
from benchmark.spectrum.model import Entry, LayerSpectrum, Study, rank_correlations, study_json, study_metrics


def stream(features: np.ndarray, size: int = 7, layer: str = "image") -> Iterator[Features]:
    for start in range(0, len(features), size):
        yield {layer: features[start : start + size]}


def orthogonal(dimension: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dimension, dimension)))[0]


def features_with(scales: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features whose Gram matrix is exactly Q diag(scales^2 * count) Q^T, and Q."""
    columns = np.linalg.qr(np.random.default_rng(seed).standard_normal((count, len(scales))))[0]
    q = orthogonal(len(scales), seed)
    return (columns * scales * math.sqrt(count)) @ q.T, q


def samples(count: int, labels: np.ndarray | None = None) -> Samples:
    """Without classes unless they are given; each image in a group of its own, as far as they go."""
    return Samples(labels, np.arange(count) % 64)


def study_of(x: np.ndarray, q: np.ndarray, corrupted: np.ndarray | None = None) -> Study:
    """Full precision x, a quantization q, and full precision's features of corrupted images."""
    bases = layer_bases(stream(x))
    entries = [Entry("fp32", "clean", spectra(stream(x), bases, {}, samples(len(x))))]
    if corrupted is not None:
        entries.append(Entry("fp32", "blur/3", spectra(stream(corrupted), bases, {}, samples(len(x)), stream(x))))
    entries.append(Entry("rtn-w4-channel-vision", "clean", spectra(stream(q), bases, {}, samples(len(x)), stream(x))))
    return Study("m", "d", len(x), tuple(entries))


def test_noise_in_one_direction_is_found_there_and_nowhere_else() -> None:
    """Energies 16, 4, 1 a direction; noise of energy 1 along the second only: 10 log10(4 / 1) = 6.02 dB."""
    x, q = features_with(np.array([4.0, 2.0, 1.0]), 50)
    sign = np.where(np.arange(50) % 2, 1.0, -1.0)[:, None]
    found = study_of(x, x + sign * q[:, 1]).find("rtn-w4-channel-vision")["image"]
    assert found.signal is not None
    assert found.noise is not None
    assert np.allclose(found.signal, [16, 4, 1])
    assert np.allclose(found.noise, [0, 1, 0], atol=1e-12)
    assert found.sqnr_db is not None
    assert found.sqnr_db[1] == pytest.approx(10 * math.log10(4))
    assert found.band_sqnr_db()["0-8"] == pytest.approx(10 * math.log10(21))


def test_an_unchanged_model_has_no_noise_and_no_angle() -> None:
    x, _ = features_with(np.linspace(20, 1, 20), 60)
    found = study_of(x, x).find("rtn-w4-channel-vision")["image"]
    assert found.noise is not None
    assert found.sqnr_db is not None
    assert not found.noise.any()
    assert np.isnan(found.sqnr_db).all()
    assert found.band_sqnr_db() == {}
    assert found.angles[8].max() < 1e-4
    assert 64 not in found.angles  # there are only 20 directions


def test_a_swapped_direction_is_at_ninety_degrees() -> None:
    """The 8th strongest direction leaves the leading subspace and the 9th takes its place."""
    scales = np.r_[np.linspace(20, 13, 8), np.linspace(6, 1, 4)]
    x, _ = features_with(scales, 60)
    swapped = scales.copy()
    swapped[[7, 8]] = swapped[[8, 7]]
    angles = study_of(x, features_with(swapped, 60)[0]).find("rtn-w4-channel-vision")["image"].angles[8]
    assert angles[-1] == pytest.approx(90)
    assert angles[:-1].max() < 1e-4


def test_rank_deficient_features_have_the_rank_they_have() -> None:
    """5 of 12 directions carry energy; the others are rounding, and nothing is said about them."""
    scales = np.r_[np.linspace(5, 1, 5), np.zeros(7)]
    x, _ = features_with(scales, 40)
    noisy = x + 0.01 * np.random.default_rng(1).standard_normal(x.shape)
    exact = study_of(x.astype(np.float32), noisy.astype(np.float32)).find("rtn-w4-channel-vision")["image"]
    assert exact.rank == 5
    assert exact.sqnr_db is not None
    assert np.isfinite(exact.sqnr_db[:5]).all()
    assert np.isnan(exact.sqnr_db[5:]).all()
    assert numerical_rank(layer_bases(stream(x))["image"]) == 5
    full = study_of(x, noisy).find("fp32")["image"]
    assert full.energy.sum() == pytest.approx(1)
    share = scales[:5] / scales.sum()
    assert full.effective_rank == pytest.approx(math.exp(-np.sum(share * np.log(share))), rel=1e-4)


def test_fewer_images_than_dimensions() -> None:
    x = np.random.default_rng(0).standard_normal((10, 30))
    found = study_of(x, x + 0.1).find("rtn-w4-channel-vision")["image"]
    assert found.rank == 10
    assert found.sqnr_db is not None
    assert np.isfinite(found.sqnr_db).sum() == 10


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 50), st.integers(3, 20))
def test_the_stream_agrees_with_the_functions_on_arrays_for_every_batch_size(seed: int, size: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, dim))
    q = x + 0.1 * rng.standard_normal(x.shape)
    text, labels = rng.standard_normal((5, dim)), rng.integers(0, 5, 60)
    bases = layer_bases(stream(x, size))
    readouts = {"image": Readout(text.T, np.zeros(5))}
    found = spectra(stream(q, size), bases, readouts, samples(60, labels), stream(x, size))["image"]
    vectors = np.linalg.svd(x)[2].T
    assert found.sqnr_db is not None
    expected = 10 * np.log10(np.sum((x @ vectors) ** 2, axis=0) / np.sum(((q - x) @ vectors) ** 2, axis=0))
    assert np.allclose(found.sqnr_db, expected)
    parts = {"0-8": q @ vectors[:, :8] @ vectors[:, :8].T, "all": q}
    if dim > 8:
        parts[f"8-{min(dim, 64)}"] = q @ vectors[:, 8:] @ vectors[:, 8:].T
    assert sorted(found.accuracy_full_basis.values()) == sorted(
        float(((part @ text.T).argmax(1) == labels).mean()) for part in parts.values()
    )


def test_an_offset_of_the_readout_counts() -> None:
    """All features zero but for one: the offset decides."""
    x = np.eye(3)[[0, 1, 2]]
    readout = {"image": Readout(np.zeros((3, 2)), np.array([0.0, 1.0]))}
    labels = np.array([1, 1, 0])
    found = spectra(stream(x), layer_bases(stream(x)), readout, samples(3, labels))["image"]
    assert found.accuracy_full_basis["all"] == found.accuracy_own_basis["all"] == pytest.approx(2 / 3)


def test_truncated_features_keep_their_accuracy_in_the_kept_band() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((80, 20)) * np.linspace(3, 0.1, 20)
    text, labels = rng.standard_normal((4, 20)), rng.integers(0, 4, 80)
    bases = layer_bases(stream(x))
    columns = bases["image"].band(0, 8)
    kept = x @ columns @ columns.T
    readouts = {"image": Readout(text.T, np.zeros(4))}
    full, low = (
        spectra(stream(f), bases, readouts, samples(80, labels))["image"].accuracy_full_basis for f in (x, kept)
    )
    assert low["all"] == low["0-8"] == full["0-8"]


def test_correlations_see_what_the_signal_does_not_explain() -> None:
    """Noise of q and of the corruption share a shape that has nothing to do with the signal's; a control does not."""
    rng = np.random.default_rng(0)
    x, basis = features_with(np.linspace(10, 1, 40), 400)
    shape = rng.permutation(np.linspace(0.1, 2, 40))

    def noise(scale: np.ndarray, seed: int) -> np.ndarray:
        return (np.random.default_rng(seed).standard_normal(x.shape) * scale) @ basis.T

    alike = study_of(x, x + noise(shape, 1), x + noise(shape, 2)).correlations("rtn-w4-channel-vision", "blur/3")
    assert alike["image"]["noise"] > 0.95
    assert alike["image"]["partial"] > 0.95
    falling = np.linspace(10, 1, 40) / 10
    both_follow_signal = study_of(
        x,
        x + noise(falling * rng.uniform(0.7, 1.3, 40), 1),
        x + noise(falling * rng.uniform(0.7, 1.3, 40), 2),
    ).correlations("rtn-w4-channel-vision", "blur/3")
    assert both_follow_signal["image"]["noise"] > 0.7
    assert abs(both_follow_signal["image"]["partial"]) < 0.4


def test_partial_correlation_by_hand() -> None:
    """Ranks a = 1 2 3 4, b = 2 1 4 3, s = 1 3 2 4: r_ab = 0.6, r_as = 0.8, r_bs = 0; 0.6 / sqrt(0.36) = 1."""
    a, b, s = (np.array(v, dtype=float) for v in ([1, 2, 3, 4], [2, 1, 4, 3], [1, 3, 2, 4]))
    assert rank_correlations(a, b, s) == pytest.approx({"noise": 0.6, "partial": 1.0})
    assert rank_correlations(a, b, a) == {"noise": pytest.approx(0.6)}  # the signal explains the first completely
    assert rank_correlations(a, np.ones(4), s) == {}
    assert rank_correlations(a[:3], b[:3], s[:3]) == {}


def test_the_numbers_are_json_without_nan_and_figures_are_drawn() -> None:
    x, _ = features_with(np.linspace(9, 1, 20), 50)
    study = study_of(x, x + 0.1 * np.random.default_rng(0).standard_normal(x.shape), x * 1.1)
    text = json.dumps(study_json(study), allow_nan=False)
    entry = json.loads(text)["entries"][2]["layers"]["image"]
    assert len(entry["directions"]["sqnr_db"]["value"]) == entry["dimension"] == 20
    same = json.loads(json.dumps(study_json(study_of(x, x)), allow_nan=False))["entries"][1]["layers"]["image"]
    assert same["directions"]["sqnr_db"]["value"] == [None] * 20
    assert same["directions"]["gain"]["value"] == same["directions"]["energy_ratio"]["value"] == [1.0] * 20
    assert set(draw(study)) == {"gain_by_rank", "sqnr_by_rank", "energy_spectra", "block_sqnr"}
    assert set(draw(study_of(x, x))) == {"gain_by_rank", "sqnr_by_rank", "energy_spectra", "block_sqnr"}


def test_no_features_and_dead_layers_are_said() -> None:
    with pytest.raises(UndefinedMetric, match="no features"):
        layer_bases(iter(()))
    with pytest.raises(UndefinedMetric, match="layer 'image' are all zero"):
        layer_bases(stream(np.zeros((4, 3))))


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """16 times as many batches of 3 layers; the peak may differ by a tenth."""

    def features(batches: int) -> Iterator[Features]:
        for seed in range(batches):
            rng = np.random.default_rng(seed)
            yield {layer: rng.standard_normal((32, 96)).astype(np.float32) for layer in ("a", "b", "c")}

    def peak(batches: int) -> int:
        tracemalloc.start()
        bases = layer_bases(features(batches))
        spectra(features(batches), bases, {}, samples(32 * batches), features(batches))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)
    assert peak(64) < 1.1 * peak(4)


def test_bands_of_an_entry_end_at_the_rank() -> None:
    pairs = PairAccumulator(10)
    pairs.update(np.sqrt(np.arange(10.0))[None], np.ones((1, 10)), np.zeros(1, dtype=int))
    spectrum = LayerSpectrum(np.ones(10) / 10, 10.0, 9, pairs.sums)
    expected = {"0-8": 10 * math.log10(28 / 8), "8-64": 10 * math.log10(8), "all": 10 * math.log10(36 / 9)}
    assert spectrum.band_sqnr_db() == pytest.approx(expected)


def test_the_headline_numbers_are_those_of_the_file() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((80, 16))
    content = json.loads(json.dumps(study_json(study_of(x, x + 0.1 * rng.standard_normal(x.shape)))))
    found, layer = study_metrics(content), content["entries"][1]["layers"]["image"]
    name = content["entries"][1]["quantization"]
    assert found[f"{name}/clean/image/gain_0-8"] == layer["bands"]["0-8"]["gain"]["value"]
    assert found[f"{name}/clean/image/sqnr_db_all"] == layer["bands"]["all"]["sqnr_db"]["value"]
    assert found[f"{name}/clean/image/effective_rank"] == layer["effective_rank"]
    assert found[f"{name}/clean/image/angle_top_8_deg"] == layer["angles_deg"]["top_8"][-1]
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
    layer["bands"]["0-8"]["gain"]["value"] = None  # undefined
    assert f"{name}/clean/image/gain_0-8" not in study_metrics(content)
