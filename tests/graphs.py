"""Small ONNX graphs made by hand, without an exporter."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.testing import LinearTower, TokenTower

OPSET = 18


def onnx_of(tower: LinearTower | TokenTower, batch: int | None) -> Any:
    """The `onnx.ModelProto` of a tower."""
    from onnx import TensorProto, helper, numpy_helper

    rows: int | str = "batch" if batch is None else batch
    if isinstance(tower, LinearTower):
        weight = numpy_helper.from_array(np.ascontiguousarray(tower.weight.numpy().T), "weight")
        nodes = [
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["image_embeds"]),
        ]
        return graph_of(nodes, ("pixels", TensorProto.FLOAT, [rows, 3, 8, 8]), ("image_embeds", [rows, 5]), [weight])
    table = numpy_helper.from_array(tower.table.numpy(), "table")
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["found"]),
        helper.make_node("ReduceMean", ["found", "axis"], ["text_embeds"], keepdims=0),
    ]
    return graph_of(nodes, ("tokens", TensorProto.INT64, [rows, 6]), ("text_embeds", [rows, 5]), [table, axis])


def graph_of(
    nodes: list[Any],
    given: tuple[str, int, list[Any]],
    made: tuple[str, list[Any]],
    weights: list[Any],
    more: list[Any] | None = None,
    domains: tuple[str, ...] = (),
) -> Any:
    """A model of nodes with one input and one output of float32; `more` inputs, operators of other `domains`."""
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info(*given), *(more or [])]
    output = helper.make_tensor_value_info(made[0], TensorProto.FLOAT, made[1])
    graph = helper.make_graph(nodes, "tower", inputs, [output], weights)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
