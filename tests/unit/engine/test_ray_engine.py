"""The Ray executor on a cluster that is played by this process: what it asks for, groups, retries and says."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.data.pixels import PixelCache
from benchmark.engine import ray as engine
from benchmark.engine import worker
from benchmark.engine.banks import BankMaker
from benchmark.engine.plan import Plan, make_plan
from benchmark.engine.ray import requests
from benchmark.engine.request import RayOptions
from benchmark.engine.run import Sweep, run
from benchmark.engine.worker import Answer, Order
from benchmark.errors import StorageError
from benchmark.ledger.store import Store
from benchmark.models import ResolvedModel
from benchmark.spec.suite import load_suite, narrow
from benchmark.utils.progress import Silent
from tests.e2e.runs import QUANTS, SUITE


class RayError(Exception):
    """Ray's own failures."""


class RayTaskError(RayError):
    """A task raised."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Lost(RayError):
    """A worker died, again and again."""


@dataclass
class Cluster:
    """As much of the module `ray` as the executor uses; tasks run when they are asked for."""

    slots: int = 2
    spoil: Callable[[Order], None] = lambda order: None
    orders: list[Order] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)
    exceptions: Any = field(default_factory=lambda: SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))

    def remote(self, **options: Any) -> Callable[[Callable[[Order], Any]], Any]:
        self.asked = options
        return lambda function: SimpleNamespace(remote=lambda order: self._sent(function, order))

    def _sent(self, function: Callable[[Order], Any], order: Order) -> Any:
        self.orders.append(order)

        class Reference:
            def get(_) -> Any:
                self.spoil(order)
                try:
                    return function(order)
                except Exception as error:
                    raise RayTaskError(error) from error

        return Reference()

    def wait(self, references: Sequence[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return list(references[:1]), list(references[1:])

    def get(self, reference: Any) -> tuple[Answer, ...]:
        found: tuple[Answer, ...] = reference.get()
        return found

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.slots)}

    available_resources = cluster_resources

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}]

    def shutdown(self) -> None:
        pass


class Told(Silent):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "small.yaml").write_text(SUITE)
    return make_plan(narrow(load_suite(str(tmp_path / "small.yaml")), limit=6))


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, plan: Plan, tmp_path: Path) -> Callable[..., tuple[Sweep, list[str]]]:
    """Run the plan on such a cluster, all of whose tasks are done by this process as if by one worker."""
    monkeypatch.setattr(worker, "_held", {})
    monkeypatch.setattr(engine, "PAUSE", 0)

    def on(cluster: Cluster, home: Path = tmp_path / "home") -> tuple[Sweep, list[str]]:
        monkeypatch.setattr(engine, "connect", lambda options: cluster)
        told = Told()
        return run(plan, home, progress=told, compare=False, ray=RayOptions()), told.messages

    return on


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: list[Any]) -> None:
    real = getattr(owner, name)

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(self)
        return real(self, *arguments, **options)

    monkeypatch.setattr(owner, name, call)


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("gpus", [0.0, 0.5, 1.0])
def test_what_a_task_asks_for(gpus: float) -> None:
    """A process that has used a GPU ends with its task, so that the GPU's memory is free."""
    asked = requests(RayOptions(cpus=4, gpus=gpus))
    assert asked == {
        **{"num_cpus": 4, "num_gpus": gpus, "max_retries": 3, "name": "reliquant"},
        "max_calls": 0 if gpus == 0 else 1,
    }


