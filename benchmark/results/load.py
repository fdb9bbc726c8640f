"""Results of earlier runs: the ledger, its suites and newest records, and what a name on the command line means."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote

from benchmark.errors import InputError, UnknownNameError, masked
from benchmark.ledger.records import Ledger, Record
from benchmark.results.answers import of_model, records_of
from benchmark.results.last import default_suite
from benchmark.spec import SuiteSpec
from benchmark.spec.suite import expand_braces, load_suite, suite_names
from benchmark.utils.sqlite import sqlite_address, sqlite_path

RUN_ID = re.compile(r"[0-9a-f]{32}")
Run = tuple[str, str]
"""Model and quantization."""


@dataclass(frozen=True)
class Asked:
    """What was asked for.

    Attributes:
        suite: its name in the ledger. name: as it was asked for (a name or a file). spec: its file, if it was found.
        runs: the runs in focus; empty for all. told: one line where the suite was not named but is the last that ran.
    """

    suite: str
    name: str
    spec: SuiteSpec | None
    runs: tuple[Run, ...] = ()
    told: str = ""


def find(
    ledger: Ledger, what: str | None, suite: str | None, data: Sequence[str] = (), catalogues: Sequence[Path] = ()
) -> Asked:
    """Look a name up: a suite (its name or file), else runs of `suite`.

    Args:
        what: a suite, a short name (`{a,b}` and `*` allowed), or the id of a run in MLflow; None for `suite`.
        suite: whose runs `what` may name; None for the last that ran here (`benchmark.results.last`).
        data, catalogues: as for `load_suite`.

    Raises:
        UnknownNameError: neither; with a suggestion.
    """
    recorded = {record.suite for record in ledger.answers()}
    default = default_suite(ledger)
    suite, told = (suite, "") if suite else (default.suite, default.told)
    if what is None:
        return replace(_suite(ledger, suite, data, catalogues), told=told)
    if what in recorded or what.endswith((".yaml", ".yml")):
        return _suite(ledger, what, data, catalogues)
    if RUN_ID.fullmatch(what):
        found_suite, run = mlflow_run(ledger.home, what)
        asked = _suite(ledger, found_suite, data, catalogues)
        records = [r for r in records_of(ledger, asked.suite, asked.spec) if of_model(r, run[0])]
        return _with_runs(asked, tuple({(r.model, run[1]): None for r in records} or [run]))
    asked = _suite(ledger, suite, data, catalogues)
    known = list(dict.fromkeys((r.model, r.quantization) for r in records_of(ledger, asked.suite, asked.spec)))
    runs = tuple(run for run in known if any(fnmatchcase(run[1], pattern) for pattern in expand_braces(what)))
    if not runs:
        if what in suite_names():
            raise InputError(
                f"suite '{what}' has no results in {ledger.home}; `reliquant run {quote(what)}` makes them"
            )
        raise UnknownNameError(
            f"suite or run (of suite '{asked.suite}')", what, {*recorded, *(quantization for _, quantization in known)}
        )
    return replace(_with_runs(asked, runs), told=told)


def _with_runs(asked: Asked, runs: tuple[Run, ...]) -> Asked:
    return Asked(asked.suite, asked.name, asked.spec, runs)


def _suite(ledger: Ledger, name: str, data: Sequence[str], catalogues: Sequence[Path]) -> Asked:
    recorded, spec = find_suite(name, ledger, data, catalogues)
    return Asked(recorded, name, spec)


def mlflow_run(home: Path, run_id: str) -> tuple[str, Run]:
    """Suite, model and quantization of a run in the MLflow store of a results folder.

    Raises:
        InputError: no such run, or it is none of a quantization.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(home / "mlflow.db")
    if (file := sqlite_path(uri)) is not None and not file.is_file():
        raise InputError(f"run '{run_id}': {home} holds no MLflow store")
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        run = client.get_run(run_id)
        parent = run.data.tags.get("mlflow.parentRunId")
        if run.data.tags.get("kind") == "evaluation" and parent is not None:
            run = client.get_run(parent)
    except Exception as error:  # MLflow, SQLAlchemy and HTTP each have their own; the store may be damaged
        reason = masked(getattr(error, "message", "") or str(error), uri)
        raise InputError(f"run '{run_id}' is not in the MLflow store ({reason})") from None
    tags = run.data.tags
    if tags.get("kind") != "configuration":
        raise InputError(f"run '{run_id}' of MLflow is none of a quantization, but of kind '{tags.get('kind')}'")
    return tags["suite"], (tags["model"], str(run.info.run_name))


def open_ledger(home: Path) -> Ledger:
    """The ledger of a results folder; a warning on stderr names rows that do not count.

    Raises:
        InputError: it holds no results.
    """
    if not (home / "ledger.jsonl").is_file():
        raise InputError(f"{home} holds no results; run a suite first, or name the folder with --home DIR")
    ledger = Ledger(home)
    if ledger.damage:
        print(f"warning: {ledger.damage}; what they held counts only if it was computed again", file=sys.stderr)
    return ledger


def find_suite(
    asked: str, ledger: Ledger, data: Sequence[str] = (), catalogues: Sequence[Path] = ()
) -> tuple[str, SuiteSpec | None]:
    """Name of a suite that has results, and its content if its file can be found.

    Args:
        asked: its name or file. data, catalogues: as for `load_suite`.

    Raises:
        InputError: no record answers it. UnknownNameError: no such suite.
    """
    recorded = {record.suite for record in ledger.answers()}
    if asked in suite_names() or asked.endswith((".yaml", ".yml")):
        suite = load_suite(asked, data, catalogues)
        if not records_of(ledger, suite.name, suite):
            raise InputError(f"suite '{suite.name}' has no results in {ledger.home}; there are: {', '.join(recorded)}")
        return suite.name, suite
    if asked not in recorded:
        raise UnknownNameError(f"suite in {ledger.home}", asked, recorded)
    return asked, None


def newest(records: Iterable[Record]) -> list[Record]:
    """Finished records that are not superseded.

    The ledger also keeps evaluations with another limit, prompt or task version. Of a quantization the last one of each
    evaluation counts; full-precision records are all kept, a quantization is compared with the one that matches it.
    """
    found: dict[tuple[str, ...], Record] = {}
    for record in records:
        if record.status == "done":
            key = (record.model, record.quantization, record.name)
            found.pop(key, None)
            found[(*key, record.comparison_key) if record.quantization == "fp32" else key] = record
    return list(found.values())
