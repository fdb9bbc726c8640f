"""Size always; speed only of what is shipped, in alternation with full precision."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.metrics.speed_ratio import speed_ratio
from benchmark.quantization import efficiency as efficiencies
from benchmark.quantization import parse, quantize
from benchmark.quantization.efficiency import Efficiency, _rounds, _times, efficiency, shipped_engine
from benchmark.quantization.kernels.selection import FLOAT_ENGINE
from benchmark.quantization.rtn import RoundToNearest
from benchmark.spec import FP32
from tests.quant_models import calibration, toy


def measured(name: str, exact_float: bool = True) -> Efficiency:
    model, spec = toy(), FP32 if name == "fp32" else parse(name)
    changed, report = quantize(model, spec, calibration(8), exact_float=exact_float)
    return efficiency(model, spec, changed, report, batch=4, budget_s=0.0)


@pytest.mark.parametrize("name", ["fp32", "bnb-nf4-vision", "rtn-w4-text"])
def test_real_kernels_are_timed(name: str) -> None:
    result = measured(name)
    assert result.kernel == "real"
    assert result.speed is not None
    assert result.speed.images_per_second > 0
    assert 0 < result.speed.latency_ms_p50 <= result.speed.latency_ms_p95
    assert 0 < result.speed.latency_ratio_low <= result.speed.latency_ratio <= result.speed.latency_ratio_high
    assert result.speed.full_ms_p50 > 0
    assert (result.speed.rounds, result.speed.batches) == (6, 2)
    assert result.packed_bytes <= result.float_bytes
    json.dumps(result.to_json(), allow_nan=False)


def test_both_models_are_timed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass each round while they are slow; who goes first changes."""
    full: Any
    full, other, ran = "full", "other", []

    def run(model: str, _: object) -> float:
        ran.append(model)
        return (2.0 if model == "other" else 1.0) * 1.1 ** (len(ran) // 2)

    monkeypatch.setattr(efficiencies, "_run", run)
    single, reference = _rounds([other, full], torch.zeros(1), 0.0)  # type: ignore[arg-type]
    assert ran[4:] == ["other", "full", "full", "other"] * 3
    assert speed_ratio(single, reference).value == pytest.approx(2.0), "a drift goes out where the order changes"
    assert np.shape(single) == (6, 1)


@pytest.mark.parametrize(("each", "passes"), [(0.001, 3), (0.06, 1), (0.04, 2)])
def test_a_round_of_a_fast_model_has_several_passes(each: float, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiencies, "_run", lambda *_: each)
    single, _ = _rounds([toy(), toy()], torch.zeros(1), 0.0)
    assert np.shape(single) == (6, passes)


@pytest.mark.parametrize(("wild", "noisy"), [(0.02, False), (0.8, True)])
def test_a_ratio_that_does_not_settle_is_noisy(wild: float, noisy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(efficiencies, "_run", lambda *_: float(rng.lognormal(-7, wild)))
    speed = measured("fp32").speed
    assert speed is not None
    assert speed.noisy == noisy


@pytest.mark.parametrize(
    ("passes", "counted"),
    [
        ([3.0, 2.9, 2.8], [3.0, 2.9]),  # so long that warming up is lost in it
        ([9.0, 2.9, 2.8], [2.9, 2.8]),  # it was compiled first
        ([0.3, 0.2, 0.2, 0.2], [0.2, 0.2, 0.2]),
        ([0.9, 0.9, 0.9], [0.9, 0.9]),
    ],
)
def test_which_passes_count(monkeypatch: pytest.MonkeyPatch, passes: list[float], counted: list[float]) -> None:
    left = list(passes)
    monkeypatch.setattr("benchmark.quantization.efficiency._run", lambda *_: left.pop(0))
    assert _times(toy(), torch.zeros(1), 0.5, 2) == counted


@pytest.mark.parametrize("name", ["rtn-w4-vision", "gptq-w3-g16-vision", "fp8-w8a8-vision", "rtn-w8-asym-vision"])
def test_a_simulation_has_a_size_and_no_speed(name: str) -> None:
    result = measured(name)
    assert result.kernel == "simulated"
    assert result.speed is None
    assert result.packed_bytes < 0.6 * result.float_bytes


def test_an_integer_engine_is_real_only_where_export_writes_what_runs_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, spec = toy(), parse("rtn-w8a8-channel-token-vision")
    report = quantize(model, spec)[1]
    engines = {"int8-onednn": 4}

    def with_engines(found: dict[str, int]) -> Any:
        return replace(report, towers={"vision": replace(report.towers["vision"], engines=found)})

    assert shipped_engine(spec, with_engines(engines)) == "int8-onednn"
    assert shipped_engine(spec, with_engines({**engines, "int8-gemm": 1})) == "int8-gemm+int8-onednn"
    assert shipped_engine(spec, with_engines({**engines, FLOAT_ENGINE: 1})) is None, "one layer on dequantized floats"
    monkeypatch.setattr(RoundToNearest, "is_stored", False)
    assert shipped_engine(spec, with_engines(engines)) is None, "an emulation that no file runs on"


def test_float32_on_the_runtime_is_timed_in_the_same_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first model against two others: each round has all three, and their order turns."""
    model: Any
    model, full, own, ran = "model", "full", "own", []

    def run(each: str, _: object) -> float:
        ran.append(each)
        return {"model": 1.0, "full": 4.0, "own": 2.0}[each]

    monkeypatch.setattr(efficiencies, "_run", run)
    first, *others = _rounds([model, full, own], torch.zeros(1), 0.0)  # type: ignore[list-item]
    assert ran[6:12] == ["model", "full", "own", "own", "full", "model"]
    assert [speed_ratio(first, each).value for each in others] == pytest.approx([0.25, 0.5])
