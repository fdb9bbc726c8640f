"""`python -m tests.performance.load [--evaluations 20000] [--server 1600]`: 20,000 evaluations of a stub model.

The plan is the engine's own, of ten small checkpoints and as many short names as it takes; no image is embedded and
no task computed: outcomes are made up, with as many metrics as the demo's tasks have. They go through the ledger and
into MLflow on SQLite (parents, children, parameters, tags, tables), then a share of them through a tracking server on
127.0.0.1. Rates, their change as the store grows, and the answers of the server are written to docs/scale.md, with a
projection to 700,000 evaluations.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.engine.driver import tracked
from benchmark.engine.plan import Configuration, Plan, make_plan
from benchmark.ledger.records import Ledger, Record, ReportRow
from benchmark.plugins import Columns, Outcome, Summary
from benchmark.spec import SuiteSpec
from benchmark.spec.suite import expand_braces
from benchmark.tracking import FinishedConfiguration
from tests.layouts import write_image_folder
from tests.models_zoo import write_checkpoint
from tests.performance import load_page, load_server
from tests.performance.setting import BUILD, ROOT
from trackers.mlflow import MLflowTracker
from trackers.store import complete_configurations, default_uri

MODELS = 10
SHAPES = "{channel,tensor,g32,g64}-token-{vision,text,vision+text}"
NAMES = tuple(expand_braces("rtn-{w8,w7,w6,w5,w4,w3,w2}{a8,a7,a6,a5,a4}-" + SHAPES))
METRICS = {
    "zero_shot": ("test", 7),
    "calibration": ("test", 20),
    "ood": ("near", 60),
    "corruption": ("test", 100),
    "covariate_shift": ("test", 19),
    "spurious": ("test", 10),
    "selective": ("test", 4),
}
"""Binding and number of metrics, as the demo's records have them on average; one more OOD binding, `far`."""

SAMPLES = 20


