"""Artifacts on the command line: `NAME=FILE`, with further fields behind commas."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from benchmark.errors import SpecError, UnknownNameError
from benchmark.spec.base import ArtifactSpec, ModelSpec, SuiteSpec, check_name, parse_spec

FORM = "NAME=FILE[,text=FILE][,model=REF][,runtime=NAME][,scope=SCOPE]"
_FIELD = re.compile(rf",(?=(?:{'|'.join(ArtifactSpec.model_fields)})=)")


def parse_artifacts(items: Sequence[str]) -> dict[str, ArtifactSpec]:
    """The artifacts that `--artifact` names.

    A comma ends a file's name only where a field follows it. `NAME=text=FILE` has the text tower alone.

    >>> parse_artifacts(["phone=visual.onnx,text=text.onnx"])["phone"].text
    'text.onnx'

    Raises:
        SpecError: the form or a field is wrong, or a name stands twice.
    """
    found: dict[str, ArtifactSpec] = {}
    for item in items:
        where = f"--artifact '{item}'"
        name, separator, rest = item.partition("=")
        if not separator or not rest:
            raise SpecError(f"{where}: the form is {FORM}, e.g. phone=visual_int8.onnx")
        first, *others = _FIELD.split(rest)
        pairs = [part.split("=", 1) for part in ([first] if _begins(first) else [f"file={first}"]) + others]
        fields = dict(pairs)
        if len(fields) < len(pairs):
            raise SpecError(f"{where}: a field stands twice; the form is {FORM}")
        if check_name(name, where) in found:
            raise SpecError(f"{where}: '{name}' stands twice; give each artifact a name of its own")
        found[name] = parse_spec(ArtifactSpec, fields, where)
    return found


def _begins(part: str) -> bool:
    return part.partition("=")[0] in ArtifactSpec.model_fields and "=" in part


def check_artifact_name(name: str, methods: Collection[str], suites: Collection[str], where: str) -> None:
    """Refuse the name of an artifact that means something else where configurations are named.

    Args: methods: the known quantization methods. suites: names that commands take for a suite.

    Raises:
        SpecError: it is a method's, begins like a short name of one, or is a suite's.
    """
    if name in suites:
        raise SpecError(f"{where}: an artifact cannot be called '{name}' like a suite. Call it e.g. 'my-{name}'.")
    for method in methods:
        if name == method or name.startswith(f"{method}-"):
            raise SpecError(
                f"{where}: an artifact cannot be called '{name}', which reads as the quantization method '{method}'. "
                f"Call it e.g. 'my-{name}'."
            )


def artifacts_of(suite: SuiteSpec, model: ModelSpec) -> list[str]:
    """Names of the artifacts of one of the suite's models.

    Raises:
        SpecError: an artifact names no model where the suite has several, or one that the suite does not have.
    """
    known = {name for each in suite.models for name in (each.ref, each.name) if name is not None}
    found = []
    for name, artifact in suite.artifacts.items():
        where = f"suite '{suite.name}': artifacts.{name}.model"
        if artifact.model is None and len(suite.models) > 1:
            raise SpecError(
                f"{where}: which of the suite's {len(suite.models)} models is it? "
                f"Name one of {', '.join(sorted(known))}."
            )
        if artifact.model is not None and artifact.model not in known:
            raise SpecError(f"{where}: {UnknownNameError('model of the suite', artifact.model, known)}")
        if artifact.model in (None, model.ref, model.name):
            found.append(name)
    return found
