"""The demo's checkpoint: what is committed is what the log names, loads through open_clip, and is neither blind nor
saturated."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from benchmark.demo import scenes
from benchmark.demo.training import check
from benchmark.demo.training.model import CONFIG

WEIGHTS = check.CHECKPOINT / "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def tower() -> check.Tower:
    return check.Tower(check.CHECKPOINT)


def test_digest_file_and_log_name_the_committed_weights() -> None:
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert (check.CHECKPOINT / "DIGEST").read_text() == f"{digest}  {WEIGHTS.name}\n"
    assert f"sha256 {digest}" in (check.CHECKPOINT / "training.log").read_text().splitlines()


def test_weights_are_small_and_finite() -> None:
    assert WEIGHTS.stat().st_size <= 12 * 2**20
    with safe_open(WEIGHTS, framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118  (safe_open is no mapping)
            assert torch.isfinite(weights.get_tensor(name)).all(), name


def test_configuration_is_the_one_of_the_training_script() -> None:
    written = json.loads((check.CHECKPOINT / "open_clip_config.json").read_text())
    assert written == CONFIG.as_json()


def test_open_clip_loads_it_as_a_native_model(tower: check.Tower) -> None:
    assert isinstance(tower.model, open_clip.CLIP)
    assert type(tower.model.visual).__name__ == "VisionTransformer"
    assert 1 < tower.scale <= 100.01
    text = tower.tokenize(["a photo of a red star."])
    assert text.shape == (1, CONFIG.context)
    assert text.max() == 49407  # the end-of-text token of open_clip's own vocabulary


def test_preprocessing_only_normalises() -> None:
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{check.CHECKPOINT}")
    image = scenes.render("test", 1)[0][0]
    pixels = preprocess(Image.fromarray(image))
    expected = (image.transpose(2, 0, 1) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-6)


def test_accuracy_is_within_the_stated_band(tower: check.Tower) -> None:
    images, labels, _ = scenes.render("test", 300)
    accuracy = check.accuracy(tower.embed(images), tower.scene_text, labels)
    # 75 % to 95 % is stated for all of test; three standard errors of 300 images are 7 points at most.
    assert 0.70 < accuracy < 0.98


def test_digits_are_recognised(tower: check.Tower) -> None:
    images, labels, _ = scenes.render("digits", 300)
    assert check.accuracy(tower.embed(images), tower.digit_text, labels) > 0.75


def test_two_bits_hurt_and_eight_do_not(tower: check.Tower) -> None:
    images, labels, _ = scenes.render("test", 300)

    def accuracy(bits: int) -> float:
        return check.accuracy(tower.embed(images, check.rtn(tower.model, bits)), tower.scene_text, labels)

    full = check.accuracy(tower.embed(images), tower.scene_text, labels)
    assert abs(accuracy(8) - full) < 0.02
    assert accuracy(2) < full - 0.05
