"""Suites: YAML files that name models, quantizations, data and tasks; found by name or by path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.errors import SpecError, UnknownNameError
from benchmark.spec.artifacts import parse_artifacts
from benchmark.spec.base import ModelSpec, SuiteSpec, parse_spec
from benchmark.spec.catalogue import detect, load_catalogue
from benchmark.spec.groups import groups
from benchmark.spec.short_name import calibration_names
from benchmark.spec.yaml_file import load_yaml, place

FOLDER = Path(__file__).parent.parent / "suites"
MOST_ALTERNATIVES = 10_000
PLAIN_SOURCES = ("demo", "hub", "image_folder", "parquet", "webdataset")

FITTED_ROLES = ("fit",)
"""Roles of a task whose data something is fitted on, such as a logit scale; nothing is measured on them."""


def suite_names() -> list[str]:
    """Names of the suites that come with reliquant."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_suite(name: str, data: Sequence[str] = (), catalogues: Sequence[Path] = ()) -> SuiteSpec:
    """A suite by its name or by the path of a YAML file.

    A data set `{catalogue: NAME, ...}` takes its fields from the catalogue; a model `group:NAME` stands for a named
    group of models; braces in quantizations stand for alternatives, as in a shell.

    Args:
        data: `NAME=PATH` points a data set of the suite, and all that are based on it, at another folder or file.
        catalogues: the user's own catalogue files.

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
    sets = content.get("data")
    if isinstance(sets, dict):
        content["data"] = _catalogued(sets, catalogues)
    for item in data:
        _point(content, item, str(path))
    for field, expand in (("models", _models), ("quantizations", _quantizations)):
        if isinstance(content.get(field), list):
            content[field] = expand(content[field])
    return parse_spec(SuiteSpec, content, str(path), partial(place, path))


def _catalogued(sets: Mapping[str, Any], catalogues: Sequence[Path]) -> dict[str, Any]:
    """Data sets with the catalogue's fields under their own; the catalogue is read where one of them names it."""
    named = {name for name, spec in sets.items() if isinstance(spec, dict) and "catalogue" in spec}
    known = load_catalogue(catalogues) if named else {}
    found = dict(sets)
    for name in named:
        entry = sets[name]["catalogue"]
        if entry not in known:
            raise SpecError(f"data.{name}.catalogue: {UnknownNameError('data set', str(entry), known)}")
        own = {key: value for key, value in sets[name].items() if key != "catalogue"}
        found[name] = known[entry].model_dump(mode="json", exclude_unset=True) | own
    return found


def _models(entries: list[Any]) -> list[Any]:
    """Models, with the members of a group in place of `group:NAME`."""
    expanded: list[Any] = []
    for entry in entries:
        if isinstance(entry, str) and entry.startswith("group:"):
            name = entry.removeprefix("group:")
            if name not in groups():
                raise UnknownNameError("group of models", name, groups())
            expanded += [spec.model_dump() for spec in groups()[name]]
        else:
            expanded.append(entry)
        if len(expanded) > MOST_ALTERNATIVES:
            raise SpecError(f"models: more than {MOST_ALTERNATIVES} together")
    return expanded


def _quantizations(entries: list[Any]) -> list[Any]:
    names = expand_all([entry for entry in entries if isinstance(entry, str)])
    return [*names, *(entry for entry in entries if not isinstance(entry, str))]


def expand_all(texts: Sequence[str]) -> list[str]:
    """The alternatives of all texts (`expand_braces`), in order.

    Raises:
        SpecError: braces that do not match, or more than `MOST_ALTERNATIVES` together.
    """
    if sum(map(_number, texts)) > MOST_ALTERNATIVES:
        if len(texts) == 1:
            raise SpecError(f"quantization '{texts[0][:60]}...': more than {MOST_ALTERNATIVES} alternatives")
        raise SpecError(f"quantizations: more than {MOST_ALTERNATIVES} alternatives together")
    return [single for text in texts for single in _alternatives(text)]


def expand_braces(text: str) -> list[str]:
    """Alternatives in braces, the first brace varying slowest: `rtn-{w8,w4}-vision` -> two short names.

    >>> expand_braces("rtn-{w8,w4}a8-{vision,vision+text}")
    ['rtn-w8a8-vision', 'rtn-w8a8-vision+text', 'rtn-w4a8-vision', 'rtn-w4a8-vision+text']
    """
    return expand_all([text])


