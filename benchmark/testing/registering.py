"""A plugin under test is found by its name, whether its package is installed or not."""

from __future__ import annotations

from typing import Any

from benchmark.registry import Origin, Registry


def register(registry: Registry[Any], plugin: Any) -> None:
    """Make `registry` know the plugin under its own name, for this process.

    Raises:
        PluginError: something else has that name.
    """
    if plugin.name not in registry or registry.get(plugin.name) is not plugin:
        registry.add(plugin.name, plugin, Origin("contract test", plugin.name))
