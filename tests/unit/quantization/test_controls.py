"""Controls: what they do to features is what they state, for each image by itself, and the weights stay."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from benchmark.engine.plan import Plan, Settings
from benchmark.errors import QuantizationError, SpecError
from benchmark.metrics.spectrum import EigenBasis, GramAccumulator, subspace_angles
from benchmark.models.base import ClipModel
from benchmark.quantization import Calibration, parse, quantize, quantizers
from benchmark.quantization.controls import Truncation, image_noise, measure
from benchmark.results.tables import report_figures
from benchmark.spec import digest
from benchmark.spec.short_name import dotted, undotted
from tests.quant_models import calibration, toy

LIKE = "rtn-w4a8-channel-token-vision"
NOISE, SHAPED = f"control-noise-like_{dotted(LIKE)}-vision", f"control-shaped-like_{dotted(LIKE)}-vision"
GAIN, RESIDUAL, MARGIN = (NOISE.replace("noise", kind, 1) for kind in ("gain", "residual", "margin"))
NAMES = [NOISE, SHAPED, "control-lowrank-rank_8-vision", GAIN, RESIDUAL]


def eigen_basis(features: np.ndarray) -> EigenBasis:
    gram = GramAccumulator(features.shape[1])
    gram.update(features)
    return gram.eigen()


@cache
def model() -> ClipModel:
    return toy()


@cache
def controlled(name: str) -> ClipModel:
    return quantize(model(), parse(name), calibration())[0]


def raw(of: ClipModel, data: Calibration) -> np.ndarray:
    """Features before L2 normalisation, float64."""
    with torch.inference_mode():
        pixels = of.normalise(torch.from_numpy(np.array(data.pixels)))
        return of.image_encoder(of.module, pixels).double().numpy()


@pytest.mark.parametrize("name", NAMES)
def test_short_names_are_readable_and_read_back(name: str) -> None:
    assert parse(name).name == name
    assert "%" not in name


@given(st.text("ab9._-", min_size=1).filter(lambda t: not {"-.", "--"} & {t[i : i + 2] for i in range(len(t))}))
def test_a_dotted_name_reads_back(text: str) -> None:
    """Whatever stands in a short name: its tokens are not empty and do not begin with a dot."""
    if "-" not in dotted(text):
        assert undotted(dotted(text)) == text
    assert "-" not in dotted(text)


def test_the_plain_short_name_is_taken_as_well() -> None:
    spec = parse("control-noise-like_rtn%2Dw4a8%2Dvision")
    assert undotted(str(spec.option("like"))) == "rtn-w4a8-vision"
    with_point = "percentile-w4-percentile_99.5-vision"
    assert parse(f"control-noise-like_{dotted(with_point).replace('_', '%5F')}").name.endswith("-vision")


def test_isotropic_noise_has_the_stated_length_for_every_image() -> None:
    other = calibration(40, seed=5)
    length = np.linalg.norm(raw(controlled(NOISE), other) - raw(model(), other), axis=1)
    quantized = quantize(model(), parse(LIKE), calibration())[0]
    error = raw(quantized, calibration()) - raw(model(), calibration())
    assert np.allclose(length, np.sqrt(np.square(error).sum(1).mean()), rtol=1e-4)
    assert np.linalg.norm(raw(controlled(NOISE), other) - raw(model(), other), axis=0).min() > 0


def test_shaped_noise_has_the_quantizations_energy_along_each_direction() -> None:
    """Sample energy of M draws: relative deviation sqrt(2 / M); 6 of them are allowed."""
    data = calibration(600, seed=7)
    quantized = quantize(model(), parse(LIKE), calibration())[0]
    moments = measure(model(), calibration(), quantized)
    found = np.square((raw(controlled(SHAPED), data) - raw(model(), data)) @ moments.basis.vectors).mean(0)
    wanted = moments.noise_deviation(moments.basis) ** 2
    assert np.allclose(found, wanted, rtol=6 * np.sqrt(2 / 600))
    assert wanted.max() > 2 * wanted.min()  # there is a shape to match


def test_low_rank_features_lie_in_the_strongest_directions() -> None:
    data = calibration(50, seed=3)
    features = raw(controlled("control-lowrank-rank_8-vision"), data)
    assert np.linalg.matrix_rank(features, tol=1e-4) == 8
    strongest = eigen_basis(raw(model(), calibration())).band(0, 8)
    own = eigen_basis(features).band(0, 8)
    assert subspace_angles(strongest, own).max() < 1e-3


def gains_by_hand() -> tuple[np.ndarray, np.ndarray]:
    """Directions (rows) and gains from a singular value decomposition of the calibration features."""
    quantized = quantize(model(), parse(LIKE), calibration())[0]
    x, q = raw(model(), calibration()), raw(quantized, calibration())
    vectors = np.linalg.svd(x)[2]
    p, r = x @ vectors.T, q @ vectors.T
    return vectors, (p * r).sum(0) / (p * p).sum(0)


def test_gain_only_is_the_fitted_gain_of_each_direction() -> None:
    data = calibration(30, seed=11)
    x = raw(model(), data)
    vectors, gains = gains_by_hand()
    assert np.allclose(raw(controlled(GAIN), data), x @ vectors.T * gains @ vectors, atol=1e-5)
    assert np.abs(gains - 1).max() > 0.01


def test_gain_and_residual_are_the_two_parts_of_the_error() -> None:
    """Image by image on new images; on the calibration images the residual has nothing along the signal."""
    data = calibration(30, seed=11)
    quantized = quantize(model(), parse(LIKE), calibration())[0]
    x = raw(model(), data)
    parts = raw(controlled(GAIN), data) - x + raw(controlled(RESIDUAL), data) - x
    assert np.allclose(parts, raw(quantized, data) - x, atol=1e-5)
    vectors, _ = gains_by_hand()
    p, left = (raw(of, calibration()) @ vectors.T for of in (model(), controlled(RESIDUAL)))
    assert np.allclose((p * (left - p)).sum(0) / (p * p).sum(0), 0, atol=1e-5)
    figures = {name: quantize(model(), parse(name), calibration())[1].figures for name in (GAIN, RESIDUAL, NOISE)}
    squares = [figures[name]["noise_to_signal"] ** 2 for name in (GAIN, RESIDUAL, NOISE)]
    assert squares[0] + squares[1] == pytest.approx(squares[2])


def test_the_temperature_is_the_slope_of_the_margins() -> None:
    """Captions repeat, so that some images share a class."""
    base = calibration(40)
    data = Calibration(base.pixels, [f"picture {i % 7}" for i in range(40)], "seven")
    changed, report = quantize(model(), parse(MARGIN), data)
    quantized = quantize(model(), parse(LIKE), data)[0]
    text = model().encode_text([f"picture {i}" for i in range(7)]).double().numpy()

    def margin(of: ClipModel) -> np.ndarray:
        cosines = of.encode_image(torch.from_numpy(np.array(data.pixels))).double().numpy() @ text.T
        return np.array([row[i % 7] - np.delete(row, i % 7).max() for i, row in enumerate(cosines)])

    before, now = margin(model()), margin(quantized)
    slope = (before @ now) / (before @ before)
    assert report.figures["margin_slope"] == pytest.approx(slope, rel=1e-6)
    assert changed.logit_scale == pytest.approx(model().logit_scale * slope, rel=1e-6)
    assert slope != pytest.approx(1, abs=1e-4)
    pixels = torch.from_numpy(np.array(data.pixels))
    assert torch.equal(changed.encode_image(pixels), model().encode_image(pixels))
    tower = report.to_json()["towers"]["vision"]
    assert tower["embedding_sqnr_db"] is None
    assert "vision_sqnr_db" not in report_figures(report.to_json())


def test_a_temperature_needs_captions_that_differ() -> None:
    base = calibration(8)
    for captions in ([], ["same"] * 8, ["a", "b"]):
        with pytest.raises(QuantizationError, match="needs two different captions, one for each image"):
            quantize(model(), parse(MARGIN), Calibration(base.pixels, captions, "d"))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 24), st.integers(1, 8))
def test_truncation_with_all_directions_is_the_identity(seed: int, dimension: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    basis = eigen_basis(rng.standard_normal((30, dimension)))
    features = torch.from_numpy(rng.standard_normal((count, dimension)).astype(np.float32))
    kept = Truncation(basis.band(0, dimension))(torch.zeros(count, 3, 2, 2), features)
    assert torch.allclose(kept, features, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_batch_size_and_order_do_not_matter(name: str) -> None:
    pixels = torch.from_numpy(calibration(11, seed=9).pixels)
    together = controlled(name).encode_image(pixels)
    one_by_one = torch.cat([controlled(name).encode_image(image[None]) for image in pixels])
    backwards = controlled(name).encode_image(pixels.flip(0)).flip(0)
    assert torch.allclose(together, one_by_one, atol=1e-5)
    assert torch.allclose(together, backwards, atol=1e-5)
    assert (together - model().encode_image(pixels)).norm(dim=1).min() > 1e-3


def test_noise_is_fixed_by_image_and_seed_and_independent_otherwise() -> None:
    pixels = model().normalise(torch.from_numpy(calibration(2, seed=1).pixels))
    first = image_noise(pixels, 64, model().preprocess, 0)
    assert np.array_equal(first, image_noise(pixels, 64, model().preprocess, 0))
    assert np.array_equal(first, image_noise(pixels + 1e-6, 64, model().preprocess, 0))  # rounding of another device
    assert not np.allclose(first, image_noise(pixels, 64, model().preprocess, 1))
    changed = pixels.clone()
    changed[0, 0, 0, 0] *= -1  # mean 0.5: 8-bit value p becomes 255 - p
    again = image_noise(changed, 64, model().preprocess, 0)
    assert not np.allclose(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert abs(np.corrcoef(first[0], first[1])[0, 1]) < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_the_report_says_control_and_works_in_tables(name: str) -> None:
    report = quantize(model(), parse(name), calibration())[1]
    assert report.kind == "control"
    assert report.engine == "float"
    tower = report.towers["vision"]
    assert (tower.layers, tower.bits_per_weight, tower.packed_bytes) == ((), 32.0, tower.float_bytes)
    assert 0 < report.figures["noise_to_signal"] < 1
    figures = report_figures(report.to_json())
    assert figures["effective_bits"] == 32.0
    assert figures["weight_share"] == 0.0
    assert figures["noise_to_signal"] == report.figures["noise_to_signal"]
    assert figures["vision_cosine"] < 1


def test_weights_and_text_are_left_alone() -> None:
    before = {name: value.clone() for name, value in model().module.state_dict().items()}
    changed = quantize(model(), parse(NOISE), calibration())[0]
    assert changed.module is model().module
    assert all(torch.equal(value, before[name]) for name, value in model().module.state_dict().items())
    assert torch.equal(changed.encode_text(["a dog"]), model().encode_text(["a dog"]))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("control-noise", "needs the option like, as in control-noise-like_rtn.w4a8"),
        ("control-gain", "needs the option like, as in control-gain-like_rtn.w4a8"),
        ("control-margin-like_rtn.w4.text", "not a quantization of the vision tower"),
        ("control-residual-like_rtn.w4-seed_1", "unknown option 'seed'"),
        ("control-lowrank", "needs the option rank, as in control-lowrank-rank_16"),
        ("control-lowrank-rank_0", "option rank"),
        ("control-lowrank-rank_8-text", "its scope is vision only"),
        ("control-lowrank-rank_8-vision+text", "its scope is vision only"),
        ("control-lowrank-w4-rank_8", "does not take weight_bits"),
        ("control-lowrank-rank_8-seed_1", "unknown option 'seed'"),
        ("control-noise-like_rnt.w4", "Did you mean 'rtn'"),
        ("control-noise-like_rtn.w4.text", "not a quantization of the vision tower"),
        ("control-noise-like_fp32", "not a quantization of the vision tower"),
        ("control-noise-like_control.lowrank.rank%5F8", "not a quantization of the vision tower"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(name: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(name)
    assert says in str(caught.value)


def test_a_rank_that_changes_nothing_or_is_not_measured_is_refused() -> None:
    with pytest.raises(QuantizationError, match="32 dimensions; the rank can be at most 31"):
        quantize(model(), parse("control-lowrank-rank_32"), calibration())
    with pytest.raises(QuantizationError, match="16 calibration images; the rank can be at most 16"):
        quantize(model(), parse("control-lowrank-rank_17"), calibration(16))
    with pytest.raises(QuantizationError, match="needs calibration data"):
        quantize(model(), parse("control-lowrank-rank_8"))


def test_the_hash_covers_the_imitated_quantization_and_the_calibration_data() -> None:
    """Rule 4: a new version of the imitated method, or other calibration pairs, misses the cache."""
    spec = parse(NOISE)
    assert quantizers.get(spec.method).depends_on(spec) == (parse(LIKE),)

    def key(calibration_digest: str) -> str:
        data: Any = SimpleNamespace(digest=calibration_digest, captions=())
        suite: Any = SimpleNamespace(name="s")
        return digest(Plan(suite, Settings(), {}, data, ()).quant_key(spec))

    assert key("a") == key("a") != key("b")
    inner = Plan.quant_key(Plan(None, Settings(), {}, None, ()), parse(LIKE))  # type: ignore[arg-type]
    data: Any = SimpleNamespace(digest="a", captions=())
    assert Plan(data, Settings(), {}, data, ()).quant_key(spec)["depends_on"] == [inner]
    assert "version" in inner
