"""`python -m tests.e2e.replay_holes`: every known hostile input, tried again; exit status 1 if a hole is open."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from tests.e2e.vectors import Try

MODULES = ("vectors_code", "vectors_images", "vectors_ends")


def collect(folder: Path, modules: Sequence[str] = MODULES) -> list[Try]:
    """What the modules try, each in a folder of its own.

    Raises:
        ModuleNotFoundError: one is missing.
    """
    found: list[Try] = []
    for name in modules:
        own = folder / name
        own.mkdir(parents=True)
        found += import_module(f"tests.e2e.{name}").tries(own)
    return found


def outcome(each: Try) -> tuple[bool, str]:
    """Whether the hole is closed, and what came of it."""
    try:
        return True, each.attempt()
    except Exception as error:  # whatever goes wrong while it is tried: nothing shows that the hole is closed
        return False, f"OPEN: {type(error).__name__}: {error}"


def replay(folder: Path, modules: Sequence[str] = MODULES) -> int:
    """Try everything, print a table; returns how many holes are open."""
    tried = collect(folder, modules)
    width = max((len(each.name) for each in tried), default=0)
    print(f"{'kind':6} | {'what is tried':{width}} | outcome")
    still_open = 0
    for each in tried:
        closed, words = outcome(each)
        still_open += not closed
        print(f"{each.kind:6} | {each.name:{width}} | {' '.join(words.split())[:400]}", flush=True)
    print(f"{len(tried)} tried, {still_open} open")
    return still_open


def main(names: Sequence[str]) -> int:
    """Args: names: modules to take, e.g. `vectors_ends`; none: all."""
    with tempfile.TemporaryDirectory(prefix="holes-") as folder:
        return int(replay(Path(folder), names or MODULES) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
