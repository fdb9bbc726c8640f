"""Size and speed of a configuration: packed bytes always, times only for real kernels.

A simulated quantization has no speed of its own: its float arithmetic says nothing about a deployment. It is timed
through a real kernel of the same scheme where one is installed (`timed` says which), and marked "simulated" elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import QuantizationError
from benchmark.models.base import ClipModel
from benchmark.quantization.apply import quantize
from benchmark.quantization.base import Kernel
from benchmark.quantization.kernels.int8 import cpu_capability, int8_available
from benchmark.quantization.kernels.selection import INT8_ENGINE, ONEDNN_ENGINE
from benchmark.quantization.registry import quantizers
from benchmark.quantization.report import QuantizationReport
from benchmark.spec import QuantSpec

_LEAST_RUNS, _ENOUGH_RUNS = 5, 20
"""Least number of timed single images, and the number that is aimed for (a p95 needs 20)."""
_LEAST_BATCHES = 2
_PATIENCE = 5
"""In units of the budget."""
_LONG, _SAME = 2.0, 1.1
"""In units of the budget, and of the second pass: when the first pass counts, too."""


@dataclass(frozen=True)
class Speed:
    """Times of the image tower on one machine.

    Attributes:
        timed: short name of the configuration whose kernel was timed.
        engine: the kernel that computed it.
        batch: images a batch for `images_per_second`.
        latency_ms_p50, latency_ms_p95: of one image alone.
        runs: timed batches, and timed single images.
        threads, device, cpu: where.
    """

    timed: str
    engine: str
    batch: int
    images_per_second: float
    latency_ms_p50: float
    latency_ms_p95: float
    runs: tuple[int, int]
    threads: int
    device: str
    cpu: str


@dataclass(frozen=True)
class Efficiency:
    """Size of the whole model, and the speed of the image tower where a real kernel exists.

    Attributes:
        quantization: short name.
        packed_bytes, float_bytes: all parameters of the model, after and before.
        kernel: "real", or "simulated" where no real kernel of this scheme can be timed here.
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
) -> Efficiency:
    """Size and speed of a quantization.

    Args:
        model: full precision, from which a real kernel's model is made where `quantized` is a simulation.
        spec, quantized, report: the quantization, its model and its report.
        batch: images a batch.
        budget_s: seconds to spend on each of the two timings, at least 2 batches and 5 single images; to reach
            20 single images up to five times as many seconds.

    Returns:
        Sizes and times; where timing fails, its reason in `error` instead of times.
    """
    whole = 4 * sum(p.numel() for p in model.module.parameters())
    packed = whole - sum(tower.float_bytes - tower.packed_bytes for tower in report.towers.values())
    kernel: Kernel = "simulated"
    try:
        timed = _timed(model, spec, quantized, report)
        if timed is None:
            return Efficiency(spec.name, packed, whole, kernel, None)
        kernel = "real"
        return Efficiency(spec.name, packed, whole, kernel, _speed(*timed, batch, budget_s))
    except Exception as error:  # a kernel of another library may raise anything; the size is known regardless
        return Efficiency(spec.name, packed, whole, kernel, None, f"{type(error).__name__}: {error}")


def real_kernel(spec: QuantSpec) -> QuantSpec | None:
    """A configuration with its own kernel that has the same codes as a simulated one, or None.

    torchao's int8 or E4M3 weights (per channel, symmetric), alone or with inputs of the same kind (per token).
    """
    kind = {"rtn": "int8", "fp8": "fp8"}.get(spec.method)
    if kind is None or spec.weight_bits != 8 or spec.weight_granularity != "channel" or not spec.symmetric:
        return None
    if spec.overrides or find_spec("torchao") is None:
        return None
    if spec.activation_bits is None:
        return QuantSpec(method=f"torchao-{kind}wo", scope=spec.scope, skip=spec.skip)
    if spec.activation_bits == 8 and spec.activation_granularity == "token" and spec.activation_symmetric:
        return QuantSpec(method=f"torchao-{kind}da", scope=spec.scope, skip=spec.skip)
    return None


def _timed(
    model: ClipModel, spec: QuantSpec, quantized: ClipModel, report: QuantizationReport
) -> tuple[ClipModel, str, str] | None:
    """The model to time, the name of its configuration, its engine."""
    if "vision" not in spec.towers:
        return quantized, "fp32", "float"
    if report.engine in (INT8_ENGINE, ONEDNN_ENGINE) or report.kernel == "real":
        return quantized, spec.name, report.engine
    other = real_kernel(spec)
    if other is None or (other.method == "torchao-int8da" and not int8_available(model.device)):
        return None
    try:
        quantizers.get(other.method).check_available(model.device.type)
    except QuantizationError:  # the real kernel is for other devices
        return None
    kernel, its_report = quantize(model, other)
    return kernel, other.name, its_report.engine


def _speed(model: ClipModel, name: str, engine: str, batch: int, budget_s: float) -> Speed:
    height, width = model.preprocess.size
    noise = np.random.default_rng(0).integers(0, 256, (batch, 3, height, width), dtype=np.uint8)
    pixels = torch.from_numpy(noise).to(model.device)
    single = _times(model, pixels[:1], budget_s, _LEAST_RUNS, _ENOUGH_RUNS)
    many = _times(model, pixels, budget_s, _LEAST_BATCHES, _LEAST_BATCHES)
    p50, p95 = np.percentile(single, [50, 95]) * 1000
    device = model.device
    return Speed(
        timed=name,
        engine=engine,
        batch=batch,
        images_per_second=batch / float(np.median(many)),
        latency_ms_p50=float(p50),
        latency_ms_p95=float(p95),
        runs=(len(many), len(single)),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        cpu=cpu_capability(),
    )


def _times(model: ClipModel, pixels: Tensor, budget_s: float, least: int, enough: int) -> Sequence[float]:
    """Seconds of repeated forward passes. The first is a warm-up; it counts if long and not slower than the second."""
    first, second = _run(model, pixels), _run(model, pixels)
    times = [first, second] if _LONG * budget_s < first < _SAME * second else [second]
    while (
        len(times) < least or (spent := sum(times)) < budget_s or (len(times) < enough and spent < _PATIENCE * budget_s)
    ):
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
