"""Plugins that a test includes are forgotten afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmark.data import sources
from benchmark.plugins import tasks
from benchmark.quantization import quantizers
from benchmark.registry import Registry
from benchmark.runtimes import runtimes
from benchmark.tracking import trackers


@contextmanager
def restored() -> Iterator[None]:
    """The registries are as before at the end, as if another process had included the files."""
    registries: tuple[Registry[object], ...] = (tasks, quantizers, runtimes, sources, trackers)  # type: ignore[assignment]
    before = [set(registry.names()) for registry in registries]
    try:
        yield
    finally:
        for registry, names in zip(registries, before, strict=True):
            for name in set(registry.names()) - names:
                registry.remove(name)
