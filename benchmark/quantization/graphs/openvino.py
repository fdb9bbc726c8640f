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
from benchmark.quantization.graphs.towers import INPUTS, TowerModule, example, layer_weights
from benchmark.quantization.graphs.weights import GraphWeight, granularity, matched
from benchmark.spec import Tower

VERSION = 1
"""Raise it when the same tower can become another graph."""
STEMS: dict[Tower, str] = {"vision": "visual", "text": "text"}
_LAYER = re.compile(r"__module\.module\.(.+?)/aten::")
_PRODUCTS = ("MatMul", "Convolution", "GroupConvolution")
_MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Convert", "StridedSlice", "Slice", "VariadicSplit", "Split"}
"""Operations that move values and keep them: integer codes pass through them."""
_INNER = ("MatMul", "ScaledDotProductAttention")
_MADE_UP = re.compile(r"([A-Z][A-Za-z0-9]*?)_\d+(.*)$")
"""A name that OpenVINO made up: the type of an operation and a number."""
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
        _keep_reduced(graph)
        _name_layers(graph, model, tower)
        return save(graph, folder, STEMS[tower])


def save(graph: Any, folder: Path, stem: str) -> Path:
    """Write a model as IR with all its floats in float32.

    Names that OpenVINO made up count through a process: they are counted anew, so that equal models are equal files.
    """
    for number, node in enumerate(graph.get_ordered_ops()):
        match = _MADE_UP.match(node.get_friendly_name())
        if match is not None:
            node.set_friendly_name(f"{match[1]}_{number}{match[2]}")
    graph.set_friendly_name(stem)
    path = folder / f"{stem}.xml"
    library().save_model(graph, path, compress_to_fp16=False)
    return path


def _keep_reduced(graph: Any) -> None:
    """Let every mean and sum keep the axes that it reduces, and squeeze them afterwards.

    OpenVINO 2026.4 fuses a product per channel and a FakeQuantize into a reduction before them, and with fewer axes
    takes the factors of wrong channels: half of the output is wrong (a test shows it).
    """
    from openvino import opset13

    makers = {"ReduceMean": opset13.reduce_mean, "ReduceSum": opset13.reduce_sum, "ReduceMax": opset13.reduce_max}
    for node in graph.get_ordered_ops():
        make = makers.get(node.get_type_name())
        if make is None or node.get_attributes()["keep_dims"]:
            continue
        readers, axes = list(node.output(0).get_target_inputs()), node.input_value(1)
        kept = make(node.input_value(0), axes, keep_dims=True, name=node.get_friendly_name())
        flat = opset13.squeeze(kept, axes)
        for reader in readers:
            reader.replace_source_output(flat.output(0))


def _name_layers(graph: Any, model: ClipModel, tower: Tower) -> None:
    """Name every product and convolution with a weight after its layer, `LAYER@2` for the layer's second call."""
    nodes = [node for node in graph.get_ordered_ops() if node.get_type_name() in _PRODUCTS and _constants(node)]
    said = [match[1] if (match := _LAYER.match(node.get_friendly_name())) else None for node in nodes]
    core = library().Core()
    layers = matched(
        layer_weights(model, tower), said, [_rows(node, _value(core, node.input_value(1))) for node in nodes]
    )
    calls: dict[str, int] = {}
    for node, layer in zip(nodes, layers, strict=True):
        if layer is not None:
            calls[layer] = calls.get(layer, 0) + 1
            node.set_friendly_name(layer if calls[layer] == 1 else f"{layer}@{calls[layer]}")


def read_weights(path: Path) -> dict[str, GraphWeight]:
    """The weights of the matrix products and convolutions of a model, by the names of the layers they come from."""
    core = library().Core()
    found: dict[str, GraphWeight] = {}
    for node in core.read_model(path).get_ordered_ops():
        if node.get_type_name() in _PRODUCTS and (leaves := _constants(node)):
            found.setdefault(_layer(node), _weight(core, node, leaves))
    return found


def operations(path: Path) -> dict[str, list[str]]:
    """Layer -> names of its matrix products and convolutions in a model, as an ignored scope wants them."""
    found: dict[str, list[str]] = {}
    for node in library().Core().read_model(path).get_ordered_ops():
        if node.get_type_name() in _PRODUCTS:
            found.setdefault(_layer(node), []).append(node.get_friendly_name())
    return found


def attention_products(path: Path) -> tuple[int, int]:
    """How many products of two computed tensors take integer codes on both sides, and how many there are."""
    products = [node for node in library().Core().read_model(path).get_ordered_ops() if node.get_type_name() in _INNER]
    codes = [
        all(_source(node.input_value(side).get_node())[0] for side in (0, 1))
        for node in products
        if not _constants(node)
    ]
    return sum(codes), len(codes)


def _layer(node: Any) -> str:
    return str(node.get_friendly_name()).partition("@")[0]


def _constants(node: Any) -> list[Any]:
    """The constants of a node's second input; none where it depends on the graph's inputs."""
    leaves = list(_leaves(node.input_value(1).get_node()))
    return [] if None in leaves else leaves


def _rows(node: Any, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """A weight with its output channels first."""
    if node.get_type_name() == "MatMul":
        return weight if node.get_attributes()["transpose_b"] else weight.T
    return weight.reshape(-1, *weight.shape[2:]) if node.get_type_name() == "GroupConvolution" else weight


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


def _weight(core: Any, node: Any, leaves: list[Any]) -> GraphWeight:
    codes = max(leaves, key=lambda leaf: int(np.prod(leaf.shape)))
    kind = codes.get_element_type()
    integer, smooth = _source(node.input_value(0).get_node())
    dense = _rows(node, _value(core, node.input_value(1)))
    if smooth is not None:
        dense = dense * smooth.reshape(1, -1, *[1] * (dense.ndim - 2))
    scales = [int(np.prod(leaf.shape)) for leaf in leaves if leaf is not codes and leaf.get_element_type().is_real()]
    return GraphWeight(
        dense=dense,
        bits=int(kind.bitwidth),
        granularity=granularity(max(scales, default=1), len(dense), dense.size),
        stored_bits=sum(int(np.prod(leaf.shape)) * int(leaf.get_element_type().bitwidth) for leaf in leaves),
        integer_input=integer and not kind.is_real(),
    )


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


def _value(core: Any, output: Any) -> NDArray[np.float32]:
    """The value of an output that depends on constants alone, as the runtime computes it."""
    from openvino import opset13

    node = output.get_node()
    if node.get_type_name() == "Constant":
        return np.array(node.data, np.float32)
    graph = library().Model([opset13.result(output)], [])
    return np.array(core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([])[0], np.float32)
