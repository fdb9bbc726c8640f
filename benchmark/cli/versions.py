"""`reliquant --version --verbose`: the installed versions, for reports of bugs. Imports none of the packages."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

ALWAYS = ("torch", "open_clip_torch", "mlflow", "optuna", "bitsandbytes")
"""Packages with a line of their own."""


def versions() -> Iterator[str]:
    """One line each: reliquant, Python and system, the main packages, the packages of each extra."""
    yield f"reliquant {version('reliquant')}"
    yield f"Python {platform.python_version()} on {platform.platform(terse=True)} {platform.machine()}"
    for name in ALWAYS:
        yield _installed(name)
    for extra, names in sorted(extras(requires("reliquant") or []).items()):
        yield f"extra {extra}: {', '.join(map(_installed, names))}"


def extras(requirements: list[str]) -> dict[str, list[str]]:
    """The packages of each extra; one that only collects others is left out.

    >>> extras(["torch>=2", 'ray>=2; extra == "ray"', 'reliquant[ray]; extra == "all"'])
    {'ray': ['ray']}
    """
    found: dict[str, list[str]] = {}
    for line in requirements:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"""extra == ['"]([\w-]+)['"]""", line)
        if name and extra and name[0] != "reliquant":
            found.setdefault(extra[1], []).append(name[0])
    return found


def _installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"
