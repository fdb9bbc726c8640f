"""The planted world: pixels encode what is declared, and the truth is what `docs/planted.md` says."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from benchmark.api import load_calibration
from benchmark.demo import planted
from benchmark.errors import UnknownNameError
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.quantization import parse, quantize
from benchmark.spec import DataSpec
from tests.reference.planted_truth import truth

VARIANTS: tuple[planted.Variant, ...] = ("gain", "mirror", "null")
COUNT = 60_000
Floats = npt.NDArray[np.float64]


@cache
def model(variant: str) -> ClipModel:
    return resolve(f"planted:{variant}").load()


@cache
def drawn(name: str) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Coefficients and places of many images of a split, drawn without the code that draws images."""
    split, rng = planted.SPLITS[name], np.random.default_rng(5)
    place, z = rng.integers(8, size=COUNT), np.zeros((COUNT, 64))
    vertices = planted.simplex()
    noise, inner = rng.standard_normal((COUNT, 7)), rng.standard_normal((COUNT, 7))
    z[:, 1:8] = noise + planted.STRONG * split.robust * vertices[place]
    z[:, 1:8] += planted.STRONG * split.background * vertices[(place + split.apart) % 8]
    z[:, 8:] = rng.standard_normal((COUNT, 56))
    brittle, echo = planted.isometry("brittle"), planted.isometry("echo")
    z[:, 8:36] += planted.WEAK * split.brittle * vertices[place] @ brittle.T
    z[:, 36:] += (np.sqrt(1 - planted.ECHO**2) * inner - planted.ECHO * noise - z[:, 36:] @ echo) @ echo.T
    return z, place


def accuracy(variant: planted.Variant, name: str, cut: bool) -> float:
    z, place = drawn(name)
    x = z * planted.gains() * (np.arange(64) < 8 if cut else 1.0)
    return float(((x @ planted.class_weights(variant).T).argmax(1) == place).mean())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cut", [False, True])
def test_accuracies_are_those_of_the_closed_form(variant: planted.Variant, cut: bool) -> None:
    expected = truth(variant, cut)
    found = {name: accuracy(variant, name, cut) for name in ("train", "test", "shifted")}
    common, counter = accuracy(variant, "common", cut), accuracy(variant, "counter", cut)
    assert found == pytest.approx({name: expected[name] for name in found}, abs=4 * np.sqrt(0.25 / COUNT))
    assert (common - counter) / common == pytest.approx(expected["rsg"], abs=6 * np.sqrt(0.25 / COUNT))


def test_the_truth_has_the_signs_that_were_planted() -> None:
    """A cut helps `gain` on the test and hurts `mirror`; under shift and in the gap of backgrounds it helps neither."""
    change = {v: {k: truth(v, True)[k] - truth(v, False)[k] for k in truth(v, True)} for v in VARIANTS}
    assert change["gain"]["test"] > 0.04
    assert change["mirror"]["test"] < -0.04
    for variant in ("gain", "mirror"):
        assert change[variant]["shifted"] < -0.03
        assert change[variant]["rsg"] > 0.03
    assert change["null"] == dict.fromkeys(change["null"], 0.0)
    for noise in (0.3, 0.9):
        assert truth("gain", True, noise)["test"] > truth("gain", False, noise)["test"] + 0.03
        assert truth("mirror", True, noise)["test"] < truth("mirror", False, noise)["test"] - 0.005


