"""How to get the same numbers again: command, suite file, versions and digests, from the records' provenance."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.engine.reproduce import arguments, pinned, requests
from benchmark.ledger.records import Record
from benchmark.plugins import tasks
from benchmark.results.answers import mixed_versions
from benchmark.results.rows import Results
from benchmark.spec import SuiteSpec
from benchmark.spec.suite import FOLDER, suite_names
from benchmark.spec.yaml_file import file_text


@dataclass(frozen=True)
class Origin:
    """Where the records come from.

    Attributes:
        commands: lines for a shell. suite_text: the suite's YAML; empty where its file was not found.
        facts: (what, value) on versions and machine; several values where the records differ.
        digests: (what, hash) of models, calibration and data. spectrum: the command that makes a spectral study.
        remarks: what a reader should know before trusting a repetition.
    """

    commands: tuple[str, ...]
    suite_text: str
    facts: tuple[tuple[str, str], ...]
    digests: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]
    spectrum: str


def origin(results: Results, source: Path | None) -> Origin:
    """Gather it from the records that the page shows.

    Args:
        source: the suite's file, where it was found.
    """
    records = [record for row in results.rows for record in row.records.values()]
    provenance = [record.provenance for record in records]
    text = file_text(source) if source is not None else ""
    return Origin(
        _commands(results, source, records),
        text,
        _facts(provenance),
        _digests(provenance),
        _remarks(results, provenance),
        _spectrum(results, source, provenance),
    )


def suite_file(asked: str) -> Path | None:
    """The file of a suite that comes with reliquant, or that was given as a path."""
    if asked.endswith((".yaml", ".yml")):
        return Path(asked)
    return FOLDER / f"{asked}.yaml" if asked in suite_names() else None


def _name(results: Results, source: Path | None) -> str:
    """The suite as the command line takes it."""
    return results.suite if source is None or source.parent == FOLDER else str(source)


def _spectrum(results: Results, source: Path | None, provenance: Sequence[Any]) -> str:
    """On the images of the first evaluation of a task that needs classes: the band accuracy needs them too."""
    spec = results.spec
    command = ["reliquant", "spectrum", _name(results, source) if spec is not None else "SUITE.yaml"]
    if spec is None:
        command += ["--data", "NAME"]
    elif found := _with_classes(spec):
        command += ["--data", found]
    refs = dict.fromkeys(pinned(p["model"]) for p in provenance if "model" in p)
    if spec is None or set(refs) != {model.ref for model in spec.models}:
        command += [part for ref in refs for part in ("--model", ref)]
    if results.ledger.home != Path("mlruns"):
        command += ["--home", str(results.ledger.home)]
    return shlex.join(command)


def _with_classes(spec: SuiteSpec) -> str | None:
    """The first data set of a suite that a task is bound to in a role whose images have classes."""
    for name, bindings in spec.tasks.items():
        roles = tasks.get(name).classes
        found = [names[0] for b in bindings.values() for role in roles if role in b.roles for names in [b.data(role)]]
        if found:
            return found[0]
    return None


def _commands(results: Results, source: Path | None, records: Sequence[Record]) -> tuple[str, ...]:
    name = _name(results, source)
    asked = [shlex.join(["reliquant", *arguments(each)]) for each in requests(records, name, results.spec)]
    return (*asked, shlex.join(["reliquant", "report", name]))


def _facts(provenance: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    found: dict[str, dict[str, None]] = {}
    for each in provenance:
        facts = {**each.get("versions", {}), "suite version": each.get("suite_version")}
        facts |= {key: each.get(key) for key in ("device", "cpu", "threads")}
        facts |= {key.replace("_", " "): value for key, value in each.get("settings", {}).items() if key != "device"}
        for key, value in facts.items():
            if value is not None:
                found.setdefault(key, {})[str(value)] = None
    times = sorted(str(each["time"]) for each in provenance if "time" in each)
    span = [("evaluated", times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}")] if times else []
    return (*((key, ", ".join(values)) for key, values in found.items()), *span)


def _digests(provenance: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    found: dict[tuple[str, str], None] = {}
    for each in provenance:
        if "model" in each:
            found[f"model {each['model']['ref']}", str(each["model"]["digest"])] = None
            for name, commit in each["model"].get("commits", {}).items():
                found[f"commit of {name}", str(commit)] = None
        for tower, about in each.get("artifact", {}).items():
            found[f"artifact, {tower} tower", ", ".join(about["files"])] = None
        if each.get("calibration"):
            found["calibration pairs", str(each["calibration"])] = None
        for name, value in each.get("data", {}).items():
            found[f"data {name}", str(value)] = None
        for name, origin in each.get("origins", {}).items():
            found[f"data {name} from", str(origin)] = None
    return tuple(found)


def _remarks(results: Results, provenance: Sequence[Any]) -> tuple[str, ...]:
    remarks = []
    if results.spec is None:
        remarks.append(f"The file of suite '{results.suite}' was not found; give it as FILE.yaml to have it here.")
    else:
        versions = {p.get("suite_version") for p in provenance if p.get("suite") == results.suite}
        if versions - {results.spec.version}:
            written = ", ".join(sorted(map(str, versions)))
            remarks.append(f"The file has version {results.spec.version} now, the records come from {written}.")
    if mixed := mixed_versions(record for row in results.rows for record in row.records.values()):
        remarks.append(f"{mixed[0].upper()}{mixed[1:]}.")
    skipped = {name: entry["count"] for p in provenance for name, entry in p.get("skipped", {}).items()}
    remarks += [f"Data set '{name}': {count} broken images were left out." for name, count in skipped.items()]
    return tuple(remarks)
