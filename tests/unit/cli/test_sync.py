"""`reliquant sync`: what a run elsewhere has finished comes to the tracker, whatever this machine lacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.cli import sync
from benchmark.engine.plan import Plan, Settings, make_plan
from benchmark.engine.request import SyncRequest
from benchmark.errors import InputError, StorageError
from benchmark.ledger.records import Ledger
from benchmark.quantization.kernels.selection import ENGINES
from benchmark.spec.suite import load_suite, narrow
from benchmark.tracking import FinishedConfiguration, FinishedSweep, Tracker
from tests.e2e.runs import QUANTS, SUITE
from tests.unit.ledger.test_ledger import record


@dataclass
class Heard(Tracker):
    """Keeps what it is told; its server goes away after so many configurations."""

    name = "mlflow"
    patience: int = 1000
    told: list[str] = field(default_factory=list)

    def open(self, home: Path, uri: str | None = None) -> Heard:
        return self

    def log(self, finished: FinishedConfiguration) -> None:
        if len(self.told) >= self.patience:
            raise ConnectionError("HTTPConnectionPool(host='gone', port=5000):\\nMax retries exceeded")
        self.told.append(finished.configuration.quant.name)

    def log_sweep(self, sweep: FinishedSweep) -> None:
        pass


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Heard:
    heard = Heard()
    monkeypatch.setattr(sync.trackers, "get", lambda name: heard)
    return heard


def request_of(folder: Path, **fields: Any) -> SyncRequest:
    (folder / "small.yaml").write_text(SUITE)
    return SyncRequest(suite=str(folder / "small.yaml"), home=folder / "home", limit=6, quiet=True, **fields)


def plan_of(request: SyncRequest, settings: Settings) -> Plan:
    return make_plan(narrow(load_suite(request.suite), limit=6), settings)


def fill(home: Path, plan: Plan) -> None:
    """Finished records of a plan without samples."""
    ledger = Ledger(home)
    for configuration in plan.configurations:
        for e in configuration.evaluations:
            names = {"model": "demo", "quantization": configuration.quant.name, "task": e.task.name}
            ledger.append(
                record(e.key, **names, dataset=e.label, comparison_key=e.comparison_key, metrics={}, notes={})
            )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_device_of_the_run_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: Heard, device: str, engine: str
) -> None:
    def absent(*_: object) -> None:
        raise RuntimeError("Found no NVIDIA driver on your system")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", absent)
    request = request_of(tmp_path, device=device)
    fill(request.home, plan_of(request, Settings(device, engine=engine)))
    assert sync.sync_suite(request) == 0
    assert tracker.told == ["fp32", *QUANTS]


def test_a_device_that_is_misspelt_is_refused(tmp_path: Path, tracker: Heard) -> None:
    with pytest.raises(InputError, match="--device 'gpu': expected cpu, cuda or cuda:N"):
        sync.sync_suite(request_of(tmp_path, device="gpu"))


def test_a_server_that_goes_is_one_clear_line_and_the_next_sync_goes_on(tmp_path: Path, tracker: Heard) -> None:
    request = request_of(tmp_path)
    fill(request.home, plan_of(request, Settings()))
    before = (request.home / "ledger.jsonl").read_bytes()
    tracker.patience = 2
    with pytest.raises(StorageError) as caught:
        sync.sync_suite(request)
    assert str(caught.value).startswith("tracker 'mlflow' could not be written (ConnectionError: HTTPConnectionPool")
    assert str(caught.value).endswith(
        "Nothing is lost, the ledger has everything: once it is back, run the same command again."
    )
    assert "\n" not in str(caught.value)
    assert tracker.told == ["fp32", QUANTS[0]]
    assert (request.home / "ledger.jsonl").read_bytes() == before
    assert not list(request.home.rglob("*.owner"))
    tracker.patience, tracker.told = 1000, []
    assert sync.sync_suite(request) == 0
    assert tracker.told == ["fp32", *QUANTS]
