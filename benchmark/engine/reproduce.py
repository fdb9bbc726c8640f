"""The command that reproduces numbers: from records back to a request, from a request back to arguments."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.engine.request import ASKED, FILES, SETTINGS, RunRequest
from benchmark.errors import ReliquantError
from benchmark.ledger.records import Record
from benchmark.quantization.registry import read
from benchmark.spec import FP32, SuiteSpec, canonical
from benchmark.spec.artifacts import parse_artifacts
from benchmark.utils.options import words


def arguments(request: RunRequest) -> list[str]:
    """The arguments after `reliquant` that give this request, without defaults."""
    return ["run", *words(request)]


def requests(records: Iterable[Record], suite: str, spec: SuiteSpec | None) -> list[RunRequest]:
    """The requests that reproduce these records: one for each set of options that they were made with.

    Args:
        suite: a name or file that stands for the suite here; a file that the records name takes precedence over a name.
        spec: the suite's file, where it was found: requests leave out what it contains.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        about = record.provenance
        same = [_settings(about), _asked(about), about.get("limit"), _stored(about), _suite(record, suite)]
        groups.setdefault(canonical(same), []).append(record)
    return [_request(group, suite, spec) for group in groups.values()]


def _request(records: Sequence[Record], suite: str, spec: SuiteSpec | None) -> RunRequest:
    about = records[0].provenance
    quants = {record.quantization for record in records} - {FP32.name}
    wanted = [record.quantization for record in records if record.quantization in quants] or [FP32.name]
    models = [pinned(record.provenance["model"]) for record in records if "model" in record.provenance]
    tasks = [record.task for record in records]
    if spec is not None:
        known = _canonical(spec.quantizations) | {*spec.artifacts, *parse_artifacts(_asked(about).get("artifacts", ()))}
        wanted = [] if quants == known - {FP32.name} else wanted
        models = [] if set(models) == {model.ref for model in spec.models} else models
        tasks = [] if set(spec.tasks) <= set(tasks) else [task for task in tasks if task in spec.tasks]
    limit = about.get("limit")
    files = {name: [Path(path) for path in paths] for name, paths in _asked(about).items() if name in FILES}
    return RunRequest(
        **{**_settings(about), **_asked(about), **files},
        suite=_suite(records[0], suite),
        quantizations=[] if _stored(about) else list(dict.fromkeys(wanted)),
        models=list(dict.fromkeys(models)),
        tasks=list(dict.fromkeys(tasks)),
        limit=None if spec is not None and limit == spec.limit else limit,
    )


def pinned(model: Mapping[str, Any]) -> str:
    """A model's reference with the commit of the hub that it stood for; others as they are.

    >>> pinned({"ref": "hf-hub:org/name@v1", "commits": {"org/name": "0" * 40}})[-9:]
    '000000000'
    >>> pinned({"ref": "demo"})
    'demo'

    Args:
        model: as in a record's provenance.
    """
    ref = str(model["ref"])
    scheme, _, place = ref.partition(":")
    name = place.partition("@")[0]
    commit = model.get("commits", {}).get(name)
    return ref if commit is None else f"{scheme}:{name}@{commit}"


def in_lines(words: Sequence[str], width: int = 80) -> list[str]:
    """A command for a shell on lines of at most `width` characters, continued by backslashes between options."""
    lines, room = [""], width - len(" \\")
    starts = [i for i, word in enumerate(words) if i == 0 or word.startswith("--")]  # options stay beside their values
    for part in (shlex.join(words[start:end]) for start, end in zip(starts, [*starts[1:], None], strict=True)):
        if lines[-1] and len(lines[-1]) + 1 + len(part) > room:
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """How the models were run; only the device where a record does not say."""
    known = about.get("settings", {"device": "cpu" if about.get("device", "cpu") == "cpu" else "cuda"})
    return {name: known[name] for name in SETTINGS if name in known}


def _asked(about: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.get("asked", {}).items() if name in ASKED}


def _stored(about: Mapping[str, Any]) -> bool:
    """Whether the model was quantized already: it takes no quantization."""
    return bool(about.get("model", {}).get("quantized", False))


def _suite(record: Record, suite: str) -> str:
    """The suite as requested, unless the caller has a file, or another suite that shares the record made it."""
    about = record.provenance
    own = about.get("suite", record.suite) == record.suite
    return suite if suite.endswith((".yaml", ".yml")) or not own else str(about.get("asked", {}).get("suite", suite))


def _canonical(names: Iterable[str]) -> set[str]:
    """Short names in the ledger's form, without those of methods that are not installed here."""
    found = set()
    for name in names:
        with suppress(ReliquantError):
            found.add(read(name).name)
    return found
