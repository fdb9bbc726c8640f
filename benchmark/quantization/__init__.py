"""Post-training quantization: one method per file, an affine reference in plain torch, and the QuantizationReport."""

from __future__ import annotations

from benchmark.quantization.affine import QuantizedWeight, Scheme
from benchmark.quantization.apply import check_model, parse, quantize, quantizers, requires_calibration
from benchmark.quantization.base import (
    ACTIVATION_FIELDS,
    COMMON_FIELDS,
    WEIGHT_FIELDS,
    LayerRecord,
    Options,
    Quantizer,
    Target,
    TowerJob,
)
from benchmark.quantization.calibration import Calibration
from benchmark.quantization.kernels.int8 import cpu_capability, int8_available
from benchmark.quantization.kernels.selection import integer_engine
from benchmark.quantization.observers import Observer, Seen
from benchmark.quantization.report import QuantizationReport, TowerReport
from benchmark.quantization.simulated import Prepared, Simulated
from benchmark.quantization.state import LayerState

__all__ = [
    "ACTIVATION_FIELDS",
    "COMMON_FIELDS",
    "WEIGHT_FIELDS",
    "Calibration",
    "LayerRecord",
    "LayerState",
    "Observer",
    "Options",
    "Prepared",
    "QuantizationReport",
    "QuantizedWeight",
    "Quantizer",
    "Scheme",
    "Seen",
    "Simulated",
    "Target",
    "TowerJob",
    "TowerReport",
    "check_model",
    "cpu_capability",
    "int8_available",
    "integer_engine",
    "parse",
    "quantize",
    "quantizers",
    "requires_calibration",
]
