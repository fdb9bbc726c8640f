"""Artifacts: towers that another runtime runs, and features that were made elsewhere. See docs/artifacts.md.

Each name loads its module on first use, so that names can be listed without torch and without a runtime's library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.runtimes.base import (
        Features,
        FeatureTable,
        GraphRuntime,
        GraphTower,
        Port,
        Runtime,
        Session,
        TowerEncoder,
    )
    from benchmark.runtimes.registry import runtimes

__all__ = [
    "FeatureTable",
    "Features",
    "GraphRuntime",
    "GraphTower",
    "Port",
    "Runtime",
    "Session",
    "TowerEncoder",
    "runtimes",
]

_MODULE_OF = dict.fromkeys(__all__, "benchmark.runtimes.base") | {"runtimes": "benchmark.runtimes.registry"}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
