"""Size always; speed only of real kernels."""

from __future__ import annotations

import json

import pytest
import torch

from benchmark.quantization import parse, quantize
from benchmark.quantization.efficiency import Efficiency, _times, efficiency, real_kernel
from benchmark.spec import FP32
from tests.quant_models import calibration, toy


def measured(name: str) -> Efficiency:
    model, spec = toy(), FP32 if name == "fp32" else parse(name)
    changed, report = quantize(model, spec, calibration(8), exact_float=True)
    return efficiency(model, spec, changed, report, batch=4, budget_s=0.0)


@pytest.mark.parametrize("name", ["fp32", "bnb-nf4-vision", "rtn-w4-text"])
def test_real_kernels_are_timed(name: str) -> None:
    result = measured(name)
    assert result.kernel == "real"
    assert result.speed is not None
    assert result.speed.images_per_second > 0
    assert 0 < result.speed.latency_ms_p50 <= result.speed.latency_ms_p95
    assert result.speed.runs >= (2, 5)
    assert result.packed_bytes <= result.float_bytes
    json.dumps(result.to_json(), allow_nan=False)


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
    assert _times(toy(), torch.zeros(1), 0.5, 2, 2) == counted


@pytest.mark.parametrize("name", ["rtn-w4-vision", "gptq-w3-g16-vision", "fp8-w8a8-vision", "rtn-w8-asym-vision"])
def test_a_simulation_has_a_size_and_no_speed(name: str) -> None:
    result = measured(name)
    assert result.kernel == "simulated"
    assert result.speed is None
    assert result.packed_bytes < 0.6 * result.float_bytes


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("rtn-w8-vision", "torchao-int8wo-vision"), ("fp8-w8-vision", "torchao-fp8wo-vision")],
)
def test_eight_bit_weights_are_timed_through_torchao(name: str, kernel: str) -> None:
    pytest.importorskip("torchao")
    result = measured(name)
    assert result.kernel == "real"
    assert result.speed is not None
    assert result.speed.timed == kernel
    assert result.speed.engine == "torchao"


@pytest.mark.parametrize(
    ("each", "runs"),
    [(0.01, 50), (0.05, 20), (0.2, 13), (1.0, 5)],  # the budget; 20 of them; patience is over; the least
)
def test_single_images_are_timed_often_enough_for_a_p95(
    monkeypatch: pytest.MonkeyPatch, each: float, runs: int
) -> None:
    monkeypatch.setattr("benchmark.quantization.efficiency._run", lambda *_: each)
    assert len(_times(toy(), torch.zeros(1), 0.5, 5, 20)) == runs


def test_only_the_same_scheme_counts_as_the_same_kernel() -> None:
    pytest.importorskip("torchao")
    kept = real_kernel(parse("rtn-w8a8-skip_%2Aproj-vision+text"))
    assert kept is not None
    assert kept.name == "torchao-int8da-skip_%2Aproj-vision+text"
    weights = real_kernel(parse("rtn-w8-skip_%2Aproj-text"))
    assert weights is not None
    assert weights.name == "torchao-int8wo-skip_%2Aproj-text"
    for name in ("rtn-w8-tensor-vision", "rtn-w8a8-channel-tensor-vision", "mse-w8-vision", "rtn-w8-bits_a_4-vision"):
        assert real_kernel(parse(name)) is None
