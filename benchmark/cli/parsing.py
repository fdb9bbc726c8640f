"""From the options of a request to a command of Typer."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field
from importlib import import_module
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from benchmark.cli import completion
from benchmark.utils.options import Command, Option, flag, options
from benchmark.utils.output import own_stdout


def callback(command: Command) -> Callable[..., None]:
    """What Typer calls: a function whose parameters are the request's options and whose help is its docstring."""

    def call(**given: Any) -> None:
        values = {
            name: tuple(value) if name in several and value is not None else value for name, value in given.items()
        }
        request = command.request(**{n: v for n, v in values.items() if not (n in several and v is None)})
        module, _, function = command.handler.partition(":")
        with own_stdout(getattr(request, "for_programs", False)):
            handler = getattr(import_module(module), function)
            _imported()
            status = handler(request)
        raise typer.Exit(status or 0)

    types = get_type_hints(command.request)
    several = {each.name for each, _ in options(command.request) if _item(types[each.name]) is not None}
    parameters = [_parameter(each, about, types[each.name]) for each, about in options(command.request)]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__name__ = command.name
    call.__doc__ = _help(command.request)
    return call


def _imported() -> None:
    """Begin to collect garbage where `main` put it off; modules stay for good and are never looked through again."""
    if not gc.isenabled():
        if not gc.get_freeze_count():  # the first command of this process
            gc.freeze()
        gc.enable()


def _help(request: type[Any]) -> str:
    """The docstring of a request, without its section on attributes."""
    return (inspect.getdoc(request) or "").partition("\n\nAttributes:")[0]


def _parameter(each: Field[Any], about: Option, kind: Any) -> inspect.Parameter:
    item = _item(kind)
    default = inspect.Parameter.empty if each.default is MISSING else None if item else each.default
    annotation = list[item] | None if item is not None and default is None else kind  # type: ignore[valid-type]
    if item is not None and default is inspect.Parameter.empty:
        annotation = list[item]  # type: ignore[valid-type]
    return inspect.Parameter(
        each.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[annotation, _info(each, about, kind)],
    )


def _item(kind: Any) -> Any:
    """The type of the items of a sequence; None for a single value."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next((get_args(each)[0] for each in kinds if get_origin(each) is Sequence), None)


def _info(each: Field[Any], about: Option, kind: Any) -> Any:
    shared: dict[str, Any] = {"help": about.help, "metavar": about.metavar, "envvar": about.envvar}
    shared |= {"min": about.minimum, "max": about.maximum}
    shared["autocompletion"] = getattr(completion, about.complete) if about.complete else None
    if about.argument:
        return typer.Argument(**shared)
    name = flag(each)
    if kind == bool | None:
        name = f"{name}/--no-{name.removeprefix('--')}"
    return typer.Option(*([about.short] if about.short else []), name, **shared)
