"""Autocast and compilation: what they change, what they leave exact, and that they are part of the content hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.engine.embed import embed_images, embed_texts, stream_features
from benchmark.engine.execution import check_precision, prepared, quantized_layers
from benchmark.engine.plan import Settings
from benchmark.errors import InputError
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.quantization import parse, quantize
from benchmark.spec import ModelSpec
from tests.models_zoo import write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ClipModel:
    folder: Path = tmp_path_factory.mktemp("vit")
    return resolve(ModelSpec(ref=write_checkpoint("ViT", folder))).load("cpu")


@pytest.fixture(scope="module")
def batches() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (5, 6, 3, 32, 32), dtype=np.uint8))


def features(model: ClipModel, batches: list[np.ndarray]) -> np.ndarray:
    return embed_images(model, batches, lambda _: None)["image"]


def test_full_precision_is_the_model_itself(model: ClipModel) -> None:
    assert prepared(model, "fp32", compiled=False) is model


@pytest.mark.parametrize(("precision", "low", "high"), [("bf16", 1e-4, 5e-2), ("fp16", 1e-6, 1e-2)])
def test_autocast_moves_features_by_its_rounding(
    model: ClipModel, batches: list[np.ndarray], precision: str, low: float, high: float
) -> None:
    exact, cast = features(model, batches), features(prepared(model, check_precision(precision), False), batches)
    assert cast.dtype == np.float32
    assert np.allclose(np.linalg.norm(cast, axis=1), 1.0, atol=1e-6)
    assert low < np.abs(cast - exact).max() < high
    texts = ["a red star", "a blue ring"]
    moved = np.abs(embed_texts(prepared(model, check_precision(precision), False), texts) - embed_texts(model, texts))
    assert 0 < moved.max() < high


def test_quantized_layers_stay_in_float32_under_autocast(model: ClipModel, batches: list[np.ndarray]) -> None:
    quantized, _ = quantize(model, parse("rtn-w8a8-channel-token-vision"))
    layers = quantized_layers(quantized.module)
    assert len(layers) > 10
    types: set[torch.dtype] = set()
    handles = [
        layer.register_forward_hook(lambda _, inputs, output: types.update({inputs[0].dtype, output.dtype}))
        for layer in layers
    ]
    cast = features(prepared(quantized, "bf16", compiled=False), batches)
    for handle in handles:
        handle.remove()
    assert types == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")
    exact = features(quantized, batches)
    assert 0 < np.abs(cast - exact).max() < 5e-2
    assert all(not layer._forward_pre_hooks for layer in layers)


def test_an_error_inside_a_quantized_layer_leaves_autocast_off(
    model: ClipModel, batches: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized, _ = quantize(model, parse("rtn-w8a8-channel-token-vision"))

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(quantized_layers(quantized.module)[3]), "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        features(prepared(quantized, "bf16", compiled=False), batches)
    assert not torch.is_autocast_enabled("cpu")


def test_batches_come_in_order_one_ahead(model: ClipModel, batches: list[np.ndarray]) -> None:
    started: list[int] = []

    def source() -> object:
        for number, batch in enumerate(batches):
            started.append(number)
            yield batch

    ahead = []
    whole = features(model, batches)
    for number, found in enumerate(stream_features(model, source(), lambda _: None)):  # type: ignore[arg-type]
        ahead.append(len(started) - number)
        np.testing.assert_array_equal(found["image"], whole[6 * number : 6 * number + 6])
    assert ahead == [2, 2, 2, 2, 1]


def test_what_can_change_a_number_is_hashed() -> None:
    plain = Settings().hashed()
    assert Settings(batch_size=1, workers=0).hashed() == plain
    assert Settings(precision="bf16").hashed() == {**plain, "precision": "bf16"}
    assert Settings(compile=True).hashed() == {**plain, "compile": True}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="--precision 'fp8': expected one of fp32, bf16, fp16"):
        check_precision("fp8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_features_are_those_of_the_model(model: ClipModel, batches: list[np.ndarray]) -> None:
    compiled = prepared(model, "fp32", compiled=True)
    np.testing.assert_allclose(features(compiled, batches), features(model, batches), atol=1e-5)
    taps = embed_images(compiled, batches, lambda _: None, ["penultimate"])
    assert taps["penultimate"].shape[0] == 30
