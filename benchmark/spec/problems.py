"""What is wrong with a specification, in one line that names the field."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ValidationError

from benchmark.errors import UnknownNameError
from benchmark.spec.scalars import Scalar


def first_problem(kind: type[BaseModel], children: Mapping[str, type[BaseModel]], error: ValidationError) -> str:
    """The problem that says most.

    Args:
        kind: of the specification. children: its fields whose values are specifications of their own.
    """
    problems = error.errors(include_url=False)
    misspelt = [p for p in problems if p["type"] == "extra_forbidden"]  # says more than the field that is then missing
    problem = misspelt[0] if misspelt and problems[0]["type"] == "missing" else problems[0]
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(kind, children, problem["loc"][:-1])
        return f"{location}: {UnknownNameError('field', str(problem['loc'][-1]), fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem.get("input")
    long = abs(value) > 10**18 if isinstance(value, int) else isinstance(value, str) and len(value) > 80
    shown = f" (got {value!r})" if isinstance(value, Scalar) and not long else ""
    return f"{location}: {message}{shown}" if location else f"{message}"


def _fields_at(
    kind: type[BaseModel], children: Mapping[str, type[BaseModel]], location: tuple[int | str, ...]
) -> list[str]:
    """Field names of the specification that an error location points into."""
    target = children.get(str(location[0]), kind) if location else kind
    return list(target.model_fields)
