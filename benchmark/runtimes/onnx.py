"""ONNX files on onnxruntime. Needs the extra `reliquant[onnx]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from benchmark.errors import ArtifactError
from benchmark.runtimes.base import GraphRuntime, Port, Session, checked, inside

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {"float": "float32", "double": "float64"}
_SILENT = 4
"""onnxruntime's log level: fatal only; what it would print comes with its exception."""
WHOLE_BATCH = "DynamicQuantizeLinear"
"""The operator whose scale is that of the whole batch."""


class OnnxSession(Session):
    """A graph in onnxruntime."""

    def __init__(self, source: Path | bytes, where: str, provider: str, alone: bool) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        given = source if isinstance(source, bytes) else str(source)
        try:
            self._session = onnxruntime.InferenceSession(given, options, providers=[provider])
        except Exception as error:  # it raises classes of its own for each status
            raise ArtifactError(f"{where}: onnxruntime cannot run it: {_reason(error)}") from error
        inputs, outputs = (
            tuple(map(_port, ports)) for ports in (self._session.get_inputs(), self._session.get_outputs())
        )
        super().__init__(inputs, outputs, where, alone)

    def compute(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run it."""
        try:
            found: NDArray[Any] = self._session.run([self.output.name], dict(feed))[0]
        except Exception as error:  # as above
            raise ArtifactError(f"{self.where}: onnxruntime: {_reason(error)}") from error
        return found


@dataclass(frozen=True)
class Onnx(GraphRuntime):
    """onnxruntime on the CPU, or on a GPU where its package has the provider."""

    def check_available(self, device: str) -> None:
        """Check the libraries and the provider."""
        super().check_available(device)
        import onnxruntime

        if self.provider(device) not in onnxruntime.get_available_providers():
            raise ArtifactError(
                f"runtime '{self.name}': this onnxruntime has no {self.provider(device)}. Install onnxruntime-gpu, or "
                "give --device cpu"
            )

    def provider(self, device: str) -> str:
        """onnxruntime's execution provider."""
        return PROVIDERS[device]

    def files(self, path: Path) -> tuple[Path, ...]:
        """The graph, and the files with its external data."""
        graph = read_graph(checked(path), str(path))
        return (path, *(inside(Path(name), path.parent, str(path)) for name in external_data(graph)))

    def open(self, source: Path | bytes, device: str) -> Session:
        """A session of a file or its bytes; bytes hold no external data."""
        where = "the ONNX graph" if isinstance(source, bytes) else str(source)
        if isinstance(source, Path):
            self.files(source)
        graph = read_graph(source, where)
        alone = any(node.op_type == WHOLE_BATCH for node in nodes(graph))
        return OnnxSession(source, where, self.provider(device), alone)


runtime = Onnx(
    name="onnx",
    version=1,
    title="ONNX files on onnxruntime",
    suffixes=(".onnx",),
    extra="onnx",
    modules=("onnx", "onnxruntime"),
    package="onnxruntime",
    runs_on=("cpu", "cuda"),
)


def read_graph(source: Path | bytes, where: str) -> Any:
    """The `onnx.ModelProto` of a file, without its external data.

    Raises:
        ArtifactError: it is no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(source) if isinstance(source, bytes) else _load(source)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{where}: not an ONNX file: {_reason(error)}") from error
    if not model.graph.output:
        raise ArtifactError(f"{where}: not an ONNX file: it has no graph with an output")
    return model


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(str(path), load_external_data=False)


def nodes(model: Any) -> Iterator[Any]:
    """All nodes of a model: of its graph, of the graphs within nodes, and of its functions."""
    yield from (node for graph in graphs(model) for node in graph.node)


def graphs(model: Any) -> Iterator[Any]:
    """The graph of a model, its functions, and every graph within a node of those."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        waiting += [inner for each in attributes for inner in (each.g, *each.graphs) if inner.node or inner.initializer]


def external_data(model: Any) -> list[str]:
    """The files with external data that a model names, as it names them."""
    found = set()
    for graph in graphs(model):
        tensors = list(getattr(graph, "initializer", ()))  # a function has none
        sparse = list(getattr(graph, "sparse_initializer", ()))
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            tensors += [attribute.t, *attribute.tensors]
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
        tensors += [part for each in sparse for part in (each.values, each.indices)]
        found |= {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return sorted(found)


def _port(about: Any) -> Port:
    kind = str(about.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in about.shape or ())
    return Port(about.name, shape, _TYPES.get(kind, kind))


def _reason(error: Exception) -> str:
    """The first line that says something, without onnxruntime's status codes and places in its source."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text.rsplit(" : ", 1)[-1].strip()[:300]