@pytest.mark.parametrize(("slots", "sizes"), [(1, [4]), (2, [2, 2]), (3, [2, 2]), (8, [1, 1, 1, 1])])
def test_configurations_of_a_model_travel_together(
    on: Any, slots: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker loads the model once, opens each pixel store once a group, whatever the number of groups."""
    loads: list[Any] = []
    counted(monkeypatch, ResolvedModel, "load", loads)
    cluster = Cluster(slots)
    sweep, _ = on(cluster)
    assert [len(order.jobs) for order in cluster.orders] == sizes
    assert len(loads) == 1
    assert [record.status for record in sweep.records] == ["done"] * 12
    assert sweep.computed == 12
    assert cluster.asked == requests(RayOptions())


def test_pixels_are_decoded_once(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    counted(monkeypatch, PixelCache, "_make", made)
    on(Cluster())
    assert len(made) == 3  # scenes, far, and scenes with a corruption


def test_what_our_own_code_raises_is_the_reason_and_is_not_tried_again(
    on: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a group nobody knows whose it was: each is tried alone, and the others are done."""
    bad = plan.configurations[2].key

    def spoil(order: Order) -> None:
        monkeypatch.setattr(worker, "make_plan", make_plan)
        if any(job.configuration == bad for job in order.jobs):
            monkeypatch.setattr(worker, "make_plan", raising(ZeroDivisionError("by nothing")))

    cluster = Cluster(1, spoil)
    sweep, _ = on(cluster)
    assert [len(order.jobs) for order in cluster.orders] == [4, 1, 1, 1, 1]
    assert {r.quantization for r in sweep.failed} == {plan.configurations[2].quant.name}
    assert {r.error for r in sweep.failed} == {"ZeroDivisionError: by nothing"}
    assert all("by nothing" in r.provenance["traceback"] for r in sweep.failed)
    assert len(sweep.failed) == 3
    assert len(sweep.records) == 12


def test_a_worker_that_is_lost_again_and_again_fails_one_configuration(on: Any, plan: Plan) -> None:
    bad = plan.configurations[1].key

    def spoil(order: Order) -> None:
        if any(job.configuration == bad for job in order.jobs):
            raise Lost("The worker died unexpectedly\nmore lines")

    sweep, _ = on(Cluster(2, spoil))
    assert {(r.quantization, r.error) for r in sweep.failed} == {
        (plan.configurations[1].quant.name, "its worker was lost: The worker died unexpectedly")
    }
    assert len(sweep.failed) == 3


def test_a_task_that_fails_on_a_worker_is_recorded_with_its_reason(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = BankMaker.prepare

    def prepare(self: BankMaker, wanted: Any) -> None:
        if self.configuration.quant.name == QUANTS[1]:
            raise MemoryError
        real(self, wanted)

    monkeypatch.setattr(BankMaker, "prepare", prepare)
    cluster = Cluster(2)
    sweep, _ = on(cluster)
    assert [len(order.jobs) for order in cluster.orders] == [2, 2]
    assert {r.quantization for r in sweep.failed} == {QUANTS[1]}
    assert all((r.error or "").startswith("out of memory (MemoryError)") for r in sweep.failed)


def test_a_full_disk_on_a_worker_stops_with_one_clear_line(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived before is written; the next run goes on from there."""
    real, entries = Store.writing, 0

    def writing(self: Store, key: str, size: int = 0) -> Any:
        nonlocal entries
        entries += self.folder.name == "banks"
        if entries > 6:
            raise StorageError(f"the cache {self.folder} cannot be written: {os.strerror(errno.ENOSPC)}")
        return real(self, key, size)

    monkeypatch.setattr(Store, "writing", writing)
    with pytest.raises(StorageError, match=r"^worker \S+: the cache .* cannot be written: No space left on device$"):
        on(Cluster(1))
    monkeypatch.setattr(Store, "writing", real)
    sweep, _ = on(Cluster(1))
    assert not sweep.failed
    assert 0 < sweep.computed < 12


def test_damaged_entries_on_workers_are_all_said(on: Any, plan: Plan, tmp_path: Path) -> None:
    """Also when several are found in the same moment."""
    on(Cluster())
    (tmp_path / "home" / "ledger.jsonl").unlink()
    spoiled = sorted((tmp_path / "home" / "cache" / "banks").rglob("image.bin"))[:3]
    for path in spoiled:
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    sweep, messages = on(Cluster())
    said = [line for line in messages if line.startswith("damaged cache entry found and recomputed: ")]
    assert len(said) == len(spoiled) == 3
    assert not sweep.failed


def test_without_an_address_the_cluster_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would join whatever cluster it finds on this machine, one that is about to end, too."""
    ray = pytest.importorskip("ray")
    seen: list[str] = []
    monkeypatch.setattr(ray, "init", lambda address, **_: seen.append(address))
    monkeypatch.setattr(engine, "catch_stops", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    engine.connect(RayOptions())
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    engine.connect(RayOptions())
    engine.connect(RayOptions("ray://127.0.0.1"))
    assert seen == ["local", "auto", "ray://127.0.0.1"]
