"""`reliquant gate`: may this quantization be shipped? For CI: an exit status, one line a metric, no model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from benchmark.cli.requests import GateRequest
from benchmark.engine.include import include_files
from benchmark.errors import CANNOT_TELL, INFERIOR, InputError, StorageError, UnknownNameError, why
from benchmark.ledger.records import Ledger, Record
from benchmark.results import decide
from benchmark.results.answers import records_of, require_model
from benchmark.results.baseline import Baseline, changes_from, find
from benchmark.results.decide import Decision, Judged, Verdict, about, beyond, check_margins, images_told, parse_margins
from benchmark.results.load import Asked, newest, open_ledger
from benchmark.results.load import find as find_runs
from benchmark.results.rows import headline_of
from benchmark.spec import FP32
from benchmark.utils.output import out

STATUS: Mapping[Verdict, int] = {decide.NON_INFERIOR: 0, decide.INFERIOR: INFERIOR, decide.CANNOT_TELL: CANNOT_TELL}
ORDER = (decide.INFERIOR, decide.CANNOT_TELL, decide.NON_INFERIOR)
"""The first one that any configuration has is the gate's."""
Run = tuple[str, str]
"""Model and quantization."""


def gate(request: GateRequest) -> int:
    """Print or write the verdicts; returns the exit status: 0 non-inferior, 1 inferior, 4 cannot tell.

    Raises:
        InputError: a margin that is no positive number or belongs to no headline metric, or nothing to compare with.
    """
    margins = parse_margins(request.margin)
    include_files(request.include)
    ledger = open_ledger(request.home)
    asked, records = _asked(request, ledger)
    if asked.told:
        print(asked.told, file=sys.stderr)
    headline = _headline(asked, records)
    check_margins(margins, headline)
    known = {**(asked.spec.margins if asked.spec else {}), **margins}
    decisions: dict[Run, Decision] = {}
    wheres: dict[Run, str] = {}
    for run, own in records.items():
        baseline: Baseline = find(request.baseline, ledger, asked.suite, own)
        changes = changes_from(baseline, own, ledger, headline)
        decisions[run], wheres[run] = decide.decide(headline, changes, known), baseline.where
    for mended in ledger.mended:
        print(f"warning: {mended}", file=sys.stderr)
    verdict = next(each for each in ORDER if each in {decision.verdict for decision in decisions.values()})
    if request.junit is not None:
        _write_junit(request.junit, asked.suite, decisions)
    if request.json:
        for (model, name), decision in decisions.items():
            names = {"model": model, "quantization": name, "suite": asked.suite, "baseline": wheres[model, name]}
            print(json.dumps({**names, **decide.to_json(decision)}, allow_nan=False), file=out())
    else:
        for run, decision in decisions.items():
            print("\n".join(_lines(run, decision, wheres[run])), file=out())
    return STATUS[verdict]


def _asked(request: GateRequest, ledger: Ledger) -> tuple[Asked, dict[Run, list[Record]]]:
    """The suite, and the newest records of each configuration that is asked for."""
    every = [find_runs(ledger, what, request.suite) for what in request.configs]
    suite = every[0].suite
    own = newest(records_of(ledger, suite, every[0].spec))
    named = None if request.model is None else {r.model for r in require_model(own, request.model, suite)}
    found: dict[Run, list[Record]] = {}
    for what, asked in zip(request.configs, every, strict=True):
        runs = [run for run in asked.runs if run[1] != FP32.name and (named is None or run[0] in named)]
        if not runs or asked.suite != suite:
            known = {r.quantization for r in own if r.quantization != FP32.name}
            raise UnknownNameError(f"configuration in the results of '{suite}'", what, known)
        found |= {run: [r for r in own if (r.model, r.quantization) == run] for run in runs}
    if failed := [f"{name} of {model}" for (model, name), records in found.items() if not records]:
        raise InputError(f"{failed[0]}: every evaluation of it failed; see `reliquant show`")
    return every[0], found


def _headline(asked: Asked, records: Mapping[Run, Sequence[Record]]) -> tuple[str, ...]:
    """All headline metrics of the suite, evaluated or not: a gate must not pass for what nobody looked at."""
    if asked.spec is not None and asked.spec.headline:
        return asked.spec.headline
    return headline_of(asked.spec, [key for own in records.values() for r in own for key in r.metrics])


def _lines(run: Run, decision: Decision, where: str) -> list[str]:
    model, name = run
    return [
        f"{decision.verdict}: {name} of {model}, on {images_told(decision.judged)}, against {where}",
        *(f"  {each.verdict:<12}  {_words(each)}" for each in decision.judged),
        *([f"  about {about(decision.images)} images would do"] if decision.images else []),
    ]


def _words(each: Judged) -> str:
    by = "" if each.by == each.key else f"{each.key}, judged by "
    return by + beyond(each).replace("`", "")


def _write_junit(path: Path, suite: str, decisions: Mapping[Run, Decision]) -> None:
    """One test suite a configuration, one test case a metric: inferior fails, cannot tell is an error.

    Raises:
        StorageError: the file cannot be written.
    """
    root = ET.Element("testsuites", name=f"reliquant gate {suite}")
    for (model, name), decision in decisions.items():
        verdicts = [each.verdict for each in decision.judged]
        counts = {"failures": decide.INFERIOR, "errors": decide.CANNOT_TELL}
        fields = {key: str(verdicts.count(verdict)) for key, verdict in counts.items()}
        fields |= {"name": f"{model} {name}", "tests": str(len(verdicts)), "skipped": "0"}
        own = ET.SubElement(root, "testsuite", fields)
        for each in decision.judged:
            case = ET.SubElement(own, "testcase", classname=f"{model}.{name}", name=each.key)
            kind = {decide.INFERIOR: "failure", decide.CANNOT_TELL: "error"}.get(each.verdict)
            if kind is not None:
                ET.SubElement(case, kind, message=_words(each), type=each.verdict)
    ET.indent(root)
    try:
        ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise StorageError(f"--junit {path}: cannot be written ({why(error)})") from error
