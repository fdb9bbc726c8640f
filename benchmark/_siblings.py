"""Refuse to start when another distribution's `tasks`, `trackers` or `search` shadows ours."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

SIBLINGS = ("tasks", "trackers", "search")
HOME = Path(__file__).resolve().parent.parent


def check_siblings(home: Path = HOME) -> None:
    """Check that the sibling packages lie beside this one.

    Raises:
        ImportError: names the intruder and the cure.
    """
    for name in SIBLINGS:
        spec = find_spec(name)
        found = [Path(place).resolve() for place in (spec.submodule_search_locations or [])] if spec else []
        if home / name not in found[:1]:
            intruder = found[0] if found else (spec.origin if spec else None)
            there = f"it is {intruder}" if intruder else "it is missing"
            raise ImportError(
                f"reliquant needs its own package '{name}' beside {home / 'benchmark'}, but {there}. "
                f"Another package or folder of that name comes first: uninstall or rename it, start from another "
                f"folder, or reinstall reliquant (pip install --force-reinstall --no-deps reliquant)."
            )
