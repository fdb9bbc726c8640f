"""Models: `resolve` a reference to files and a digest, cheaply; `.load()` it into a ClipModel; `list_models`."""

from __future__ import annotations

from benchmark.models.catalogue import ModelInfo, list_models
from benchmark.models.identity import display_name
from benchmark.models.references import ResolvedModel, resolve

__all__ = ["ModelInfo", "ResolvedModel", "display_name", "list_models", "resolve"]
