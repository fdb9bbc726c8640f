"""What open_clip ships as data: architectures and pretrained tags, read without importing the package.

Importing open_clip brings torchvision, timm and transformers and takes seconds; a table of names needs none of them.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from benchmark.errors import ModelError

_ALIAS = "_reliquant_open_clip"
"""A package of our own over open_clip's folder: its submodules load alone, and `open_clip` itself stays unimported."""


def package_folder() -> Path:
    """Where open_clip is installed.

    Raises:
        ModelError: it is not.
    """
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ModelError("the package open_clip_torch is not installed: pip install open_clip_torch")
    return Path(next(iter(package.submodule_search_locations)))


def architectures() -> dict[str, Path]:
    """open_clip's own architectures by name -> their configuration files."""
    return {path.stem: path for path in sorted((package_folder() / "model_configs").glob("*.json"))}


@cache
def tags() -> ModuleType:
    """open_clip's module `pretrained`: the tags of each architecture and where their weights lie."""
    alias = ModuleType(_ALIAS)
    alias.__path__ = [str(package_folder())]
    sys.modules[_ALIAS] = alias
    return import_module(f"{_ALIAS}.pretrained")