def suite(folder: Path, configurations: int) -> SuiteSpec:
    """Eight evaluations for each of `configurations` (model, quantization) pairs, full precision included."""
    if not (folder / "images").is_dir():
        write_image_folder(folder / "images", ["cat", "dog"], 8)
    models = [write_checkpoint("ViT", folder / f"model{i}", seed=i) for i in range(MODELS)]
    roles: dict[str, dict[str, Any]] = {
        "zero_shot": {"test": "a"},
        "calibration": {"test": "a"},
        "ood": {"id": "a", "ood": "b"},
        "corruption": {"clean": "a", "corrupted": "c"},
        "covariate_shift": {"source": "a", "shifted": ["a"]},
        "spurious": {"common": "a", "counter": "a"},
        "selective": {"test": "a"},
    }
    images = {"source": "image_folder", "path": str(folder / "images")}
    tasks = {task: {METRICS[task][0]: bound} for task, bound in roles.items()}
    tasks["ood"]["far"] = {"id": "a", "ood": "b"}
    names = NAMES[: -(-configurations // MODELS) - 1]
    if len(names) < -(-configurations // MODELS) - 1:
        raise SystemExit(f"at most {8 * MODELS * (len(NAMES) + 1):,} evaluations")
    return SuiteSpec.model_validate(
        {
            "name": "load",
            "version": 1,
            "models": models,
            "quantizations": ["fp32", *names],
            "data": {"a": images, "b": {**images, "text": "none"}, "c": {**images, "corruptions": "all"}},
            "tasks": tasks,
        }
    )


def finished(plan: Plan, configuration: Configuration, rng: np.random.Generator) -> FinishedConfiguration:
    """What the engine hands to trackers, with made-up outcomes."""
    records, outcomes, references = [], {}, {}
    for evaluation in configuration.evaluations:
        count = METRICS[evaluation.task.name][1]
        headline = next(m.name for m in evaluation.task.metrics if m.headline)
        keys = [headline, *(f"part{i}/{headline}" for i in range(1, count))]
        metrics = dict(zip(keys, rng.random(count).tolist(), strict=True))
        ids = np.array([f"s{i:05d}" for i in range(SAMPLES)])
        samples = {"sample_id": ids, "correct": rng.random(SAMPLES) < 0.7}
        outcome = Outcome(Columns({"test": samples}), Summary(metrics))
        record = Record(
            key=evaluation.key,
            configuration=configuration.key,
            suite=plan.suite.name,
            model=configuration.model.name,
            quantization=configuration.quant.name,
            task=evaluation.task.name,
            dataset=evaluation.label,
            status="done",
            seconds=0.0,
            metrics={f"{evaluation.name}/{key}": value for key, value in metrics.items()},
            provenance={"versions": {f"package{i}": "1.2.3" for i in range(6)}, "data": {"a": "0" * 64, "c": "1" * 64}},
            comparison_key=evaluation.comparison_key,
        )
        records.append(record)
        outcomes[record.key] = outcome
        references[evaluation.name] = outcome
    told = tracked(plan, configuration)
    undrawn = tuple(replace(e, task=replace(e.task, drawing=None)) for e in told.evaluations)
    return FinishedConfiguration(
        suite=plan.suite,
        configuration=replace(told, evaluations=undrawn),
        report={"towers": {}},
        records=tuple(records),
        outcomes=outcomes,
        references=references if configuration.quant.method != "fp32" else {},
    )


def kept(function: Any, *arguments: Any) -> float:
    """MiB that a call's result takes; the call is made once more for this, slowed down by the counting."""
    gc.collect()
    tracemalloc.start()
    result = function(*arguments)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del result
    return float(size) / 2**20


def made(plan: Plan, configurations: int) -> Iterator[FinishedConfiguration]:
    """The configurations of the plan, finished."""
    rng = np.random.default_rng(0)
    for configuration in plan.configurations[:configurations]:
        yield finished(plan, configuration, rng)


def write_ledger(ledger: Ledger, plan: Plan, configurations: int) -> list[tuple[int, float]]:
    """Append everything; (evaluations, seconds) as it goes."""
    points, done, start = [], 0, time.monotonic()
    for each in made(plan, configurations):
        if each.report:
            ledger.append_report(ReportRow(each.configuration.quantized_key, each.report))
        for record in each.records:
            ledger.append(record, each.outcomes[record.key])
        done += len(each.records)
        points.append((done, time.monotonic() - start))
    return points


def track(tracker: MLflowTracker, plan: Plan, first: int, last: int) -> list[tuple[int, float]]:
    """Log configurations; (evaluations, seconds) as it goes, with a line of progress now and then."""
    points, done, start = [], 0, time.monotonic()
    for number, each in enumerate(made(plan, last)):
        if number < first:
            continue
        tracker.log(each)
        done += len(each.records)
        points.append((done, time.monotonic() - start))
        if number % 100 == 99:
            rate = done / points[-1][1]
            print(f"  {done:,} evaluations tracked, {rate:.1f} a second", file=sys.stderr, flush=True)
    return points


def timed(function: Any, *arguments: Any) -> tuple[Any, float]:
    """A call's result and its wall time."""
    start = time.monotonic()
    result = function(*arguments)
    return result, time.monotonic() - start


def measure(folder: Path, evaluations: int, through_server: int) -> dict[str, Any]:
    """Everything, in a fresh folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    configurations, served = -(-evaluations // 8), -(-through_server // 8)
    found: dict[str, Any] = {"configurations": configurations, "evaluations": 8 * configurations, "plan": []}
    for part in (0, configurations // 2, configurations + served):  # the first opens the data
        spec = suite(folder, max(part, MODELS))
        plan, seconds = timed(make_plan, spec)
        found["plan"].append([8 * len(plan.configurations), seconds, kept(make_plan, spec)])
    print(f"plan: {found['plan'][-1][1]:.1f} s; writing the ledger", file=sys.stderr, flush=True)
    home = folder / "home"
    found["ledger"] = write_ledger(Ledger(home), plan, configurations)
    loaded, seconds = timed(Ledger, home)
    rows, size = len(loaded.records), (home / "ledger.jsonl").stat().st_size
    del loaded
    found["load"] = {"rows": rows, "seconds": seconds, "mib": kept(Ledger, home), "bytes": size}
    print("tracking on SQLite", file=sys.stderr, flush=True)
    address = default_uri(home)
    found["sqlite"] = track(MLflowTracker().open(home, address), plan, 0, configurations)
    known, seconds = timed(complete_configurations, address, "load")
    found["known"] = {"configurations": len(known or {}), "seconds": seconds}
    reopened = MLflowTracker().open(home, address)
    reopened.connect()
    last = list(made(plan, configurations))[-1]
    found["reopened"] = {"seconds": timed(reopened.log, last)[1]}
    found["database"] = (home / "mlflow.db").stat().st_size
    print("tracking through a server", file=sys.stderr, flush=True)
    with load_server.serving(home, address) as url:
        found["search"] = load_server.searches(url)
        server = MLflowTracker().open(home, url)
        found["server"] = track(server, plan, configurations, configurations + served)
        found["search_after"] = load_server.searches(url)
    return found


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=20_000)
    parser.add_argument("--server", type=int, default=1_600, help="further evaluations, through a tracking server")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "scale.md")
    options = parser.parse_args()
    folder = BUILD / "load"
    found = measure(folder, options.evaluations, options.server)
    (folder / "results.json").write_text(json.dumps(found))
    command = f"python -m tests.performance.load --evaluations {options.evaluations} --server {options.server}"
    load_page.write(options.output, found, command)


if __name__ == "__main__":
    main()