def _number(text: str) -> int:
    """Alternatives that a text stands for, at least."""
    return math.prod(1 + part.count(",") for part in text.split("{")[1:])


def _alternatives(text: str) -> list[str]:
    head, opening, rest = text.partition("{")
    if not opening:
        return [text]
    body, closing, tail = rest.partition("}")
    if not closing or "{" in body:
        raise SpecError(f"quantization '{text}': braces do not match (they cannot be nested)")
    return [head + choice + end for choice in body.split(",") for end in _alternatives(tail)]


def _point(content: dict[str, Any], item: str, where: str) -> None:
    """Change the path of a data set in a suite's YAML.

    A source with a layout of its own (image lists, CIFAR-10-C, ...) stays; otherwise the path tells the source.
    """
    name, separator, path = item.partition("=")
    sets = content.get("data")
    if not separator or not path:
        raise SpecError(f"--data '{item}': the form is NAME=PATH")
    if not isinstance(sets, dict) or name not in sets:
        raise UnknownNameError(f"data set of {where}", name, sets if isinstance(sets, dict) else ())
    spec = dict(sets[name]) if isinstance(sets[name], dict) else {}
    if spec.get("source") in PLAIN_SOURCES:
        spec = {key: value for key, value in spec.items() if key not in ("source", "split", "options")}
        spec["source"] = detect(path).source
    sets[name] = {**spec, "path": path}


def spared(suite: SuiteSpec) -> set[str]:
    """Data sets that the suite's `limit` leaves whole: those that something is fitted on.

    With fewer of its images a quantizer's ranges or a tuned logit scale are not the same estimate with a larger error:
    they are those of another model.
    """
    bindings = [binding for labels in suite.tasks.values() for binding in labels.values()]
    fitted = {name for b in bindings for role in b.roles if role in FITTED_ROLES for name in b.data(role)}
    return fitted | {name for name in calibration_sets(suite) if name in suite.data}


def calibration_sets(suite: SuiteSpec) -> set[str]:
    """The data sets that its quantizations are calibrated on: the suite's own, and those that short names name."""
    return {*suite.calibrations, *(name for text in suite.quantizations for name in calibration_names(text))}


def limit_of(suite: SuiteSpec, name: str) -> int | None:
    """At most so many images of a data set: its own limit and, unless it is `spared`, the suite's."""
    limits = [suite.data[name].limit, None if name in spared(suite) else suite.limit]
    return min((limit for limit in limits if limit is not None), default=None)


def with_quantizations(suite: SuiteSpec, names: Sequence[str]) -> SuiteSpec:
    """The suite with exactly these quantizations, none of them on further calibration sets too."""
    return suite.model_copy(update={"quantizations": tuple(names), "further_calibration": ()})


def narrow(
    suite: SuiteSpec,
    *,
    models: Sequence[str] = (),
    quantizations: Sequence[str] = (),
    tasks: Sequence[str] = (),
    limit: int | None = None,
    artifacts: Sequence[str] = (),
) -> SuiteSpec:
    """The suite with the command line's choices in place of its own.

    Args:
        models, quantizations: replace the suite's lists; a name among the quantizations may be an artifact's, and each
            stands for itself alone, not for one on every further calibration set. tasks: keep only these.
        artifacts: `NAME=FILE`, beside the suite's, or in place of the one with that name.
        limit: at most so many images of each data set that something is tested on (`spared`; where a data set has a
            smaller limit, that stays).
    """
    update: dict[str, object] = {}
    if models:
        update["models"] = tuple(parse_spec(ModelSpec, ref, "--model") for ref in models)
    given = parse_artifacts(artifacts)
    known = {**suite.artifacts, **given}
    if quantizations:
        names = expand_all(quantizations)
        update |= {"quantizations": tuple(name for name in names if name not in known), "skip_unavailable": False}
        update["further_calibration"] = ()
        known = {name: spec for name, spec in known.items() if name in given or name in names}
    if known != suite.artifacts:
        update["artifacts"] = known
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
