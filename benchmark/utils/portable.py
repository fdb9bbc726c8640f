"""Texts that leave this machine (report, model card, tracker): without its absolute paths."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmark.utils.files import DATA_VARIABLE

T = TypeVar("T")
_ABSOLUTE = re.compile(
    r"(?:(?<![\w~$#./*\\<-])|(?<=\w/))(?:file://)?/(?:[^\s/'\"<>:,;|()\[\]{}`]+/)+([^\s/'\"<>:,;|()\[\]{}`]*)"
)
_WINDOWS = re.compile(r"(?<!\w)[A-Za-z]:\\(?:[^\\\s'\"]+\\)+([^\\\s'\"]*)")


def portable(text: str) -> str:
    """A text with the absolute paths of this machine made relative.

    Below the data root they begin with `$RELIQUANT_DATA`, below the working folder with the next folder, below the home
    folder with `~`; of any other only the last part is left.
    """
    for root, name in _roots():
        below = rf"(?<![\w.~-])(?:file://)?{re.escape(root)}"
        text = re.sub(rf"{below}/(?=[\w.~$@+=-])", lambda _, stands=name: stands, text)  # type: ignore[misc]
        text = re.sub(rf"{below}(?![\w.-])", name.rstrip("/").replace("\\", r"\\") or ".", text)
    return _WINDOWS.sub(r"\1", _ABSOLUTE.sub(r"\1", text))


def _roots() -> list[tuple[str, str]]:
    """Folders with what stands for them and the slash behind them, the longest first."""
    found = {Path.cwd(): "", Path.home(): "~/"}
    if data := os.environ.get(DATA_VARIABLE):
        found[Path(data).expanduser().absolute()] = f"${DATA_VARIABLE}/"
    both = {str(form): name for path, name in found.items() for form in (path.resolve(), path)}
    return sorted(((root, name) for root, name in both.items() if root != "/"), key=lambda each: -len(each[0]))


def all_portable(value: T) -> T:
    """A value whose texts, at any depth of dataclasses, mappings, tuples and lists, are `portable`."""
    return _mapped(value)  # type: ignore[no-any-return]


def _mapped(value: Any) -> Any:
    if isinstance(value, str):
        return portable(value) if "/" in value or "\\" in value else value
    if isinstance(value, Mapping):
        return {_mapped(key): _mapped(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_mapped(inner) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _mapped(getattr(value, each.name)) for each in fields(value) if each.init})
    return value
