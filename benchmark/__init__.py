"""reliquant: what each way of quantizing a CLIP-like model does to its reliability.

The public names for plugin authors and Python users. Heavy modules load on first use.
"""

from __future__ import annotations

from benchmark._siblings import check_siblings

check_siblings()

from benchmark.bank import FeatureBank  # noqa: E402
from benchmark.errors import ReliquantError, UndefinedMetric  # noqa: E402
from benchmark.plugins import Banks, Metric, Outcome, Task, task  # noqa: E402
from benchmark.spec import DataSpec, ModelSpec, QuantSpec, SuiteSpec  # noqa: E402

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
    "UndefinedMetric",
    "task",
]
