"""Towers as OpenVINO models: converted from torch, saved as IR, and read back.

Floats are stored as float32: `save_model` would round them to float16. Conversion traces the tower with torch.jit, as
`openvino.convert_model` does; batch stays free, the other axes are fixed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.models.base import ClipModel
from benchmark.quantization.graphs.graph import FEATURES, quiet
from benchmark.quantization.graphs.towers import INPUTS, TowerModule, example
from benchmark.quantization.graphs.weights import GraphWeight, granularity
from benchmark.spec import Tower

VERSION = 1
"""Raise it when the same tower can become another graph."""
STEMS: dict[Tower, str] = {"vision": "visual", "text": "text"}
_LAYER = re.compile(r"__module\.module\.(.+?)/aten::")
_PRODUCTS = ("MatMul", "Convolution", "GroupConvolution")
_MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Convert", "StridedSlice", "Slice", "VariadicSplit", "Split"}
"""Operations that move values and keep them: integer codes pass through them."""
_SMOOTH = "nncf_smooth_quant"


def library() -> Any:
    """The module `openvino`, which sends nothing home."""
    import openvino
    from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker

    OptInChecker.check = lambda *_, **__: ConsentCheckResult.DECLINED
    return openvino


def convert(model: ClipModel, tower: Tower, folder: Path) -> Path:
    """Write a tower in full precision; returns the path of its `.xml`.

    Raises:
        QuantizationError: OpenVINO cannot convert it.
    """
    ov, inputs = library(), example(model, tower)
    with quiet(f"{model.name}: converting the {tower} tower to OpenVINO"):
        graph = ov.convert_model(TowerModule(model, tower).eval(), example_input=inputs)
        port = graph.inputs[0]
        port.tensor.set_names({INPUTS[tower]})
        graph.outputs[0].tensor.set_names({FEATURES})
        graph.reshape({port: ov.PartialShape([-1, *inputs.shape[1:]])})
    return save(graph, folder, STEMS[tower])


def save(graph: Any, folder: Path, stem: str) -> Path:
    """Write a model as IR with all its floats in float32."""
    path = folder / f"{stem}.xml"
    library().save_model(graph, path, compress_to_fp16=False)
    return path


def read_weights(path: Path) -> dict[str, GraphWeight]:
    """The weights of the matrix products and convolutions of a model, by the names of the layers they come from."""
    ov = library()
    core = ov.Core()
    found: dict[str, GraphWeight] = {}
    for node in core.read_model(path).get_ordered_ops():
        match = _LAYER.match(node.get_friendly_name())
        if match is None or node.get_type_name() not in _PRODUCTS:
            continue
        weight = node.input_value(1)
        leaves = list(_leaves(weight.get_node()))
        if leaves and all(leaf is not None for leaf in leaves):
            found.setdefault(match[1], _weight(ov, core, node, leaves))
    return found


def operations(path: Path) -> dict[str, list[str]]:
    """Layer -> names of its matrix products and convolutions in a model, as an ignored scope wants them."""
    found: dict[str, list[str]] = {}
    for node in library().Core().read_model(path).get_ordered_ops():
        match = _LAYER.match(node.get_friendly_name())
        if match is not None and node.get_type_name() in _PRODUCTS:
            found.setdefault(match[1], []).append(node.get_friendly_name())
    return found


def attention_products(path: Path) -> tuple[int, int]:
    """How many products of two computed tensors take integer codes on both sides, and how many there are."""
    products = [node for node in library().Core().read_model(path).get_ordered_ops() if node.get_type_name() == "MatMul"]
    inner = [n for n in products if None in list(_leaves(n.input_value(1).get_node()))]
    return sum(all(_source(n.input_value(side).get_node())[0] for side in (0, 1)) for n in inner), len(inner)


def _leaves(node: Any) -> Iterator[Any]:
    """The constants that a value is computed from; None among them where it depends on an input."""
    if node.get_type_name() == "Constant":
        yield node
    elif node.get_type_name() == "Parameter" or node.get_input_size() == 0:
        yield None
    else:
        for place in range(node.get_input_size()):
            for leaf in _leaves(node.input_value(place).get_node()):
                yield leaf
                if leaf is None:
                    return


def _weight(ov: Any, core: Any, node: Any, leaves: list[Any]) -> GraphWeight:
    codes = max(leaves, key=lambda leaf: int(np.prod(leaf.shape)))
    kind = codes.get_element_type()
    weights, channels = int(np.prod(codes.shape)), _channels(node)
    integer, smooth = _source(node.input_value(0).get_node())
    dense = _value(ov, core, node.input_value(1))
    if smooth is not None:
        dense = dense * _along_inputs(node, smooth)
    scales = [int(np.prod(leaf.shape)) for leaf in leaves if leaf is not codes and leaf.get_element_type().is_real()]
    return GraphWeight(
        dense=dense,
        bits=int(kind.bitwidth),
        granularity=granularity(max(scales, default=1), channels, weights),
        stored_bits=sum(int(np.prod(leaf.shape)) * int(leaf.get_element_type().bitwidth) for leaf in leaves),
        integer_input=integer and not kind.is_real(),
    )


def _channels(node: Any) -> int:
    shape = list(node.input_value(1).get_shape())
    if node.get_type_name() == "MatMul":
        return int(shape[-2] if node.get_attributes()["transpose_b"] else shape[-1])
    return int(shape[0] * shape[1] if node.get_type_name() == "GroupConvolution" else shape[0])


def _along_inputs(node: Any, factor: NDArray[np.float32]) -> NDArray[np.float32]:
    """A factor of the input features of a MatMul, in the shape that multiplies its weight."""
    flat = factor.reshape(-1)
    if node.get_type_name() != "MatMul":
        return flat.reshape(1, -1, 1, 1)
    return flat.reshape(1, -1) if node.get_attributes()["transpose_b"] else flat.reshape(-1, 1)


def _source(node: Any) -> tuple[bool, NDArray[np.float32] | None]:
    """Of a layer's input: whether it comes as integer codes, and the factors that smooth it."""
    integer = False
    while True:
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            integer = True
        elif kind == "Multiply" and _SMOOTH in node.get_friendly_name():
            return integer, np.asarray(node.input_value(1).get_node().data, np.float32)
        elif kind not in _MOVES:
            return integer, None
        node = node.input_value(0).get_node()


def _value(ov: Any, core: Any, output: Any) -> NDArray[np.float32]:
    """The value of an output that depends on constants alone, as the runtime computes it."""
    node = output.get_node()
    if node.get_type_name() == "Constant":
        return np.asarray(node.data, np.float32)
    from openvino import opset13

    compiled = core.compile_model(ov.Model([opset13.result(output)], []), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([])[0], np.float32)
