"""Options of commands, each declared once: a dataclass field with its type, default and help.

The command line, the command that repeats a run, the settings in records and the Python API derive from the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

Kept = Literal["setting", "asked"]


@dataclass(frozen=True)
class Option:
    """How a field appears on the command line.

    Attributes:
        help: one line. flag: e.g. `--model`; empty: made of the field's name. short: e.g. `-o`.
        argument: positional, without a flag. metavar: placeholder of its value in help.
        complete: function of `benchmark.cli.completion` that completes it. envvar: environment variable with its value.
        minimum, maximum: of a number.
        kept: how records keep it: as a `setting` of how models are run, or among the other `asked` options.
    """

    help: str
    flag: str = ""
    short: str = ""
    argument: bool = False
    metavar: str | None = None
    complete: str | None = None
    envvar: str | None = None
    minimum: int | None = None
    maximum: int | None = None
    kept: Kept | None = None


def option(default: Any, help: str, **about: Any) -> Any:
    """A dataclass field that is an option; `about` as in `Option`. The default `...` means required."""
    metadata = {"option": Option(help, **about)}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


def options(request: type[Any]) -> Iterator[tuple[Field[Any], Option]]:
    """The options of a request, in order."""
    for each in fields(request):
        if "option" in each.metadata:
            yield each, each.metadata["option"]


def flag(each: Field[Any]) -> str:
    """The flag of a field: `--batch-size`."""
    about: Option = each.metadata["option"]
    return about.flag or "--" + each.name.replace("_", "-")


def words(request: Any) -> list[str]:
    """The command-line arguments that give a request, without those that have their default."""
    places: list[str] = []
    found: list[str] = []
    for each, about in options(type(request)):
        value = getattr(request, each.name)
        if about.argument:
            places += [] if value is None else [str(value)] if _single(value) else [str(item) for item in value]
        elif each.default is MISSING or plain(value) != plain(each.default):
            if isinstance(value, bool):
                found.append(flag(each) if value else f"--no-{flag(each).removeprefix('--')}")
            else:
                found += [word for item in ([value] if _single(value) else value) for word in (flag(each), str(item))]
    return [*places, *found]


def _single(value: Any) -> bool:
    return isinstance(value, str) or not isinstance(value, Sequence)


def plain(value: Any) -> Any:
    """The value in JSON form: lists of text."""
    if isinstance(value, str | bool | int | float | None):
        return value
    return [str(each) for each in value] if isinstance(value, Sequence) else str(value)


@dataclass(frozen=True)
class Command:
    """A command of the command line; packages add theirs by an entry point in `reliquant.commands`.

    Attributes:
        request: dataclass of its options; its docstring is the command's help.
        handler: `module:function` that takes the request and may return an exit status; imported when it is called.
    """

    name: str
    request: type[Any]
    handler: str
