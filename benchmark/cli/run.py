"""What `run`, `validate` and `sync` do: the pieces put together."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmark.cli.tables import print_efficiency, print_table
from benchmark.engine.include import include_files
from benchmark.engine.provenance import skipped_warnings, template_warnings
from benchmark.engine.request import RunRequest, pixel_budget, recorded_plan, requested_plan
from benchmark.engine.run import Sweep, replay
from benchmark.engine.run import run as run_plan
from benchmark.ledger.records import Ledger, Record
from benchmark.results.compare import adjust
from benchmark.results.tables import comparison_rows, headline_keys
from benchmark.spec.suite import load_suite
from benchmark.tracking import Tracker, trackers
from benchmark.utils.output import out as own_output
from benchmark.utils.progress import open_progress

PARTIAL = 3
"""Exit status when some evaluations failed and the rest was done."""


def run_suite(request: RunRequest) -> int:
    """Run and report; returns the exit status (0; 3 when some evaluations failed)."""
    chosen, ray = _trackers(request), request.ray
    budget = pixel_budget(request)
    with open_progress(request.quiet) as progress:
        plan = requested_plan(request)  # may download the model
        _warn(template_warnings(plan))
        spectra = _spectra(request)
        ledger = Ledger(request.home)
        opened = [t.open(request.home, request.tracking_uri if t.name == "mlflow" else None) for t in chosen]
        if any(ledger.done(e.key) is None for c in plan.configurations for e in c.evaluations):
            for tracker in opened:
                tracker.connect()
        sweep = run_plan(
            plan,
            request.home,
            trackers=opened,
            progress=progress,
            pixel_budget=budget,
            skip_broken=request.skip_broken,
            timing=request.timing,
            ray=ray,
        )
    _report(request, sweep)
    statuses = [measure() for measure in spectra]
    return PARTIAL if sweep.failed or any(statuses) else 0


def _spectra(request: RunRequest) -> list[Callable[[], int]]:
    """The spectral studies that were asked for beside the tasks: checked now, measured when called."""
    if not request.spectrum:
        return []
    from benchmark.spectrum.run import SpectrumRequest, measure, prepare

    show: Literal["table", "path"] = "path" if request.json else "table"
    asked = [SpectrumRequest(request, name, show=show, only_vision=True) for name in dict.fromkeys(request.spectrum)]
    return [partial(measure, prepare(each)) for each in asked]


def validate_suite(
    name: str,
    data: Sequence[str] = (),
    catalogues: Sequence[Path] = (),
    include: Sequence[Path] = (),
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Check a suite, say what it would do and what of it is missing here."""
    from benchmark.cli.validate import report, survey

    include_files(include)
    found = survey(load_suite(name, data, catalogues))
    if as_json:
        print(json.dumps(found.to_json()), file=own_output())
    elif not quiet:
        print(report(found))


def sync_suite(request: RunRequest) -> int:
    """Log what the ledger has of a run to MLflow."""
    with open_progress(request.quiet) as progress:
        ledger = Ledger(request.home)
        plan = recorded_plan(request, ledger.records)
        tracker = trackers.get("mlflow").open(request.home, request.tracking_uri)
        count = replay(plan, ledger, tracker, progress)
    missing = len(plan.configurations) - count
    if request.json:
        print(json.dumps({"suite": plan.suite.name, "configurations": count, "missing": missing}), file=own_output())
    else:
        print(
            f"{count} configurations of suite '{request.suite}' are in MLflow"
            + (f"; {missing} are not finished in {request.home}" if missing else "")
        )
    return 0


def failure_lines(failed: Sequence[Record]) -> list[str]:
    """One line for each reason: what failed under which quantization."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for record in failed:
        reason = (record.model, record.quantization, record.error or "")
        reasons.setdefault(reason, []).append(f"{record.task}/{record.dataset}")
    return [
        f"failed: {model}, {quantization}: {', '.join(names)}: {error}"
        for (model, quantization, error), names in reasons.items()
    ]


def untimed_warnings(efficiencies: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each configuration whose speed could not be measured."""
    return [f"{e['quantization']} could not be timed: {e['error']}" for e in efficiencies if e["error"]]


def _trackers(request: RunRequest) -> list[Tracker]:
    """The asked trackers, not yet open; `--json` adds one that prints. Unknown names stop, before any work."""
    return [trackers.get(name) for name in dict.fromkeys([*request.trackers, *["stream"] * request.json])]


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def _report(request: RunRequest, sweep: Sweep) -> None:
    """The table (on stdout; on stderr beside --json), failures, and where to look."""
    plan = sweep.plan
    out = sys.stderr if request.json else sys.stdout
    keys = headline_keys(plan, sweep.records)
    if not request.json:
        tested = adjust(change for change in sweep.changes if change.key in keys)
        print_table(comparison_rows(plan, sweep.records, tested), keys, sweep.reports, plan)
        print_efficiency(sweep.efficiencies, plan)
    _warn(untimed_warnings(sweep.efficiencies.values()))
    for name, reason in sweep.uncompared.items():
        print(f"warning: {name} cannot be compared with full precision: {reason}", file=sys.stderr)
    for line in failure_lines(sweep.failed):
        print(line, file=sys.stderr)
    _warn(skipped_warnings(sweep.records))
    for name, reason in sweep.untracked.items():
        print(
            f"warning: tracker '{name}' could not be written ({reason}); the ledger {request.home / 'ledger.jsonl'} "
            f"has everything; once it is back, `reliquant sync` with the same options brings it over",
            file=sys.stderr,
        )
    total = len(sweep.records)
    print(
        f"{total} evaluations: {sweep.computed} computed, {total - sweep.computed} from the ledger, "
        f"{len(sweep.failed)} failed. Results: {request.home}. Browse them: reliquant ui"
        + ("" if request.home == Path("mlruns") else f" --home {request.home}"),
        file=out,
    )
