"""The runtimes by name. Imports no runtime, and no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.registry import Registry

if TYPE_CHECKING:
    from benchmark.runtimes.base import Runtime

runtimes: Registry[Runtime] = Registry("runtime", "reliquant.runtimes", "benchmark.runtimes.base:Runtime")
