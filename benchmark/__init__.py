"""reliquant: what each way of quantizing a CLIP-like model does to its reliability.

The public names for plugin authors and Python users; each loads its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmark._siblings import check_siblings

if TYPE_CHECKING:
    from benchmark.bank import FeatureBank
    from benchmark.errors import ReliquantError, UndefinedMetric
    from benchmark.plugins import Banks, Metric, Outcome, Task, TextList, task
    from benchmark.spec import DataSpec, ModelSpec, QuantSpec, SuiteSpec

check_siblings()

__all__ = [
    "Banks",
    "DataSpec",
    "FeatureBank",
    "Metric",
    "ModelSpec",
    "Outcome",
    "QuantSpec",
    "ReliquantError",
    "SuiteSpec",
    "Task",
    "TextList",
    "UndefinedMetric",
    "task",
]

_HOMES = {
    "benchmark.bank": ("FeatureBank",),
    "benchmark.errors": ("ReliquantError", "UndefinedMetric"),
    "benchmark.plugins": ("Banks", "Metric", "Outcome", "Task", "TextList", "task"),
    "benchmark.spec": ("DataSpec", "ModelSpec", "QuantSpec", "SuiteSpec"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'benchmark' has no attribute '{name}'")