def test_drawn_coefficients_have_the_declared_moments() -> None:
    """Class means, white noise, and the echo of the robust block's noise, from the code that draws images."""
    split, count = planted.SPLITS["train"], 4_000
    z = np.stack([planted.coefficients(split, index, 3) for index in range(count)])
    labels = np.array([planted.label_of(split, index, 3) for index in range(count)])
    assert (np.bincount(labels) == count // 8).all()
    own = planted.signals()
    noise = z.copy()
    noise[:, planted.BLOCKS["robust"]] -= own["robust"][labels]
    noise[:, planted.BLOCKS["brittle"]] -= own["brittle"][labels]
    expected = np.eye(64)
    expected[0, 0] = 0
    across = -planted.ECHO * planted.isometry("echo")
    expected[36:, 1:8], expected[1:8, 36:] = across, across.T
    assert np.abs(noise.T @ noise / count - expected).max() < 6 / np.sqrt(count)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pixels_encode_the_features(variant: planted.Variant) -> None:
    """Features of the 8-bit image are those declared, to the rounding of its 3,072 values."""
    split, rows = planted.SPLITS["test"], list(range(64))
    pixels = torch.from_numpy(planted.render(split, rows).transpose(0, 3, 1, 2).copy())
    z = np.stack([planted.coefficients(split, row) for row in rows])
    tapped = model(variant).encode_image_with(pixels, ["block:visual.blocks.0", "penultimate"])
    constant = planted.CONSTANT * (np.arange(64) == 0)
    error = tapped["block:visual.blocks.0"].double().numpy() - z - constant
    rounding = np.sqrt(1 / 12) / planted.AMPLITUDE
    assert error.std() == pytest.approx(rounding, rel=0.1)
    assert np.abs(error).max() < 6 * rounding
    expected = z * planted.gains() + constant
    np.testing.assert_allclose(tapped["penultimate"].double().numpy(), expected, atol=6 * rounding)
    texts = model(variant).encode_text([f"a photo of a {name}." for name in planted.CLASS_NAMES]).double().numpy()
    weights = planted.class_weights(variant)
    cosines = expected @ weights.T / np.linalg.norm(expected, axis=1)[:, None] / np.linalg.norm(weights, axis=1)
    assert np.abs(tapped["image"].double().numpy() @ texts.T - cosines).max() < 5e-3


def test_one_scale_for_a_matrix_is_a_spectral_filter() -> None:
    """At W4 per tensor the weak gains become 0; per channel they stay."""
    made = {g: quantize(model("gain"), parse(f"rtn-w4-{g}-vision"))[0] for g in ("tensor", "channel")}
    gains = {g: _diagonal(m) for g, m in made.items()}
    rounded = 7 * 2 / 15  # what 1 becomes on a grid of 16 steps
    np.testing.assert_allclose(gains["tensor"], rounded * (np.arange(64) < 8), atol=1e-6)
    np.testing.assert_allclose(gains["channel"], rounded * planted.gains(), rtol=1e-5)


def _diagonal(quantized: ClipModel) -> npt.NDArray[np.float32]:
    """Of the second layer, found by running it on the rows of an identity matrix."""
    layer = quantized.module.get_submodule("visual.blocks.1")
    with torch.inference_mode():
        rows = layer(torch.eye(64)) - layer(torch.zeros(1, 64))
    return np.asarray(torch.diag(rows).numpy())


def test_images_depend_on_seed_split_and_index_alone() -> None:
    first, again = planted.encoded("test", [5, 2]), planted.encoded("test", [2, 5])
    assert first == again[::-1]
    assert planted.encoded("test", [2], seed=1) != planted.encoded("test", [2])
    image = Image.open(io.BytesIO(first[0]))
    assert (image.size, image.mode) == ((32, 32), "RGB")
    common, counter = (planted.described(name, 16) for name in ("common", "counter"))
    assert common["base_id"] == counter["base_id"]
    assert common["label"] == counter["label"]


def test_wrong_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match=r"variant of the planted model 'mirrored'.*mirror"):
        resolve("planted:mirrored")
    from benchmark.data import check_data

    with pytest.raises(UnknownNameError, match=r"far_odd.*far_ood"):
        check_data(DataSpec(source="planted", split="far_odd"), "far")
    assert resolve("planted").digest == resolve("planted:gain").digest
    assert resolve("planted:gain").digest != resolve("planted:null").digest


QUANTS = (
    *(f"{name}-w4a8-channel-token-vision+text" for name in ("rtn", "percentile", "mse", "smoothquant", "rotation")),
    *(f"{name}-w4-g32-vision+text" for name in ("gptq", "awq", "hqq")),
    "fp8-w8a8-channel-token-vision+text",
    *("bnb-int8-vision+text", "bnb-nf4-vision+text", "torchao-int8wo-vision+text", "torchao-fp8wo-vision+text"),
)


@pytest.mark.parametrize("name", QUANTS)
def test_every_quantizer_takes_both_towers(name: str) -> None:
    """Features and class weights stay close to full precision's."""
    calibration = load_calibration(model("gain"), DataSpec(source="planted", split="calibration", limit=64))
    made = quantize(model("gain"), parse(name), calibration)[0]
    pixels = torch.from_numpy(planted.render(planted.SPLITS["test"], range(32)).transpose(0, 3, 1, 2).copy())
    texts = [f"a photo of a {each}." for each in (*planted.CLASS_NAMES, "truck")]
    for full, quantized in (
        (model("gain").encode_image(pixels), made.encode_image(pixels)),
        (model("gain").encode_text(texts), made.encode_text(texts)),
    ):
        assert (full * quantized).sum(1).min() > 0.9
