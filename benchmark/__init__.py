"""reliquant: what each way of quantizing a CLIP-like model does to its reliability.

The public names for plugin authors and Python users; each loads its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.api import Results, embed, load_calibration, load_model, run
    from benchmark.bank import FeatureBank
    from benchmark.engine.plan import Settings, make_plan
    from benchmark.errors import ReliquantError, UndefinedMetric
    from benchmark.plugins import (
        Answers,
        Banks,
        Columns,
        Errors,
        Metric,
        NoOptions,
        Outcome,
        Summary,
        Task,
        TextList,
        task,
        tasks,
    )
    from benchmark.quantization import parse, quantize
    from benchmark.results.compare import adjust, compare
    from benchmark.spec import DataSpec, ModelSpec, QuantSpec, SuiteSpec
    from benchmark.spec.suite import load_suite, narrow

__all__ = [
    "Answers",
    "Banks",
    "Columns",
    "DataSpec",
    "Errors",
    "FeatureBank",
    "Metric",
    "ModelSpec",
    "NoOptions",
    "Outcome",
    "QuantSpec",
    "ReliquantError",
    "Results",
    "Settings",
    "SuiteSpec",
    "Summary",
    "Task",
    "TextList",
    "UndefinedMetric",
    "adjust",
    "compare",
    "embed",
    "load_calibration",
    "load_model",
    "load_suite",
    "make_plan",
    "narrow",
    "parse",
    "quantize",
    "run",
    "task",
    "tasks",
]

_HOMES = {
    "benchmark.results.compare": ("adjust", "compare"),
    "benchmark.bank": ("FeatureBank",),
    "benchmark.engine.plan": ("Settings", "make_plan"),
    "benchmark.errors": ("ReliquantError", "UndefinedMetric"),
    "benchmark.plugins": (
        "Answers",
        "Banks",
        "Columns",
        "Errors",
        "Metric",
        "NoOptions",
        "Outcome",
        "Summary",
        "Task",
        "TextList",
        "task",
        "tasks",
    ),
    "benchmark.api": ("Results", "embed", "load_calibration", "load_model", "run"),
    "benchmark.quantization": ("parse", "quantize"),
    "benchmark.spec": ("DataSpec", "ModelSpec", "QuantSpec", "SuiteSpec"),
    "benchmark.spec.suite": ("load_suite", "narrow"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'benchmark' has no attribute '{name}'")
