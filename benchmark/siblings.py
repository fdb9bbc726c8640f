"""Find our own packages `tasks`, `trackers` and `search` when others of these names come first on the import path.

A folder with a `tasks.py` (Invoke, Celery) is an ordinary place to start Python in, so nothing here fails there: our
packages are then imported below this module, as in `from benchmark.siblings.search.command import run_search`. Within
each package imports are relative, so both ways work; one process uses one of them.
"""

from __future__ import annotations

import csv
import sys
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

NAME = "reliquant"
"""Our distribution."""

SIBLINGS = ("tasks", "trackers", "search")
HOME = Path(__file__).resolve().parent.parent
__path__ = [str(HOME)]  # makes `benchmark.siblings.tasks` importable


def own(module: str) -> str:
    """The name under which a module of ours can be imported here.

    >>> own("benchmark.api")
    'benchmark.api'

    Returns:
        The same name; for `tasks.ood`, where another `tasks` comes first, `benchmark.siblings.tasks.ood`.
    """
    top = module.partition(".")[0]
    return f"{__name__}.{module}" if top in SIBLINGS and not _comes_first(top) else module


def _comes_first(name: str) -> bool:
    """Whether `import NAME` gives our package; imports nothing."""
    if f"{__name__}.{name}" in sys.modules:
        return False  # one process does not load a module twice
    if (loaded := sys.modules.get(name)) is not None:
        places = getattr(loaded, "__path__", ())
    else:
        spec = find_spec(name)
        places = (spec.submodule_search_locations if spec else None) or ()
    return [Path(place).resolve() for place in places][:1] == [HOME / name]


def sharers(home: Path = HOME) -> dict[str, str]:
    """The names among `SIBLINGS` that another distribution in the same folder installs too -> that distribution."""
    found: dict[str, str] = {}
    for record in sorted(home.glob("*.dist-info/RECORD")):
        distribution = record.parent.name.removesuffix(".dist-info").replace("-", " ")
        if distribution.partition(" ")[0] != NAME:
            content = b"\n" + record.read_bytes()
            for name in SIBLINGS:
                if f"\n{name}/".encode() in content or f"\n{name}.py,".encode() in content:
                    found.setdefault(name, distribution)
    return found


@dataclass(frozen=True)
class Conflict:
    """Another distribution in the same folder that installs a package of ours; `fatal`: it overwrote a file of ours."""

    line: str
    fatal: bool


def conflict(home: Path = HOME) -> Conflict | None:
    """The first conflict with another distribution, in one line with the way out; about 20 ms."""
    shared = sharers(home)
    for name, other in shared.items():
        if (path := _overwritten(home, name)) is not None:
            return Conflict(
                f"{path}: not {NAME}'s own any more, because '{other}' installs a top-level '{name}' too. Install the "
                f"two in separate environments, then repair {NAME}: pip install --force-reinstall --no-deps {NAME}",
                fatal=True,
            )
    for name, other in shared.items():
        return Conflict(
            f"'{other}' installs a top-level '{name}' too, and `import {name}` gives {NAME}'s. {NAME} works; "
            f"for '{other}', use another environment",
            fatal=False,
        )
    return None


def _overwritten(home: Path, name: str) -> Path | None:
    """A file of our package `name` that is missing or has another content than when it was installed."""
    for record in home.glob(f"{NAME}-*.dist-info/RECORD"):
        with record.open(newline="", encoding="utf-8") as rows:
            for path, digest, *_ in csv.reader(rows):
                if path.startswith(f"{name}/") and path.endswith(".py") and _digest(home / path) != digest:
                    return home / path
    return None


def _digest(path: Path) -> str:
    """The digest of a file as RECORD writes it; empty where there is no file."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    return "sha256=" + urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode()
