"""Features that are not finite are traced to their layer; batches of texts, class weights, compiled encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.engine import embed
from benchmark.engine.execution import Encoder, prepared
from benchmark.errors import NonFiniteError
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.spec import ModelSpec
from tests.models_zoo import write_checkpoint

BLOCK = "transformer.resblocks.1.mlp.c_fc"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ClipModel:
    return resolve(ModelSpec(ref=write_checkpoint("ViT", tmp_path_factory.mktemp("vit")))).load("cpu")


def spoiled(model: ClipModel, layer: str) -> ClipModel:
    """A copy with one weight that is not a number."""
    copy = model.clone()
    copy.module.get_submodule(layer).weight.data.view(-1)[3] = float("nan")
    return copy


def test_texts_that_are_not_finite_name_the_text_and_the_layer(model: ClipModel) -> None:
    with pytest.raises(NonFiniteError) as caught:
        embed.embed_texts(spoiled(model, BLOCK), ["a red star", "a blue ring"])
    assert str(caught.value) == f"text features are not finite ('a red star' ...); first in layer '{BLOCK}'"


def test_images_that_are_not_finite_name_the_first_of_their_batch_and_the_layer(model: ClipModel) -> None:
    bad, batches = spoiled(model, f"visual.{BLOCK}"), [np.zeros((4, 3, 32, 32), np.uint8)] * 3
    with pytest.raises(NonFiniteError, match=f"from image 0 on; first in layer 'visual.{BLOCK}'"):
        embed.embed_images(bad, batches, lambda _: None)
    runs: list[int] = []

    def later(module: nn.Module, pixels: Tensor) -> Tensor:
        runs.append(len(pixels))
        return model.image_encoder(module, pixels) * (float("nan") if len(runs) >= 3 else 1.0)

    done: list[int] = []
    with pytest.raises(NonFiniteError, match=r"from image 8 on; first in layer '\(after the last layer\)'"):
        embed.embed_images(with_encoder(model, later), batches, done.append)
    assert done == [4, 4]


def with_encoder(model: ClipModel, encoder: Callable[[nn.Module, Tensor], Tensor]) -> ClipModel:
    """The model with another image encoder."""
    return replace(model, image_encoder=encoder)


def test_texts_go_in_batches_and_keep_their_order(model: ClipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"a photo of {number} things" for number in range(7)]
    whole = embed.embed_texts(model, texts)
    monkeypatch.setattr(embed, "TEXT_BATCH", 3)
    np.testing.assert_allclose(embed.embed_texts(model, texts), whole, atol=1e-6)


def test_class_weights_are_means_of_unit_features(model: ClipModel) -> None:
    names, templates = ["star", "ring", "cross"], ["a {}.", "the {c} there"]
    each = {t: embed.embed_texts(model, [t.replace("{c}", "{}").format(n) for n in names]) for t in templates}
    mean = np.mean(list(each.values()), axis=0)
    wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(embed.embed_classes(model, names, templates), wanted, atol=1e-6)


def test_compiled_encoders_run_unless_hooks_watch(model: ClipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def compiled(encoder: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
        def run(module: nn.Module, inputs: Tensor) -> Tensor:
            calls.append("compiled")
            return encoder(module, inputs)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    made = prepared(model, "fp32", compiled=True)
    batches = [np.zeros((2, 3, 32, 32), np.uint8)]
    embed.embed_images(made, batches, lambda _: None)
    embed.embed_texts(made, ["a star"])
    assert calls == ["compiled", "compiled"]
    embed.embed_images(made, batches, lambda _: None, ["penultimate"])
    assert calls == ["compiled", "compiled"]
    plain = prepared(model, "bf16", compiled=False).image_encoder
    assert isinstance(plain, Encoder)
    assert plain.compiled is None
