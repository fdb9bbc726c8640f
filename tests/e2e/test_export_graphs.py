"""`reliquant export --format`: the files give the measured features in a process that has no reliquant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from benchmark.errors import ReliquantError
from benchmark.export.command import export
from benchmark.export.request import ExportRequest
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.quantization import Calibration, parse, quantize
from benchmark.quantization.graphs import onnx
from tests.models_zoo import write_checkpoint

ALONE = """
import json, sys
from pathlib import Path
import numpy as np
folder, pixels, to = map(Path, sys.argv[1:])
about = json.loads((folder / "artifact.json").read_text())
tower, look = about["towers"]["vision"], about["preprocess"]
mean, std = (np.array(look[key], np.float32).reshape(1, 3, 1, 1) for key in ("mean", "std"))
values = (np.load(pixels).astype(np.float32) / 255 - mean) / std
if about["runtime"] == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession(folder / tower["file"], providers=["CPUExecutionProvider"])
    run = lambda rows: session.run([tower["output"]], {tower["input"]["name"]: rows})[0]
else:
    import openvino
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(folder / tower["file"], "CPU", hints)
    run = lambda rows: model({tower["input"]["name"]: rows})[tower["output"]].copy()
found = np.concatenate([run(values[i : i + 1]) for i in range(len(values))])
assert not [name for name in sys.modules if name.split(".")[0] in ("benchmark", "torch", "tasks")]
np.save(to, found / np.linalg.norm(found, axis=1, keepdims=True))
"""
SUITE: dict[str, Any] = {
    "name": "tiny",
    "version": 1,
    "quantizations": ["fp32"],
    "calibration": "calibration",
    "data": {
        "scenes": {"source": "demo", "split": "test", "limit": 8},
        "calibration": {"source": "demo", "split": "calibration", "limit": 16},
    },
    "tasks": {"zero_shot": {"scenes": {"test": "scenes"}}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    suite = {**SUITE, "models": [write_checkpoint("ViT", folder / "vit")]}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(suite))
    return folder


def write(place: Path, name: str, form: str | None) -> Path:
    to = place / f"{name}-{form}"
    export(
        ExportRequest(
            config=name, format=form, to=to, suite=str(place / "tiny.yaml"), home=place / "home", quiet=True, limit=None
        )
    )
    return to


def pixels(model: ClipModel) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (6, 3, *model.preprocess.size), dtype=np.uint8)


def alone(folder: Path, images: NDArray[np.uint8], place: Path) -> NDArray[np.float32]:
    """Features from a script in another folder, whose Python does not find reliquant."""
    np.save(place / "pixels.npy", images)
    command = [sys.executable, "-I", "-c", ALONE, str(folder), str(place / "pixels.npy"), str(place / "found.npy")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(command, check=True, env=environment, cwd=place)
    found: NDArray[np.float32] = np.load(place / "found.npy")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [("fp32", "onnx"), ("fp32", "openvino")])
def test_full_precision_is_equal_without_reliquant(name: str, form: str, place: Path) -> None:
    folder, model = write(place, name, form), resolve(f"local-dir:{place / 'vit'}").load("cpu")
    images = pixels(model)
    expected = model.encode_image(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(alone(folder, images, place), expected, atol=1e-5)
    assert "nothing may be claimed" in (folder / "README.md").read_text()
    assert json.loads((folder / "artifact.json").read_text())["towers"]["text"]["file"].startswith("text.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [("openvino-int8-vision", "openvino"), ("ort-int8-vision", "onnx"), ("ort-int8-static-vision", "onnx")],
)
def test_the_measured_graph_runs_without_reliquant(name: str, form: str, place: Path) -> None:
    folder, model = write(place, name, form), resolve(f"local-dir:{place / 'vit'}").load("cpu")
    images = pixels(model)
    about = json.loads((folder / "artifact.json").read_text())
    assert about["towers"]["vision"]["difference"] == 0  # of the session of the file from the measured model
    assert about["short_name"] == name
    full, found = model.encode_image(torch.from_numpy(images)).numpy(), alone(folder, images, place)
    assert np.abs(found - full).max() > 1e-5
    assert (found * full).sum(1).min() > 0.98
    assert json.loads((folder / "quantization_report.json").read_text())["kernel"] == "real"


@pytest.mark.slow
def test_static_w8a8_becomes_qdq_nodes_with_the_same_codes(place: Path) -> None:
    name = "rtn-w8a8-channel-tensor-vision"
    folder, model = write(place, name, "onnx"), resolve(f"local-dir:{place / 'vit'}").load("cpu")
    weights = onnx.read_weights(folder / "visual.onnx")
    images = pixels(model)
    pairs = Calibration(images, (), "any")  # codes of weights do not depend on it
    quantized, _ = quantize(model, parse(name), pairs, exact_float=True)
    for layer in model.layers("vision"):
        dense = quantized.module.get_submodule(layer).get_buffer("weight").numpy()
        np.testing.assert_array_equal(weights[layer].dense.reshape(dense.shape), dense)
        assert weights[layer].integer_input
    full, found = model.encode_image(torch.from_numpy(images)).numpy(), alone(folder, images, place)
    assert (found * full).sum(1).min() > 0.9
    assert "QuantizeLinear" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("openvino-int8-vision", None, "--format openvino"),
        ("ort-int8-vision", "openvino", "--format onnx"),
        ("bnb-nf4-vision", "onnx", "has no form for --format onnx"),
        ("rtn-w4-vision", "openvino", "has no form for --format openvino"),
        ("fp32", None, "--format onnx"),
        ("fp32", "tensorrt", "expected one of onnx, openvino"),
        ("control-noise-vision", "onnx", "to export|needs"),
    ],
)
def test_what_has_no_graph_is_one_line(name: str, form: str | None, said: str, place: Path) -> None:
    with pytest.raises(ReliquantError, match=said):
        write(place, name, form)
    assert not (place / f"{name}-{form}").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rtn-w8a8-channel-token-vision", "the scale of its input is found when it runs"),
        ("rtn-w4-vision", "its weight or its input stays in full precision"),
        ("rtn-w8a6-channel-tensor-vision", "inputs of 6 bits"),
        ("rtn-w8a8-g16-tensor-vision", "groups of 16"),
    ],
)
def test_other_codes_are_refused_with_the_reason(name: str, said: str, place: Path) -> None:
    with pytest.raises(ReliquantError, match=said):
        write(place, name, "onnx")
    assert not (place / f"{name}-onnx").exists()
