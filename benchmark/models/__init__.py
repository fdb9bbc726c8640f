"""Models: `resolve` a reference to files and a digest, cheaply; `.load()` it into a ClipModel; `list_models`."""

from __future__ import annotations

from benchmark.models.references import ResolvedModel, display_name, resolve

__all__ = ["ResolvedModel", "display_name", "resolve"]
