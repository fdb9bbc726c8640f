"""ONNX files and IR: what is refused before anything runs, each in one line; and what a graph does to rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.engine.artifacts import check_pixels, check_tokens
from benchmark.errors import ArtifactError
from benchmark.runtimes import onnx as onnx_runtime
from benchmark.runtimes import openvino as openvino_runtime
from benchmark.runtimes.base import Port, Session
from benchmark.testing import LinearTower
from tests.graphs import graph_of, onnx_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RUNTIME = onnx_runtime.runtime
WEIGHT = np.eye(4, 3, dtype=np.float32)


def one_line(error: pytest.ExceptionInfo[ArtifactError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def written(folder: Path, model: Any, **options: Any) -> Path:
    path = folder / "visual.onnx"
    onnx.save(model, path, **options)
    return path


def matmul(**fields: Any) -> Any:
    """Rows (B, 4) @ WEIGHT, as a graph of which parts can be changed."""
    nodes = [helper.make_node("MatMul", ["pixels", "weight"], ["image_embeds"])]
    given = fields.pop("given", ("pixels", TensorProto.FLOAT, ["batch", 4]))
    made = fields.pop("made", ("image_embeds", ["batch", 3]))
    return graph_of(fields.pop("nodes", nodes), given, made, [numpy_helper.from_array(WEIGHT, "weight")], **fields)


def test_unknown_operators_are_refused_and_no_library_is_loaded(tmp_path: Path) -> None:
    nodes = [helper.make_node("Attention9", ["pixels", "weight"], ["image_embeds"], domain="com.chip")]
    path = written(tmp_path, matmul(nodes=nodes, domains=("com.chip",)))
    (tmp_path / "libchip.so").write_bytes(b"not loaded")
    with pytest.raises(ArtifactError, match="Attention9") as error:
        RUNTIME.open(path, "cpu")
    assert "visual.onnx" in one_line(error)
    pytest.importorskip("openvino")
    with pytest.raises(ArtifactError, match="Attention9") as error:
        openvino_runtime.runtime.open(path, "cpu")
    assert "visual.onnx" in one_line(error)


@pytest.mark.parametrize("runtime", [RUNTIME, openvino_runtime.runtime], ids=lambda each: each.name)
@pytest.mark.parametrize("place", ["../secret.bin", "/etc/hostname", "folder/../../secret.bin"])
def test_external_data_outside_the_folder_is_not_read(runtime: Any, place: str, tmp_path: Path) -> None:
    inside = tmp_path / "model"
    (inside / "folder").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    path = written(inside, matmul(), save_as_external_data=True, location="weight.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = place
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="lie outside its folder") as error:
        runtime.open(path, "cpu")
    assert place in one_line(error)


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    path = written(inside, matmul(), save_as_external_data=True, location="weight.bin", size_threshold=0)
    (inside / "weight.bin").rename(tmp_path / "weight.bin")
    (inside / "weight.bin").symlink_to(tmp_path / "weight.bin")
    with pytest.raises(ArtifactError, match="lie outside its folder"):
        RUNTIME.files(path)


@pytest.mark.parametrize("where", ["branch", "attribute", "function"])
def test_external_data_are_found_wherever_they_hide(where: str, tmp_path: Path) -> None:
    """A constant of a branch or of a function may have its data elsewhere, too."""
    constant = numpy_helper.from_array(WEIGHT, "inner")
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="../secret.bin")
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [4, 3])],
        [constant],
    )
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    nodes = [yes, helper.make_node("If", ["yes"], ["image_embeds"], then_branch=branch, else_branch=branch)]
    inner = helper.make_node("Constant", [], ["image_embeds"], value=constant)
    if where == "attribute":
        nodes = [inner]
    elif where == "function":
        nodes = [helper.make_node("Hidden", [], ["image_embeds"], domain="own")]
    model = matmul(nodes=nodes, domains=("own",))
    if where == "function":
        made = helper.make_function("own", "Hidden", [], ["image_embeds"], [inner], [helper.make_opsetid("", 18)])
        model.functions.append(made)
    path = tmp_path / "visual.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"secret\.bin' lie outside its folder"):
        RUNTIME.files(path)


@pytest.mark.parametrize("runtime", [RUNTIME, openvino_runtime.runtime], ids=lambda each: each.name)
def test_missing_parts_are_named(runtime: Any, tmp_path: Path) -> None:
    path = written(tmp_path, matmul(), save_as_external_data=True, location="weight.bin", size_threshold=0)
    (tmp_path / "weight.bin").unlink()
    with pytest.raises(ArtifactError, match=r"'weight\.bin' are missing\. Put that file into"):
        runtime.open(path, "cpu")


def test_weights_of_an_ir_that_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "visual.xml").write_text("<net/>")
    with pytest.raises(ArtifactError, match=r"its weights are missing\. Put visual\.bin beside it"):
        openvino_runtime.runtime.files(tmp_path / "visual.xml")


def test_an_ir_that_is_none_is_not_tried_as_something_else(tmp_path: Path) -> None:
    (tmp_path / "visual.bin").write_bytes(b"")
    (tmp_path / "visual.xml").write_bytes(b"\x80\x04.")
    with pytest.raises(ArtifactError, match=r"visual\.xml: not an OpenVINO IR"):
        openvino_runtime.runtime.open(tmp_path / "visual.xml", "cpu")


def test_a_graph_with_both_towers_is_refused(tmp_path: Path) -> None:
    tokens = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", 77])
    with pytest.raises(ArtifactError, match=r"it has 2 inputs \(pixels .*; input_ids .*\); a tower has one"):
        RUNTIME.open(written(tmp_path, matmul(more=[tokens])), "cpu")


def test_the_mask_beside_tokens_is_all_ones() -> None:
    class Sum(Session):
        def compute(self, feed: Any) -> Any:
            return feed["input_ids"] * feed["attention_mask"]

    ports = [Port(name, (None, 3), "int64") for name in ("input_ids", "attention_mask")]
    found = Sum(ports, [Port("text_embeds", (None, 3), "float32")], "text.onnx").run(np.array([[5, 6, 0]]))
    np.testing.assert_array_equal(found, [[5, 6, 0]])


class Fake(Session):
    """Never runs."""

    def compute(self, feed: Any) -> Any:
        raise AssertionError("it ran")


def fake(shape: tuple[int | None, ...], dtype: str) -> Session:
    return Fake([Port("pixels", shape, dtype)], [Port("image_embeds", (None, 4), "float32")], "visual.onnx")


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((None, 3, 240, 240), "float32", r"\(\?, 3, 240, 240\), but tiny takes \(batch, 3, 224, 224\)"),
        ((None, 224, 224, 3), "float32", "layout NHWC, expected NCHW"),
        ((None, 1, 224, 224), "float32", r"but tiny takes \(batch, 3, 224, 224\)"),
        ((None, 3, None, None), "float32", "has a free axis beside the batch"),
        ((None, 3, 224, 224), "uint8", "takes uint8; it gets float32 or float16 normalised pixels"),
        ((None, 3, 224, 224), "float64", "takes float64"),
        ((None, 77), "int64", "takes tokens, not pixels"),
        ((None, 4), "float32", r"\(\?, 4\), but tiny takes"),
    ],
)
def test_pixels_that_do_not_fit(shape: tuple[int | None, ...], dtype: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=says) as error:
        check_pixels(fake(shape, dtype), (224, 224), "tiny")
    assert one_line(error).startswith("visual.onnx: ")


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((None, 32), "int64", r"\(\?, 32\), but tiny has 77 tokens a text"),
        ((None, 77), "float32", "takes float32; it gets int64 or int32 tokens"),
        ((None, 3, 8, 8), "float32", "takes pixels, not tokens"),
    ],
)
def test_tokens_that_do_not_fit(shape: tuple[int | None, ...], dtype: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=says) as error:
        check_tokens(fake(shape, dtype), 77, "tiny")
    assert "text" in one_line(error) or "tokens" in one_line(error)


@pytest.mark.parametrize("shape", [(None, 3, 224, 224), (1, 3, 224, 224), (8, 3, 224, 224), ()])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pixels_that_fit(shape: tuple[int | None, ...], dtype: str) -> None:
    check_pixels(fake(shape, dtype), (224, 224), "tiny")


def test_which_output_is_the_embedding() -> None:
    def session(*outputs: Port) -> Session:
        return Fake([Port("pixels", (None, 4), "float32")], outputs, "visual.onnx")

    tokens, pooled = Port("last_hidden_state", (None, 50, 4), "float32"), Port("pooler_output", (None, 4), "float32")
    embeds = Port("image_embeds", (None, 3), "float32")
    assert session(tokens, pooled).output == pooled
    assert session(tokens, pooled, embeds).output == embeds
    for outputs in ((tokens,), (pooled, Port("other", (None, 4), "float32"))):
        with pytest.raises(ArtifactError, match="which is the embedding"):
            session(*outputs)


def dynamic(tower: LinearTower) -> Any:
    """A tower whose activations are quantized with one scale for the whole batch, as `quantize_dynamic` does it."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode

    quantizer = ONNXQuantizer(
        onnx_of(tower, None), False, False, QuantizationMode.IntegerOps, False, QuantType.QInt8, QuantType.QUInt8,
        None, [], [], ["MatMul"], {"DefaultTensorType": TensorProto.FLOAT},
    )  # fmt: skip
    quantizer.quantize_model()
    return quantizer.model.model


@pytest.mark.parametrize("open_it", [RUNTIME.open, openvino_runtime.runtime.open], ids=["onnx", "openvino"])
def test_dynamic_quantization_of_a_batch_runs_row_by_row(open_it: Callable[..., Session], tmp_path: Path) -> None:
    """Otherwise the features of an image would depend on the batch size and on its neighbours."""
    session = open_it(written(tmp_path, dynamic(LinearTower())), "cpu")
    assert session.alone
    inputs = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    inputs[1:] *= 100
    np.testing.assert_array_equal(session.run(inputs)[0], session.run(inputs[:1])[0])
