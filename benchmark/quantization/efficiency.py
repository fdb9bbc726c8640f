"""Size and speed of a configuration: packed bytes always, times only of what is shipped.

A fake quantization has no speed of its own: its float arithmetic says nothing about a deployment. Integer engines and
the kernels of other libraries are timed, against full precision in alternating rounds, where what `export` writes runs
on them; everything else is "simulated".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.metrics.speed_ratio import another_round, speed_ratio
from benchmark.models.base import ClipModel
from benchmark.quantization.base import Kernel
from benchmark.quantization.kernels.int8 import cpu_capability
from benchmark.quantization.kernels.selection import FLOAT_ENGINE
from benchmark.quantization.registry import quantizers
from benchmark.quantization.report import QuantizationReport
from benchmark.spec import QuantSpec

_BLOCK_S, _MOST_PASSES = 0.1, 3
"""Passes of one model in a round: as many as fit into so many seconds, 1 to 3."""
_BATCHES_SHARE = 0.2
"""Share of the budget for whole batches."""
_LEAST_BATCHES = 2
_LONG, _SAME = 2.0, 1.1
"""In units of the budget, and of the second pass: when the first pass counts, too."""


@dataclass(frozen=True)
class Speed:
    """Times of the image tower on one machine, full precision's beside them.

    Attributes:
        engine: the kernel that computed it.
        batch: images a batch for `images_per_second`.
        latency_ms_p50, latency_ms_p95: of one image alone. full_ms_p50: the same of full precision, in the same rounds.
        latency_ratio, latency_ratio_low, latency_ratio_high: latency as a share of full precision's, with 95 % interval
            (`benchmark.metrics.speed_ratio`); of full precision itself what two timings of the same model differ by.
        runtime_ratio, runtime_ratio_low, runtime_ratio_high: the same ratio to the model in float32 on the runtime that
            it was quantized for, in the same rounds; None where that is torch.
        noisy: a ratio is not known within 10 %: nothing may be concluded from these times.
        rounds, passes: alternating rounds, and images timed of each model. batches: timed batches.
        threads, device, cpu: where.
    """

    engine: str
    batch: int
    images_per_second: float
    latency_ms_p50: float
    latency_ms_p95: float
    full_ms_p50: float
    latency_ratio: float
    latency_ratio_low: float
    latency_ratio_high: float
    noisy: bool
    rounds: int
    passes: int
    batches: int
    threads: int
    device: str
    cpu: str
    runtime_ratio: float | None = None
    runtime_ratio_low: float | None = None
    runtime_ratio_high: float | None = None


@dataclass(frozen=True)
class Efficiency:
    """Size of the whole model, and the speed of the image tower where a real kernel exists.

    Attributes:
        quantization: short name.
        packed_bytes, float_bytes: all parameters of the model, after and before.
        kernel: "real", or "simulated" where nothing that is shipped runs on it.
        speed: None where `kernel` is "simulated", and where timing failed.
        error: why timing failed.
    """

    quantization: str
    packed_bytes: int
    float_bytes: int
    kernel: Kernel
    speed: Speed | None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def efficiency(
    model: ClipModel,
    spec: QuantSpec,
    quantized: ClipModel,
    report: QuantizationReport,
    batch: int = 32,
    budget_s: float = 2.0,
    runtime_float: ClipModel | None = None,
) -> Efficiency:
    """Size and speed of a quantization.

    Args:
        model: full precision, which is timed in alternation with `quantized`. Both are in memory meanwhile.
        spec, quantized, report: the quantization, its model and its report.
        batch: images a batch.
        budget_s: seconds to spend at most, beyond 6 rounds and 2 batches.
        runtime_float: full precision on the runtime of `quantized`, which is timed in the same rounds.

    Returns:
        Sizes and times; where timing fails, its reason in `error` instead of times.
    """
    whole = 4 * sum(p.numel() for p in model.module.parameters())
    packed = whole - sum(tower.float_bytes - (tower.packed_bytes or 0) for tower in report.towers.values())
    engine = shipped_engine(spec, report)
    if engine is None:
        return Efficiency(spec.name, packed, whole, "simulated", None)
    others = [model] if runtime_float is None else [model, runtime_float]
    try:
        return Efficiency(spec.name, packed, whole, "real", _speed(others, quantized, engine, batch, budget_s))
    except Exception as error:  # a kernel of another library may raise anything; the size is known regardless
        return Efficiency(spec.name, packed, whole, "real", None, f"{type(error).__name__}: {error}")


def shipped_engine(spec: QuantSpec, report: QuantizationReport) -> str | None:
    """The engine of the image tower, if a model that leaves this program runs on it; None for an emulation.

    Full precision is `float`. A quantized tower qualifies where none of its layers is computed on dequantized floats
    and the method either uses another library's kernels or has a stored form, which `export` writes and which is
    rebuilt on the same engine.
    """
    if "vision" not in spec.towers:
        return "float"
    engines = report.towers["vision"].engines
    if report.kind == "artifact":
        return "+".join(sorted(engines))
    method = quantizers.get(spec.method)
    if not engines or FLOAT_ENGINE in engines or not (method.kernel == "real" or method.is_stored):
        return None
    return "+".join(sorted(engines))


def _speed(others: Sequence[ClipModel], model: ClipModel, engine: str, batch: int, budget_s: float) -> Speed:
    height, width = model.preprocess.size
    noise = np.random.default_rng(0).integers(0, 256, (batch, 3, height, width), dtype=np.uint8)
    pixels = torch.from_numpy(noise).to(model.device)
    single, reference, *runtime = _rounds([model, *others], pixels[:1], budget_s)
    many = _times(model, pixels, budget_s * _BATCHES_SHARE, _LEAST_BATCHES)
    p50, p95 = np.percentile(single, [50, 95]) * 1000
    ratio, device = speed_ratio(single, reference), model.device
    own = speed_ratio(single, runtime[0]) if runtime else None
    return Speed(
        engine=engine,
        batch=batch,
        images_per_second=batch / float(np.median(many)),
        latency_ms_p50=float(p50),
        latency_ms_p95=float(p95),
        full_ms_p50=float(np.median(reference)) * 1000,
        latency_ratio=ratio.value,
        latency_ratio_low=ratio.low,
        latency_ratio_high=ratio.high,
        noisy=not (ratio.settled and (own is None or own.settled)),
        rounds=ratio.rounds,
        passes=sum(map(len, single)),
        batches=len(many),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        cpu=cpu_capability(),
        runtime_ratio=None if own is None else own.value,
        runtime_ratio_low=None if own is None else own.low,
        runtime_ratio_high=None if own is None else own.high,
    )


def _rounds(models: Sequence[ClipModel], pixels: Tensor, budget_s: float) -> list[list[list[float]]]:
    """Seconds of each model's passes, a row a round; the order changes from round to round.

    Rounds go on until the ratio of the first model to each of the others is settled.
    """
    for each in models:
        _run(each, pixels)  # compiles, fills caches
    passes = int(np.clip(_BLOCK_S / max(_run(each, pixels) for each in models), 1, _MOST_PASSES))
    found: list[list[list[float]]] = [[] for _ in models]
    start = time.perf_counter()
    while any(another_round(found[0], each, time.perf_counter() - start, budget_s) for each in found[1:]):
        order = range(len(models)) if len(found[0]) % 2 == 0 else reversed(range(len(models)))
        for side in order:
            found[side].append([_run(models[side], pixels) for _ in range(passes)])
    return found


def _times(model: ClipModel, pixels: Tensor, budget_s: float, least: int) -> Sequence[float]:
    """Seconds of repeated forward passes. The first is a warm-up; it counts if long and not slower than the second."""
    first, second = _run(model, pixels), _run(model, pixels)
    times = [first, second] if _LONG * budget_s < first < _SAME * second else [second]
    while len(times) < least or sum(times) < budget_s:
        times.append(_run(model, pixels))
    return times


def _run(model: ClipModel, pixels: Tensor) -> float:
    cuda = pixels.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(pixels.device)
    start = time.perf_counter()
    model.encode_image(pixels)
    if cuda:
        torch.cuda.synchronize(pixels.device)
    return time.perf_counter() - start
