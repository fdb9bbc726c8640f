"""Small sweeps for the tests of crashes and of shared work: started in processes that have imported everything."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.ledger.records import Ledger, Record
from benchmark.spec import digest

QUANTS = ("rtn-w8a8-channel-token-vision", "rtn-w4a8-channel-token-vision", "rtn-w4a8-channel-token-vision+text")
SUITE = """
name: small
version: 1
models: [demo]
quantizations: [fp32, QUANTS]
data:
  scenes: {source: demo, split: test}
  far: {source: demo, split: far_ood, text: none}
  scenes-c: {source: demo, split: test, corruptions: [contrast], severities: [5]}
tasks:
  zero_shot:
    scenes: {test: scenes}
  ood:
    scenes.far: {id: scenes, ood: far}
  corruption:
    scenes: {clean: scenes, corrupted: scenes-c}
""".replace("QUANTS", ", ".join(QUANTS))
EVALUATIONS = 3 * (1 + len(QUANTS))

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("tests.e2e.runs", "benchmark.cli.run", "benchmark.results.compare", "benchmark.quantization.rtn"),
        *("tasks.zero_shot", "tasks.ood", "tasks.corruption", "trackers.jsonl", "trackers.mlflow"),
        *("open_clip", "hqq.core.quantize", "bitsandbytes", "scipy.stats", "datasets", "benchmark.data.corruptions"),
    ]
)


def command(folder: Path, *arguments: str, tracker: str = "jsonl") -> list[str]:
    """`reliquant run` of the small suite in a folder, with results in `folder/home`."""
    suite = folder / "small.yaml"
    if not suite.exists():
        suite.write_text(SUITE)
    where = ["--limit", "24", "--home", str(folder / "home"), "--tracker", tracker, "--no-speed"]
    return ["run", str(suite), *where, *arguments]


def start(folder: Path, *arguments: str, tracker: str = "jsonl", spoil: Callable[[], object] = int) -> BaseProcess:
    """Start it; its output goes to `folder/log`.

    Args:
        spoil: called in the process before the command.
    """
    return main(folder, *command(folder, *arguments, tracker=tracker), spoil=spoil)


def main(folder: Path, *arguments: str, spoil: Callable[[], object] = int) -> BaseProcess:
    """Start any `reliquant` command; its output goes to `folder/log`."""
    process = _context.Process(target=_main, args=(list(arguments), folder / "log", spoil))
    process.start()
    return process


def _main(arguments: list[str], log: Path, spoil: Callable[[], object]) -> None:
    log.unlink(missing_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
    sys.argv = ["reliquant", *arguments]
    spoil()
    from benchmark.cli import app

    app.main()


def finish(process: BaseProcess, seconds: float = 300) -> int | None:
    """Its exit status."""
    process.join(seconds)
    return process.exitcode


def content(record: Record) -> dict[str, Any]:
    """What of a record does not depend on when and where it was made."""
    return {
        "status": record.status,
        "metrics": dict(record.metrics),
        "notes": dict(record.notes),
        "names": (record.suite, record.model, record.quantization, record.task, record.dataset, record.comparison_key),
        "configuration": record.configuration,
    }


def results(home: Path) -> dict[str, Any]:
    """Evaluation key -> record and samples; checks that no finished record stands twice and all can be read."""
    ledger = Ledger(home)
    rows = [json.loads(line) for line in (home / "ledger.jsonl").read_bytes().splitlines() if line.endswith(b"}")]
    whole = [row for row in rows if row.pop("sha256") == digest(row)]
    counts = Counter(row["key"] for row in whole if row["kind"] == "record" and row["status"] == "done")
    assert set(counts.values()) <= {1}, counts
    found = {}
    for key, record in ledger.records.items():
        outcome = ledger.outcome(record)
        groups = {**outcome.columns.groups, "about": outcome.columns.about}
        arrays = {f"{group}/{name}": column for group, columns in groups.items() for name, column in columns.items()}
        found[key] = (content(record), {name: _exact(array) for name, array in arrays.items()})
    return found


def _exact(array: Any) -> tuple[str, tuple[int, ...], bytes]:
    array = np.asarray(array)
    return str(array.dtype), array.shape, array.tobytes()


def leftovers(home: Path) -> list[str]:
    """Files that a writer should have renamed or taken away, except those of killed ones that wait for their age."""
    return [str(path) for path in home.rglob("*.owner")]


def sweep(folder: Path, answers: Any) -> None:
    """Run the small suite by the Python interface; answers (evaluations computed, images embedded)."""
    from benchmark.engine import local
    from benchmark.engine.plan import make_plan
    from benchmark.engine.run import run
    from benchmark.spec.suite import load_suite, narrow
    from trackers.jsonl import JsonlTracker

    local.PAUSE = 0.05
    command(folder)
    plan = make_plan(narrow(load_suite(str(folder / "small.yaml")), limit=24))
    home = folder / "home"
    found = run(plan, home, trackers=[JsonlTracker().open(home)])
    assert [r.quantization for r in found.records] == [c.quant.name for c in plan.configurations for _ in range(3)]
    assert len(found.changes) > 0
    answers.put((found.computed, found.forward_images))


def sweeps(folder: Path, processes: int) -> list[tuple[int, int]]:
    """What so many processes that share one results folder computed."""
    answers = _context.Queue()
    workers = [_context.Process(target=sweep, args=(folder, answers)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    assert [finish(worker) for worker in workers] == [0] * processes
    return [answers.get(timeout=10) for _ in workers]
