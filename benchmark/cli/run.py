"""`reliquant run`: plan, evaluate, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

from benchmark.cli.tables import print_data_sets, print_efficiency, print_published, print_table, print_verdicts
from benchmark.engine.artifacts import warnings as artifact_warnings
from benchmark.engine.include import include_files
from benchmark.engine.plan import Plan, unavailable_lines
from benchmark.engine.provenance import (
    data_warnings,
    failure_lines,
    prompt_warnings,
    skipped_warnings,
    template_warnings,
)
from benchmark.engine.request import RunRequest
from benchmark.engine.requested import pixel_budget, requested_plan
from benchmark.engine.run import Sweep
from benchmark.engine.run import run as run_plan
from benchmark.errors import PARTIAL
from benchmark.ledger.records import Ledger
from benchmark.results import published
from benchmark.results.answers import mixed_versions
from benchmark.results.compare import adjust
from benchmark.results.last import remember
from benchmark.results.tables import comparison_rows, headline_keys
from benchmark.spec import ArtifactQuant
from benchmark.tracking import STREAM_TRACKER, Tracker, trackers
from benchmark.utils.progress import open_progress


def run_suite(request: RunRequest) -> int:
    """Run and report; returns the exit status (0; 3 when some evaluations failed)."""
    include_files(request.include)  # trackers too come from there
    chosen, ray = _trackers(request), request.ray
    budget = pixel_budget(request)
    with open_progress(request.quiet) as progress:
        plan = requested_plan(request)  # may download the model
        for line in unavailable_lines(plan.unavailable):
            print(line, file=sys.stderr)
        _warn([*template_warnings(plan), *data_warnings(plan.data)])
        spectra = _spectra(request, plan)
        ledger = Ledger(request.home)
        opened = [t.open(request.home, request.tracking_uri if t.takes_uri else None) for t in chosen]
        if any(ledger.done(e.key) is None for c in plan.configurations for e in c.evaluations):
            for tracker in opened:
                tracker.connect()
        remember(request.home, plan.suite.name, request.suite)
        sweep = run_plan(
            plan,
            request.home,
            trackers=opened,
            progress=progress,
            pixel_budget=budget,
            skip_broken=request.skip_broken,
            timing=request.timing,
            ray=ray,
            ledger=ledger,
        )
    _report(request, sweep)
    statuses = [measure() for measure in spectra]
    return PARTIAL if sweep.failed or any(statuses) else 0


def _spectra(request: RunRequest, plan: Plan) -> list[Callable[[], int]]:
    """The spectral studies of `--spectrum` and of the suite: their options are checked now, they are measured later."""
    asked = dict.fromkeys(request.spectrum)
    used = {name for c in plan.configurations for e in c.evaluations for role in e.roles.values() for name in role}
    stored = any(c.model.quantized for c in plan.configurations)  # it has no full precision beside it
    layered = [c.quant for c in plan.configurations if not isinstance(c.quant, ArtifactQuant)]
    quantized = not stored and any("vision" in quant.towers for quant in layered)
    own = [name for name in plan.suite.spectrum if name in used and name not in asked and quantized]
    if not asked and not own:
        return []
    from benchmark.spectrum.request import beside
    from benchmark.spectrum.run import measure, prepare

    studies = [*(beside(request, name) for name in asked), *(beside(request, name, joint=True) for name in own)]
    return [partial(measure, prepare(study)) for study in studies]


def untimed_warnings(efficiencies: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each configuration whose speed could not be measured."""
    return [f"{e['quantization']} could not be timed: {e['error']}" for e in efficiencies if e["error"]]


def _trackers(request: RunRequest) -> list[Tracker]:
    """The requested trackers, not yet open; `--json` adds one that prints. Refuses unknown names before any work."""
    return [trackers.get(name) for name in dict.fromkeys([*request.trackers, *[STREAM_TRACKER] * request.json])]


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def _report(request: RunRequest, sweep: Sweep) -> None:
    """The table (on stdout; on stderr beside --json), failures, and where the results are."""
    plan = sweep.plan
    out = sys.stderr if request.json else sys.stdout
    keys = headline_keys(plan, sweep.records)
    if not request.json:
        tested = adjust(change for change in sweep.changes if change.key in keys)
        print_table(comparison_rows(plan, sweep.records, tested), keys, sweep.reports, plan)
        print_verdicts(sweep.changes, keys, sweep.reports, plan)
        print_data_sets(sweep.records)
        print_published(sweep.records)
        print_efficiency(sweep.efficiencies, plan)
    _warn(published.warnings(sweep.records))
    _warn(artifact_warnings(sweep.reports))
    _warn(untimed_warnings(sweep.efficiencies.values()))
    for name, reason in sweep.uncompared.items():
        print(f"warning: {name} cannot be compared with full precision: {reason}", file=sys.stderr)
    _warn([line for line in [mixed_versions(sweep.records)] if line])
    for line in failure_lines(sweep.failed):
        print(line, file=sys.stderr)
    _warn([*skipped_warnings(sweep.records), *prompt_warnings(sweep.records, plan.data)])
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
        + ("" if request.home == Path("mlruns") else f" --home {quote(str(request.home))}"),
        file=out,
    )
