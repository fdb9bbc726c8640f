"""ONNX graphs quantized by onnxruntime: int8 weights, and activations with dynamic or calibrated ranges.

- `ort-int8`: `quantize_dynamic`. Weights int8, inputs uint8 with the range of the whole tensor, found when the model
  runs. That range spans a batch, so each image runs alone: no image's features depend on its neighbours.
- `ort-int8-static`: `quantize_static`, pairs of QuantizeLinear and DequantizeLinear. Weights int8, inputs uint8 with
  ranges from the calibration data.

Options have onnxruntime's names without underscores. On CPUs without VNNI products of uint8 and int8 may saturate 16
bits: give `reducerange_true` there. Needs the extra `reliquant[onnx]`. Source: github.com/microsoft/onnxruntime,
`onnxruntime.quantization`. Paper: Jacob et al., 2018 (arXiv 1712.05877).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark.quantization.base import COMMON_FIELDS, Options, TowerJob
from benchmark.quantization.graphs.graph import quiet
from benchmark.quantization.graphs.onnx import nodes_of
from benchmark.quantization.graphs.quantizer import GraphQuantizer
from benchmark.quantization.graphs.towers import INPUTS

Sign = Literal["QInt8", "QUInt8"]
_OPERATIONS = ["MatMul", "Gemm", "Conv"]


class DynamicOptions(Options):
    """Of `quantize_dynamic`; `perchannel` is on here, off in onnxruntime."""

    perchannel: bool = True
    reducerange: bool = False
    weighttype: Sign = "QInt8"


class StaticOptions(Options):
    """Of `quantize_static`; `perchannel` is on here. `matmulconstbonly` leaves attention's own products in float."""

    calibratemethod: Literal["MinMax", "Entropy", "Percentile"] = "MinMax"
    activationtype: Sign = "QUInt8"
    weighttype: Sign = "QInt8"
    perchannel: bool = True
    reducerange: bool = False
    matmulconstbonly: bool = True


@dataclass(frozen=True)
class Ort(GraphQuantizer):
    """A method of onnxruntime."""

    def quantize_graph(
        self, source: Path, target: Path, skipped: tuple[str, ...], data: list[Any], job: TowerJob
    ) -> None:
        """Read, quantize, save."""
        with quiet(f"quantization '{job.spec.name}': onnxruntime on the {job.tower} tower"):
            large = (source.parent / f"{source.name}.data").exists()
            self.apply(source, target, nodes_of(source, skipped), data, job, large)

    def apply(
        self, source: Path, target: Path, skipped: list[str], data: list[Any], job: TowerJob, large: bool
    ) -> None:
        """Write the quantized graph; `large`: weights lie in a file beside it."""
        raise NotImplementedError


class Dynamic(Ort):
    """`quantize_dynamic`."""

    options = DynamicOptions

    def apply(
        self, source: Path, target: Path, skipped: list[str], data: list[Any], job: TowerJob, large: bool
    ) -> None:
        """int8 weights, ranges of inputs when the model runs."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        options = self.read_options(job.spec, DynamicOptions)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=_OPERATIONS,
            per_channel=options.perchannel,
            reduce_range=options.reducerange,
            weight_type=QuantType[options.weighttype],
            nodes_to_exclude=skipped,
            use_external_data_format=large,
            extra_options={"MatMulConstBOnly": True},
        )


class Static(Ort):
    """`quantize_static`."""

    options = StaticOptions

    def apply(
        self, source: Path, target: Path, skipped: list[str], data: list[Any], job: TowerJob, large: bool
    ) -> None:
        """int8 weights and activations, as QDQ nodes."""
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        options = self.read_options(job.spec, StaticOptions)
        quantize_static(
            source,
            target,
            _reader(INPUTS[job.tower], data),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATIONS,
            per_channel=options.perchannel,
            reduce_range=options.reducerange,
            activation_type=QuantType[options.activationtype],
            weight_type=QuantType[options.weighttype],
            nodes_to_exclude=skipped,
            use_external_data_format=large,
            calibrate_method=CalibrationMethod[options.calibratemethod],
            extra_options={"MatMulConstBOnly": options.matmulconstbonly},
        )


def _reader(name: str, data: list[Any]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Any] = iter(data)

        def get_next(self) -> Any:
            found = next(self.left, None)
            return None if found is None else {name: found}

    return Reader()


def _made(kind: type[Ort], name: str, title: str, **more: Any) -> Ort:
    where: dict[str, Any] = {"runtime": "onnx", "modules": ("onnx", "onnxscript", "onnxruntime"), "extra": "onnx"}
    paper = "Jacob et al. 2018, arXiv 1712.05877"
    return kind(name, 1, title, paper, COMMON_FIELDS | {"options"}, ("cpu",), "real", **where, **more)


dynamic = _made(Dynamic, "ort-int8", "onnxruntime int8 weights, dynamic activations")
static = _made(Static, "ort-int8-static", "onnxruntime int8, calibrated activations", needs_calibration=True)
