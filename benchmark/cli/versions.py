"""`reliquant --version --verbose`: the installed versions, for reports of bugs. Imports none of the packages."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version


def versions() -> Iterator[str]:
    """One line each: reliquant, Python and system, each package that it needs, the packages of each extra."""
    needed = requires("reliquant") or []
    yield f"reliquant {version('reliquant')}"
    yield f"Python {platform.python_version()} on {platform.platform(terse=True)} {platform.machine()}"
    for line in needed:
        if (name := re.match(r"[\w.-]+", line)) and "extra ==" not in line:
            yield _installed(name[0])
    for extra, names in sorted(extras(needed).items()):
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
