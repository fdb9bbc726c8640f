"""Towers as ONNX files: exported by torch, layers found by name, and read back.

`torch.onnx.export` folds transposes into new constants, so that a weight loses its name; each node still says which
module it comes from. Nodes with a weight are therefore renamed to the layer, and the weight to `LAYER.weight`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.models.base import ClipModel
from benchmark.quantization.graphs.graph import FEATURES, quiet
from benchmark.quantization.graphs.openvino import STEMS
from benchmark.quantization.graphs.towers import INPUTS, TowerModule, example, layer_weights
from benchmark.quantization.graphs.weights import GraphWeight, granularity, matched
from benchmark.spec import Tower

VERSION = 1
"""Raise it when the same tower can become another graph."""
OPSET = 21
LARGEST_BATCH = 4096
EXTERNAL_BYTES = 1_500_000_000
"""From so many bytes on weights lie in a file beside the graph: one message of protobuf holds 2 GiB."""
_PREFIX = "module."
_PRODUCTS = ("MatMul", "Gemm", "Conv")
_INTEGER = ("MatMulInteger", "ConvInteger")
_MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Flatten"}
_ADDED = re.compile(r"(_MatMul)?(_quant)?$")
"""What onnxruntime appends to the name of a node that it replaces."""


def convert(model: ClipModel, tower: Tower, folder: Path, full: ClipModel | None = None) -> Path:
    """Write a tower; returns the path of its `.onnx`.

    Args:
        full: the model whose layers nodes are named after, where `model` has others in their place.

    Raises:
        QuantizationError: torch cannot export it.
    """
    import torch

    inputs = example(model, tower)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with quiet(f"{model.name}: exporting the {tower} tower to ONNX"), torch.no_grad():
        program = torch.onnx.export(
            TowerModule(model, tower).eval(),
            (inputs,),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=[INPUTS[tower]],
            output_names=[FEATURES],
            opset_version=OPSET,
            verbose=False,
        )
        proto = program.model_proto  # type: ignore[union-attr]
        _name_layers(proto, full or model, tower)
        return save(proto, folder, STEMS[tower])


def save(proto: Any, folder: Path, stem: str) -> Path:
    """Write a graph; a large one's weights to a file beside it."""
    import onnx

    path = folder / f"{stem}.onnx"
    large = sum(len(tensor.raw_data) for tensor in proto.graph.initializer) > EXTERNAL_BYTES
    onnx.save(proto, path, save_as_external_data=large, location=f"{path.name}.data")
    return path


def _name_layers(proto: Any, model: ClipModel, tower: Tower) -> None:
    """Name every node with a weight after its layer, `LAYER@2` for the layer's second call, and its weight too."""
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    makers = {output: node for node in proto.graph.node for output in node.output}
    found = [(n, w) for n in proto.graph.node if n.op_type in _PRODUCTS and (w := _weight(n, weights, makers))]
    nodes, dense = [node for node, _ in found], [weight.dense for _, weight in found]
    layers = matched(layer_weights(model, tower), [_layer(node) for node in nodes], dense)
    calls: dict[str, int] = {}
    renamed: dict[str, str] = {}
    for node, layer in zip(nodes, layers, strict=True):
        if layer is not None:
            calls[layer] = calls.get(layer, 0) + 1
            node.name = layer if calls[layer] == 1 else f"{layer}@{calls[layer]}"
            if node.input[1] in weights:
                renamed.setdefault(node.input[1], f"{layer}.weight")
    taken = set(weights) - set(renamed)
    renamed = {old: new for old, new in renamed.items() if new not in taken}
    for tensor in proto.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in proto.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _rows(node: Any, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """A weight with its output channels first."""
    return weight if "Conv" in node.op_type or _transposed(node) else weight.T


def _layer(node: Any) -> str | None:
    """The module that a node comes from, by its name in the model."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(entry.value)
            if len(scopes) > 1 and scopes[-2].startswith(_PREFIX):
                return str(scopes[-2].removeprefix(_PREFIX))
    return None


def nodes_of(path: Path, layers: tuple[str, ...]) -> list[str]:
    """Names of the nodes that compute layers."""
    import onnx

    names = [node.name for node in onnx.load(path, load_external_data=False).graph.node]
    return [name for name in names if name.partition("@")[0] in layers]


def read_weights(path: Path) -> dict[str, GraphWeight]:
    """The weights of the matrix products and convolutions of a graph, by the names of the layers they come from."""
    import onnx

    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    found: dict[str, GraphWeight] = {}
    for node in graph.node:
        if node.op_type in (*_PRODUCTS, *_INTEGER) and (weight := _weight(node, tensors, makers)) is not None:
            found.setdefault(_ADDED.sub("", node.name).partition("@")[0], weight)
    return found


def _weight(node: Any, tensors: Mapping[str, Any], makers: Mapping[str, Any]) -> GraphWeight | None:
    """The weight of a node; None where both of its inputs are computed."""
    name = node.input[1]
    if node.op_type in _INTEGER:
        scale = name.removesuffix("_quantized") + "_scale"
        return None if name not in tensors else _codes(node, tensors, (name, scale, node.input[3]), True)
    if name in tensors:
        dense = _array(tensors[name])
        rows = _rows(node, np.asarray(dense, np.float32))
        return GraphWeight(rows, 8 * dense.itemsize, "tensor", 8 * dense.nbytes, False)
    maker = makers.get(name)
    if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in tensors:
        return None
    return _codes(node, tensors, tuple(maker.input), _is_integer(node.input[0], makers))


def _codes(node: Any, tensors: Mapping[str, Any], names: tuple[str, ...], integer: bool) -> GraphWeight:
    codes, scale = (_array(tensors[name]) for name in names[:2])
    zero = _array(tensors[names[2]]) if len(names) > 2 and names[2] else np.zeros_like(scale)
    rows = _rows(node, codes).astype(np.float32)
    column = (-1, *[1] * (rows.ndim - 1))
    dense = (rows - zero.astype(np.float32).reshape(column)) * scale.reshape(column)
    stored = sum(8 * array.nbytes for array in (codes, scale, zero))
    grain = granularity(scale.size, len(rows), codes.size)
    return GraphWeight(np.asarray(dense, np.float32), 8 * codes.itemsize, grain, stored, integer)


def _array(tensor: Any) -> NDArray[Any]:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


def _transposed(node: Any) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _is_integer(name: str, makers: Mapping[str, Any]) -> bool:
    """Whether an input comes as integer codes."""
    while (maker := makers.get(name)) is not None:
        if maker.op_type == "DequantizeLinear":
            return True
        if maker.op_type not in _MOVES:
            return False
        name = maker.input[0]
    return False
