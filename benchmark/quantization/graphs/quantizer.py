"""The base of methods that make a tower a graph of another runtime, and quantize it there with that runtime's tools."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.errors import ArtifactError, QuantizationError
from benchmark.models.base import ClipModel
from benchmark.quantization import affine
from benchmark.quantization.base import LayerRecord, Quantizer, TowerJob
from benchmark.quantization.calibrate import Store
from benchmark.quantization.calibration import Calibration
from benchmark.quantization.graphs import onnx, openvino
from benchmark.quantization.graphs.graph import Graph, made, remembered, written
from benchmark.quantization.graphs.towers import InGraph, inputs, with_session
from benchmark.quantization.graphs.weights import GraphWeight
from benchmark.runtimes import GraphRuntime, Session, runtimes
from benchmark.spec import QuantSpec, Tower, digest
from benchmark.utils.progress import Progress

FORMATS = {"onnx": onnx, "openvino": openvino}
"""Runtime -> how towers become its graphs: `convert`, `read_weights`, `VERSION`."""
PACKAGES = {"onnx": ("torch", "onnx", "onnxscript", "onnxruntime"), "openvino": ("torch", "openvino", "nncf")}
"""What makes a graph of each runtime: its versions are in the key under which graphs are kept."""


def runtime_of(name: str, device: str = "cpu") -> GraphRuntime:
    """A runtime that runs graphs.

    Raises:
        QuantizationError: its library is missing, or it does not run on the device.
    """
    runtime = runtimes.get(name)
    if not isinstance(runtime, GraphRuntime):
        raise QuantizationError(f"runtime '{name}' runs no graphs")
    try:
        runtime.check_available(device)
    except ArtifactError as error:
        raise QuantizationError(str(error)) from None
    return runtime


def opened(graph: Graph, runtime: str, device: str = "cpu") -> Session:
    """A session of a graph; its files may go afterwards."""
    with written(graph) as path:
        return runtime_of(runtime, device).open(path, device)


def full_graph(model: ClipModel, tower: Tower, runtime: str, store: Store | None, progress: Progress) -> Graph:
    """A tower in full precision as a graph, kept in the store."""
    form = FORMATS[runtime]
    key = digest(["graph", form.VERSION, runtime, model.digest, tower, _versions(runtime)])
    with progress.phase(f"{runtime}: convert the {tower} tower", 1) as advance:
        graph = remembered(store, key, lambda: made(lambda folder: form.convert(model, tower, folder)))
        advance(1)
    return graph


def in_runtime(
    model: ClipModel, towers: tuple[Tower, ...], runtime: str, store: Store | None, progress: Progress
) -> ClipModel:
    """A model whose towers run in full precision on another runtime."""
    for tower in towers:
        graph = full_graph(model, tower, runtime, store, progress)
        model = with_session(model, tower, opened(graph, runtime))
    return model


def _versions(runtime: str) -> dict[str, str]:
    found = {}
    for name in PACKAGES[runtime]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


@dataclass(frozen=True)
class GraphQuantizer(Quantizer):
    """A method whose quantized tower is a graph.

    Attributes:
        runtime: which runs it. modules: what must be importable beside the runtime's own library; `extra` brings it.
    """

    runtime: str = "openvino"
    modules: tuple[str, ...] = ()
    extra: str = ""
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, nn.Conv2d)
    keeps_taps: ClassVar[bool] = False
    keeps: ClassVar[str] = "LayerNorm, softmax, residual sums, logit scale and bias stay in float32"

    def check_available(self, device: str) -> None:
        """Check that the runtime and the tool that quantizes are installed."""
        from importlib.util import find_spec

        super().check_available(device)
        runtime_of(self.runtime, device)
        if missing := [name for name in self.modules if find_spec(name) is None]:
            raise QuantizationError(
                f"{self.name}: {missing[0]} is not installed. Run pip install 'reliquant[{self.extra}]'"
            )

    @abstractmethod
    def quantize_graph(
        self, source: Path, target: Path, skipped: tuple[str, ...], data: list[Any], job: TowerJob
    ) -> None:
        """Write the quantized form of the graph `source` to `target`.

        Args:
            skipped: layers to leave in full precision. data: calibration inputs of the tower, one array each with a
                batch of 1; empty where the method uses none.
        """

    def subset(self, spec: QuantSpec) -> int:
        """How many calibration inputs are used at most."""
        return 10**9

    def notes(self, path: Path) -> list[str]:
        """Remarks on a quantized graph."""
        return []

    @property
    def graph_version(self) -> int | None:
        """Of the conversion."""
        return int(FORMATS[self.runtime].VERSION)

    def runtime_float(self, model: ClipModel, store: Store | None, progress: Progress) -> ClipModel | None:
        """The model with its image tower in float32 on the same runtime."""
        return in_runtime(model, ("vision",), self.runtime, store, progress)

    def graph(self, job: TowerJob, full: Graph) -> Graph:
        """The quantized tower of a job, made from its graph in full precision; equal jobs get equal files."""
        about = [job.spec.for_tower(job.tower).model_dump(mode="json"), self.version, self._data_digest(job)]
        key = digest(
            ["quantized graph", FORMATS[self.runtime].VERSION, job.model.digest, _versions(self.runtime), about]
        )
        with job.progress.phase(f"{self.name}: quantize the {job.tower} tower", 1) as advance:
            found = remembered(job.statistics, key, lambda: self._quantized(full, job))
            advance(1)
        return found

    def _data_digest(self, job: TowerJob) -> str | None:
        needed = self.requires_calibration(job.spec) and job.calibration is not None
        return job.calibration.digest if needed and job.calibration else None

    def _quantized(self, full: Graph, job: TowerJob) -> Graph:
        data: list[NDArray[Any]] = []
        if self.requires_calibration(job.spec):
            data = list(inputs(job.model, job.tower, _data(job), self.subset(job.spec)))

        def make(folder: Path) -> Path:
            with written(full) as source:
                target = folder / source.name
                self.quantize_graph(source, target, tuple(job.skipped), data, job)
            return target

        return made(make)

    def quantize_tower(self, job: TowerJob) -> list[LayerRecord]:
        """Put the session of the quantized graph in the tower's place; the records are read from the graph."""
        if not job.targets:
            return []
        full = full_graph(job.model, job.tower, self.runtime, job.statistics, job.progress)
        graph, reader = self.graph(job, full), FORMATS[self.runtime].read_weights
        with written(full) as path:
            before = reader(path)
        with written(graph) as path:
            after = reader(path)
            job.notes += self.notes(path)
            session = runtime_of(self.runtime).open(path, job.model.device.type)
        records = [record for name in list(job.targets) if (record := self._record(job, name, before, after))]
        if not records:
            reason = next(iter(job.skipped.values()), "its graph holds no integer weight")
            raise QuantizationError(
                f"quantization '{job.spec.name}' replaced no layer of the {job.tower} tower: {reason}"
            )
        for record in records:
            job.replace(record.name, InGraph())
        job.model = with_session(job.model, job.tower, session)
        job.graphs[job.tower] = graph
        return records

    def _record(
        self, job: TowerJob, name: str, before: dict[str, GraphWeight], after: dict[str, GraphWeight]
    ) -> LayerRecord | None:
        """What the graph says of one layer; one that it leaves in full precision is skipped, with the reason."""
        target, found = job.targets[name], after.get(name)
        if found is None or name not in before:
            job.skipped[name] = f"{self.name}: no product of its own in the graph"
        elif not found.quantized:
            job.skipped[name] = f"{self.name} left it in full precision"
        else:
            original, dense = (torch.from_numpy(np.array(w.dense)) for w in (before[name], found))
            relative, sqnr = affine.error(original, dense.reshape(original.shape))
            kind, shape = type(target.layer).__name__, tuple(target.layer.weight.shape)
            engine = f"{self.runtime}-{found.arithmetic}"
            return LayerRecord(
                name, kind, shape, found.bits, found.granularity, found.stored_bits, relative, sqnr, engine
            )
        return None


def _data(job: TowerJob) -> Calibration:
    if job.calibration is None:
        raise QuantizationError(f"quantization '{job.spec.name}' needs calibration data")
    return job.calibration
