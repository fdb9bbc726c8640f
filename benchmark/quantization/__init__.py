"""Post-training quantization: one method a file, an affine reference in plain torch, a report that proves the work.

Each name loads its module on first use, so that short names can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.quantization.affine import QuantizedWeight, Scheme
    from benchmark.quantization.apply import (
        check_model,
        quantize,
        quantize_to_graphs,
        quantize_to_store,
        requires_calibration,
    )
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
    from benchmark.quantization.registry import parse, quantizers
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
    "quantize_to_graphs",
    "quantize_to_store",
    "quantizers",
    "requires_calibration",
]

_HOMES = {
    "benchmark.quantization.affine": (
        "QuantizedWeight",
        "Scheme",
    ),
    "benchmark.quantization.apply": (
        "check_model",
        "quantize",
        "quantize_to_graphs",
        "quantize_to_store",
        "requires_calibration",
    ),
    "benchmark.quantization.base": (
        "ACTIVATION_FIELDS",
        "COMMON_FIELDS",
        "LayerRecord",
        "Options",
        "Quantizer",
        "Target",
        "TowerJob",
        "WEIGHT_FIELDS",
    ),
    "benchmark.quantization.calibration": ("Calibration",),
    "benchmark.quantization.kernels.int8": (
        "cpu_capability",
        "int8_available",
    ),
    "benchmark.quantization.kernels.selection": ("integer_engine",),
    "benchmark.quantization.observers": (
        "Observer",
        "Seen",
    ),
    "benchmark.quantization.registry": (
        "parse",
        "quantizers",
    ),
    "benchmark.quantization.report": (
        "QuantizationReport",
        "TowerReport",
    ),
    "benchmark.quantization.simulated": (
        "Prepared",
        "Simulated",
    ),
    "benchmark.quantization.state": ("LayerState",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'benchmark.quantization' has no attribute '{name}'")
