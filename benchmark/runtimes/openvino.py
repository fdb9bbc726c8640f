"""OpenVINO IR (`.xml` with its `.bin`), and ONNX files where an artifact asks for it, on OpenVINO's CPU plugin.

Activations are computed in float32 where the graph does not say otherwise: OpenVINO's own default is bfloat16 on some
CPUs, and results would depend on the machine. Needs the extra `reliquant[openvino]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.errors import ArtifactError
from benchmark.runtimes import onnx
from benchmark.runtimes.base import GraphRuntime, Port, Session, checked

IR, WEIGHTS, ONNX = ".xml", ".bin", ".onnx"
DEVICE = "CPU"
_ROOT, _HEAD = b"<net", 512
"""What an IR begins with, in its first bytes: OpenVINO would try its readers of other formats on anything else."""
_TYPES = {"f32": "float32", "f16": "float16", "f64": "float64", "i64": "int64", "i32": "int32", "u8": "uint8"}


@cache
def core() -> Any:
    """OpenVINO's core, one a process."""
    import openvino

    return openvino.Core()


class OpenVinoSession(Session):
    """A compiled `openvino.Model`."""

    def __init__(self, model: Any, where: str, alone: bool = False) -> None:
        super().__init__(tuple(map(_port, model.inputs)), tuple(map(_port, model.outputs)), where, alone)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        try:
            self._compiled = core().compile_model(model, DEVICE, settings)
        except Exception as error:  # it raises RuntimeError and classes of its own
            raise ArtifactError(f"{where}: OpenVINO cannot run it: {_reason(error)}") from error
        self._place = self.outputs.index(self.output)

    def compute(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run it."""
        try:
            found = self._compiled([feed[port.name] for port in self.inputs])[self._place]
        except Exception as error:  # as above
            raise ArtifactError(f"{self.where}: OpenVINO: {_reason(error)}") from error
        return np.array(found)  # OpenVINO uses its memory again


@dataclass(frozen=True)
class OpenVino(GraphRuntime):
    """OpenVINO's CPU plugin."""

    def provider(self, device: str) -> str:
        """OpenVINO's device, with the type of its arithmetic."""
        return f"{DEVICE} f32"

    def files(self, path: Path) -> tuple[Path, ...]:
        """The IR with its weights; an ONNX file with its external data."""
        if path.suffix == ONNX:
            _need_onnx(self.name)
            return onnx.runtime.files(path)
        weights = path.with_suffix(WEIGHTS)
        with checked(path).open("rb") as file:
            if _ROOT not in file.read(_HEAD):
                raise ArtifactError(f"{path}: not an OpenVINO IR, which begins with <net>.")
        if not weights.is_file():
            raise ArtifactError(f"{path}: its weights are missing. Put {weights.name} beside it.")
        return path, weights

    def open(self, source: Path | bytes, device: str) -> Session:
        """A session of a file; bytes are those of an ONNX file."""
        alone = False
        where = "the ONNX graph" if isinstance(source, bytes) else str(source)
        if isinstance(source, bytes) or source.suffix == ONNX:
            _need_onnx(self.name)
            alone = any(node.op_type == onnx.WHOLE_BATCH for node in onnx.nodes(onnx.read_graph(source, where)))
        if isinstance(source, Path):
            self.files(source)
        try:
            model = core().read_model(source if isinstance(source, bytes) else str(source))
        except Exception as error:  # it raises RuntimeError and classes of its own
            raise ArtifactError(f"{where}: OpenVINO cannot read it: {_reason(error)}") from error
        return OpenVinoSession(model, where, alone)


runtime = OpenVino(
    name="openvino",
    version=1,
    title="OpenVINO IR on the CPU",
    suffixes=(IR,),
    also=(ONNX,),
    extra="openvino",
    modules=("openvino",),
    package="openvino",
)


def _need_onnx(name: str) -> None:
    if find_spec("onnx") is None:
        raise ArtifactError(
            f"runtime '{name}': onnx, which reads .onnx files, is not installed. Run pip install 'reliquant[onnx]'"
        )


def _port(about: Any) -> Port:
    shape = about.get_partial_shape()
    sizes = () if shape.rank.is_dynamic else tuple(s.get_length() if s.is_static else None for s in shape)
    kind = about.get_element_type().get_type_name()
    return Port(about.get_any_name() if about.get_names() else "(no name)", sizes, _TYPES.get(kind, kind))


def _reason(error: Exception) -> str:
    """What OpenVINO says, without the places in its source."""
    lines = [line.strip().removeprefix("-- ") for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("No conversion rule")]
    said = [line for line in lines if not line.startswith(("Exception from", "Check '", "While validating"))]
    return (named or said or lines or [type(error).__name__])[0][:300]
