"""The built-in runtimes pass the contract that a stranger's does; the parquet form of features too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.runtimes import features
from benchmark.runtimes import onnx as onnx_runtime
from benchmark.runtimes import openvino as openvino_runtime
from benchmark.testing import FeatureTableContract, LinearTower, RuntimeContract, TokenTower
from tests.graphs import onnx_of


class TestOnnxContract(RuntimeContract):
    runtime = onnx_runtime.runtime

    def write(self, folder: Path, tower: LinearTower | TokenTower, batch: int | None) -> Path:
        onnx = pytest.importorskip("onnx")
        path = folder / "tower.onnx"
        onnx.save(onnx_of(tower, batch), path)
        return path


class TestOnnxWithExternalData(TestOnnxContract):
    """Weights in a file beside the graph, as large models have them."""

    def write(self, folder: Path, tower: LinearTower | TokenTower, batch: int | None) -> Path:
        onnx = pytest.importorskip("onnx")
        path = folder / "tower.onnx"
        onnx.save(onnx_of(tower, batch), path, save_as_external_data=True, location="tower.data", size_threshold=100)
        return path

    def test_the_weights_are_among_its_files(self, path: Path) -> None:
        assert [file.name for file in self.runtime.files(path)] == ["tower.onnx", "tower.data"]


class TestOpenVinoContract(RuntimeContract):
    runtime = openvino_runtime.runtime

    def write(self, folder: Path, tower: LinearTower | TokenTower, batch: int | None) -> Path:
        openvino = pytest.importorskip("openvino")
        path = folder / "tower.xml"
        model = openvino_runtime.core().read_model(onnx_of(tower, batch).SerializeToString())
        openvino.save_model(model, path, compress_to_fp16=False)
        return path

    def test_the_weights_are_among_its_files(self, path: Path) -> None:
        assert [file.name for file in self.runtime.files(path)] == ["tower.xml", "tower.bin"]


class TestOnnxOnOpenVinoContract(TestOnnxContract):
    """The same files, where an artifact names the other runtime."""

    runtime = openvino_runtime.runtime  # type: ignore[assignment]


class TestFeaturesContract(FeatureTableContract):
    runtime = features.runtime

    def write(self, folder: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
        path = folder / "features.npz"
        np.savez(path, **arrays)
        return path


class TestFeaturesInParquetContract(FeatureTableContract):
    runtime = features.runtime

    def write(self, folder: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        ids, rows = (arrays[name] for name in arrays)
        path = folder / "features.parquet"
        columns = {"image_id": ids.tolist(), "feature": pa.array(list(rows))}
        pq.write_table(pa.table(columns), path, row_group_size=2)
        return path
