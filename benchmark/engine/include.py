"""`--include FILE.py`: plugins from a file, registered for this process."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.data import sources
from benchmark.errors import InputError, PluginError
from benchmark.plugins import tasks
from benchmark.quantization.registry import quantizers
from benchmark.registry import Origin, Registry
from benchmark.runtimes.registry import runtimes
from benchmark.tracking import trackers
from benchmark.utils.guard import described
from benchmark.utils.signals import is_stop

_REGISTRIES: tuple[Registry[Any], ...] = (tasks, quantizers, runtimes, sources, trackers)


def include_files(paths: Sequence[Path]) -> None:
    """Import each file and register every task, quantizer, runtime, data source and tracker that it defines.

    Raises:
        InputError: no such file. PluginError: it cannot be imported, or defines no plugin.
    """
    for path in paths:
        if not path.is_file():
            raise InputError(f"--include {path}: no such file")
        spec = importlib.util.spec_from_file_location(f"reliquant_included_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise PluginError(f"--include {path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException as error:  # a user's file may raise anything
            if is_stop(error):
                raise
            raise PluginError(f"--include {path}: {described(error)}") from error
        origin = Origin(str(path), path.stem)
        found = 0
        for plugin in list(vars(module).values()):
            for registry in _REGISTRIES:
                if isinstance(plugin, registry.base):
                    registry.add(plugin.name, plugin, origin)
                    found += 1
        if not found:
            kinds = ", ".join(registry.kind for registry in _REGISTRIES)
            raise PluginError(f"--include {path}: defines no plugin ({kinds})")
