"""For plugin authors: the contract that every plugin of a kind must pass, and small things to try a plugin on.

Subclass a contract in a test file, set what its docstring names, and pytest collects the checks::

    class TestMineContract(TaskContract):
        task = mine
        banks = Banks({"test": [make_bank(seed=0)]})

The built-in plugins pass the same classes (`tests/contract/`). Needs pytest, which reliquant does not install.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from benchmark.testing.banks import make_bank, shuffle
    from benchmark.testing.models import make_calibration, toy_model, with_outliers
    from benchmark.testing.quantizers import QuantizerContract
    from benchmark.testing.runtimes import FeatureTableContract, LinearTower, RuntimeContract, TokenTower
    from benchmark.testing.sources import SourceContract
    from benchmark.testing.tasks import TaskContract
    from benchmark.testing.trackers import TrackerContract, make_finished

__all__ = [
    "FeatureTableContract",
    "LinearTower",
    "QuantizerContract",
    "RuntimeContract",
    "SourceContract",
    "TaskContract",
    "TokenTower",
    "TrackerContract",
    "make_bank",
    "make_calibration",
    "make_finished",
    "shuffle",
    "toy_model",
    "with_outliers",
]

_HOMES = {
    "banks": ("make_bank", "shuffle"),
    "models": ("make_calibration", "toy_model", "with_outliers"),
    "quantizers": ("QuantizerContract",),
    "runtimes": ("FeatureTableContract", "LinearTower", "RuntimeContract", "TokenTower"),
    "sources": ("SourceContract",),
    "tasks": ("TaskContract",),
    "trackers": ("TrackerContract", "make_finished"),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}

pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _HOMES))


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
