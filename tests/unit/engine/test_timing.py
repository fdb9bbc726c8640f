"""When a configuration is timed, and what a failure costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.engine import timing
from benchmark.ledger.records import EfficiencyRow, Ledger
from benchmark.quantization import efficiency, parse, quantize
from benchmark.quantization.efficiency import Efficiency
from benchmark.utils.progress import Silent
from tests.quant_models import toy

NAME = "bnb-nf4-vision"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every pass takes 10 ms, so that no timing is noisy."""
    monkeypatch.setattr(efficiency, "_run", lambda *_: 0.01)


class Maker:
    """As much of a BankMaker as timing looks at."""

    def __init__(self, in_memory: bool) -> None:
        self.configuration = SimpleNamespace(
            quantized_key="c1", quant=parse(NAME), model=SimpleNamespace(quantized=None)
        )
        self.holder = SimpleNamespace(model=toy())
        self.artifact = self.statistics = None
        self.in_memory, self.loads, self.progress = in_memory, 0, Heard()

    @property
    def quantized(self) -> Any:
        self.loads += 1
        return quantize(self.holder.model, self.configuration.quant)


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        """Keep it."""
        self.messages.append(text)


def timed(home: Path, how: timing.Timing, in_memory: bool = True) -> tuple[Maker, EfficiencyRow | None]:
    maker: Any = Maker(in_memory)
    timing.time_configuration(maker, Ledger(home), how)
    return maker, Ledger(home).efficiencies.get("c1")


def test_a_new_configuration_is_timed_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker, row = timed(tmp_path, "new")
    assert maker.loads == 1
    assert row is not None
    assert row.machine == timing.platform.node()
    assert row.efficiency["quantization"] == NAME
    assert timed(tmp_path, "new")[0].loads == 0
    monkeypatch.setattr(timing.platform, "node", lambda: "elsewhere")
    again, row = timed(tmp_path, "new")
    assert again.loads == 1
    assert row is not None
    assert row.machine == "elsewhere"


def test_a_model_that_is_not_in_memory_is_not_loaded_unless_asked_for(tmp_path: Path) -> None:
    assert timed(tmp_path, "new", in_memory=False)[1] is None
    maker, row = timed(tmp_path, "again", in_memory=False)
    assert maker.loads == 1
    assert row is not None


def test_never_means_never(tmp_path: Path) -> None:
    maker, row = timed(tmp_path, "never")
    assert maker.loads == 0
    assert row is None


def test_a_failure_stands_in_the_row_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("kernel of another library")

    monkeypatch.setattr(efficiency, "_rounds", broken)
    _, row = timed(tmp_path, "new")
    assert row is not None
    assert row.efficiency["error"] == "RuntimeError: kernel of another library"
    assert row.efficiency["speed"] is None
    assert 0 < row.efficiency["packed_bytes"] < row.efficiency["float_bytes"]
    monkeypatch.undo()
    again, row = timed(tmp_path, "new")
    assert again.loads == 1
    assert row is not None
    assert row.efficiency["error"] is None


@pytest.mark.parametrize("noisy", [True, False])
def test_noisy_times_are_taken_again(noisy: bool, tmp_path: Path) -> None:
    _, row = timed(tmp_path, "new")
    assert row is not None
    told = {**row.efficiency, "speed": {**row.efficiency["speed"], "noisy": noisy}}
    Ledger(tmp_path).append_efficiency(replace(row, efficiency=told))
    assert timed(tmp_path, "new")[0].loads == int(noisy)


def test_a_model_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Maker) -> None:
        raise RuntimeError("no such weights")

    monkeypatch.setattr(Maker, "quantized", property(broken))
    maker, row = timed(tmp_path, "again", in_memory=False)
    assert row is None
    assert maker.progress.messages == [f"{NAME} could not be timed: no such weights"]


def test_a_size_is_that_of_the_whole_model() -> None:
    """So that scopes compare: what is not in the scope counts with its float32 bytes."""
    model = toy()
    whole = 4 * sum(p.numel() for p in model.module.parameters())
    sizes = {}
    for scope in ("vision", "text", "vision+text"):
        spec = parse(f"rtn-w4-{scope}")
        found: Efficiency = efficiency.efficiency(model, spec, *quantize(model, spec), batch=2, budget_s=0.0)
        assert found.float_bytes == whole
        sizes[scope] = whole - found.packed_bytes
    assert sizes["vision"] + sizes["text"] == sizes["vision+text"]
    assert min(sizes.values()) > 0
