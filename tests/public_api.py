"""What users may build on, written down: `python -m tests.public_api` renews `tests/public_api.txt` for a release.

Public are `benchmark.__all__`, `benchmark.testing.__all__`, and the names that docs/python-api.md lists or imports. The
text has one line for each function, class, field and method. Between releases it stays as it is: a difference from it
must be told in CHANGELOG.md, under Unreleased, by the name in backticks (tests/unit/test_public_api.py).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tests.docs.markdown import ROOT, blocks

PAGE = ROOT / "docs" / "python-api.md"
STORED = ROOT / "tests" / "public_api.txt"
CHANGELOG = ROOT / "CHANGELOG.md"
OURS = ("benchmark", "tasks", "trackers", "search")


def names() -> list[str]:
    """Full names, `module.name`, sorted."""
    found = {f"{module}.{name}" for module in ("benchmark", "benchmark.testing") for name in exported(module)}
    return sorted(found | set(listed(PAGE.read_text(encoding="utf-8"))) | set(imported(PAGE)))


def exported(module: str) -> list[str]:
    """The names of `__all__`."""
    return list(importlib.import_module(module).__all__)


def listed(page: str) -> Iterator[str]:
    """Names in the tables of the page, those without a module from `benchmark`."""
    for row in re.findall(r"^\|[^|]*\|([^|]*)\|", page, re.MULTILINE):
        for name in re.findall(r"`([A-Za-z_][\w.]*)`", row):
            if "." not in name:
                yield f"benchmark.{name}"
            elif name.partition(".")[0] in OURS:
                yield name


def imported(page: Path) -> Iterator[str]:
    """Names that the page's Python blocks import from our packages."""
    for block in blocks(page):
        for node in ast.walk(ast.parse(block.text)) if block.language == "python" else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def described(name: str) -> Iterator[str]:
    """The lines of one public name: its signature or type; for a class each public method and property too.

    Raises:
        AttributeError, ImportError: there is no such name.
    """
    module, _, last = name.rpartition(".")
    value: Any = getattr(importlib.import_module(module), last)
    if inspect.isclass(value):
        yield from fields(name, value) if issubclass(value, BaseModel) else [f"{name}{signature(value)}"]
        for member in sorted(members(value)):
            yield f"{name}.{member}{form(inspect.getattr_static(value, member))}"
    elif callable(value):
        yield f"{name}{signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def fields(name: str, kind: type[BaseModel]) -> Iterator[str]:
    """The fields of a pydantic model as its source declares them."""
    written: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        written |= inspect.get_annotations(base) if base.__module__.split(".")[0] in OURS else {}
    for key, each in sorted(kind.model_fields.items()):
        default = "" if each.is_required() else f" = {'...' if each.default_factory else plain(each.default)}"
        yield f"{name}.{key}: {text(written[key])}{default}"


def members(kind: type[Any]) -> set[str]:
    """Public methods and properties that our own classes define, less the checks of a contract, which may grow."""
    return {
        name
        for base in kind.__mro__
        if base.__module__.split(".")[0] in OURS
        for name, value in vars(base).items()
        if not name.startswith(("_", "test_"))
        and (inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod))
    }


def form(value: Any) -> str:
    """A method's signature, or a property's type."""
    if isinstance(value, property):
        return f": {text(inspect.signature(value.fget).return_annotation)}" if value.fget else ""
    return signature(getattr(value, "__func__", value))


def signature(value: Any) -> str:
    """Parameters with annotations and defaults, and the return type, on one line and the same on every Python."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    shown = []
    for parameter in found.parameters.values():
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        kind = "" if parameter.annotation is parameter.empty else f": {text(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {plain(parameter.default)}"
        shown.append(f"{stars}{parameter.name}{kind}{default}")
    named = [i for i, each in enumerate(found.parameters.values()) if each.kind is each.KEYWORD_ONLY]
    if named and not any(each.kind is each.VAR_POSITIONAL for each in found.parameters.values()):
        shown.insert(named[0], "*")
    result = found.return_annotation
    return f"({', '.join(shown)})" + ("" if result in (found.empty, None, "None") else f" -> {text(result)}")


def text(annotation: Any) -> str:
    """An annotation as source, without the modules of names."""
    annotation = getattr(annotation, "__forward_arg__", annotation)
    shown = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", shown)


def plain(default: Any) -> str:
    """A default value, without addresses and names that systems differ in."""
    if isinstance(default, Path):
        return f"Path({default.as_posix()!r})"
    if callable(default) or " object at 0x" in repr(default):
        return "..."
    return repr(default)


def listing() -> dict[str, list[str]]:
    """Public name -> its lines."""
    return {name: list(described(name)) for name in names()}


def stored() -> dict[str, list[str]]:
    """The listing of the last release."""
    found: dict[str, list[str]] = {}
    for line in STORED.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            found[list(found)[-1]].append(line.strip())
        elif not line.startswith("#"):
            found[line] = []
    return found


def changed(before: dict[str, list[str]], now: dict[str, list[str]]) -> dict[str, list[str]]:
    """Public names that came, went or changed -> the lines that differ, marked with + and -."""
    found = {}
    for name in sorted({*before, *now}):
        old, new = before.get(name, []), now.get(name, [])
        if old != new:
            found[name] = [f"- {line}" for line in old if line not in new] + [f"+ {x}" for x in new if x not in old]
    return found


def section(changelog: str, heading: str) -> str:
    """The text below `## [heading]`; empty where there is none."""
    found = re.search(rf"^## \[{re.escape(heading)}\].*?\n(.*?)(?=^## \[|\Z)", changelog, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def untold(changes: dict[str, list[str]], told: str) -> list[str]:
    """The changed names that a text does not have in backticks, alone or in a longer name or call."""
    spoken = {word for code in re.findall(r"`([^`]+)`", told) for word in re.findall(r"\w+", code)}
    return [name for name in changes if name.rpartition(".")[2] not in spoken]


def main() -> int:
    """Write the listing, unless a change since the last release is missing in the changelog."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    now, changelog = listing(), CHANGELOG.read_text(encoding="utf-8")
    told = section(changelog, "Unreleased") + section(changelog, version)
    if STORED.exists() and (missing := untold(changed(stored(), now), told)):
        print(f"CHANGELOG.md: name these under [Unreleased] or [{version}]: {', '.join(missing)}", file=sys.stderr)
        return 1
    lines = [f"# The public names of {version}, written by `python -m tests.public_api`."]
    for name, rows in now.items():
        lines += [name, *(f"  {row}" for row in rows)]
    STORED.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
