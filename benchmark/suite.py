"""Suites: YAML files that name models, quantizations, data and tasks; found by name or by path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import SpecError, UnknownNameError
from benchmark.spec import ModelSpec, SuiteSpec, parse_spec
from benchmark.yamlfile import load_yaml

FOLDER = Path(__file__).parent / "suites"


def suite_names() -> list[str]:
    """Names of the suites that come with reliquant."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_suite(name: str, data: Sequence[str] = ()) -> SuiteSpec:
    """A suite by its name or by the path of a YAML file.

    Args:
        data: `NAME=PATH` points a data set of the suite, and all that are based on it, at another folder or file.

    Raises:
        UnknownNameError: neither a name nor a file. SpecError: the file's first problem, with the field.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in suite_names():
            raise UnknownNameError("suite", name, suite_names())
        path = FOLDER / f"{name}.yaml"
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise SpecError(f"{path}: a suite is a mapping of fields, this is a {type(content).__name__}")
    for item in data:
        _point(content, item, str(path))
    return parse_spec(SuiteSpec, content, str(path))


def _point(content: dict[str, Any], item: str, where: str) -> None:
    """Change the path of a data set in a suite's YAML; one that is rendered becomes an image folder."""
    name, separator, path = item.partition("=")
    sets = content.get("data")
    if not separator or not path:
        raise SpecError(f"--data '{item}': the form is NAME=PATH")
    if not isinstance(sets, dict) or name not in sets:
        raise UnknownNameError(f"data set of {where}", name, sets if isinstance(sets, dict) else ())
    spec = dict(sets[name]) if isinstance(sets[name], dict) else {}
    if spec.get("source") == "demo":
        spec = {**spec, "source": "image_folder", "split": None}
    sets[name] = {**spec, "path": path}


def narrow(
    suite: SuiteSpec,
    *,
    models: Sequence[str] = (),
    quantizations: Sequence[str] = (),
    tasks: Sequence[str] = (),
    limit: int | None = None,
) -> SuiteSpec:
    """The suite with the command line's choices in place of its own.

    Args:
        models, quantizations: replace the suite's lists. tasks: keep only these.
        limit: at most so many images of each data set (where a data set has a smaller limit, that stays).
    """
    update: dict[str, object] = {}
    if models:
        update["models"] = tuple(parse_spec(ModelSpec, ref, "--model") for ref in models)
    if quantizations:
        update["quantizations"] = tuple(quantizations)
    if tasks:
        for name in tasks:
            if name not in suite.tasks:
                raise UnknownNameError(f"task of suite '{suite.name}'", name, suite.tasks)
        update["tasks"] = {name: suite.tasks[name] for name in tasks}
    if limit is not None:
        if limit < 1:
            raise SpecError(f"--limit: at least 1, got {limit}")
        update["limit"] = limit
    return suite.model_copy(update=update)
