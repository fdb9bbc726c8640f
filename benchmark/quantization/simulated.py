"""The common way of all simulated methods: transform, calibrate, quantize the weights, replace the layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.errors import SpecError
from benchmark.quantization import affine
from benchmark.quantization.activation import TensorQuantizer, TokenQuantizer
from benchmark.quantization.affine import QuantizedWeight, Scheme
from benchmark.quantization.base import LayerRecord, Quantizer, Target, TowerJob
from benchmark.quantization.calibrate import Observer, Range, observe
from benchmark.quantization.int8 import FLOAT_ENGINE, replacement
from benchmark.spec import QuantSpec


@dataclass(frozen=True)
class Prepared:
    """A target after the exact transformation of its input.

    Attributes:
        target: with the transformed weight in its layer.
        original: weight before any transformation, for the report's error.
        online: module that transforms the input when the model runs, or None.
        undo: maps a weight for transformed inputs back to one for the original inputs.
    """

    target: Target
    original: Tensor
    online: nn.Module | None = None
    undo: Tensor | None = None

    def effective(self, weight: Tensor) -> Tensor:
        """The weight that acts on the original input: W' with x' = T x becomes W' T."""
        if self.undo is None:
            return weight
        return weight * self.undo if self.undo.ndim == 1 else weight @ self.undo


class Simulated(Quantizer):
    """Base of the methods that quantize and dequantize; subclasses override the steps that make them what they are."""

    def check(self, spec: QuantSpec) -> None:
        """At least one of weights and activations must be quantized."""
        super().check(spec)
        if spec.weight_bits is None and spec.activation_bits is None:
            raise SpecError(f"quantization '{spec.name}': {self.name} needs weight_bits, activation_bits or both")

    def prepare(self, job: TowerJob) -> dict[str, Prepared]:
        """Transform inputs and weights without changing what the tower computes; by default nothing."""
        return {name: Prepared(target, target.layer.weight.detach()) for name, target in job.targets.items()}

    def observers(self, job: TowerJob, prepared: Mapping[str, Prepared]) -> dict[str, Observer]:
        """What to learn about the layers' inputs before quantizing: ranges, where they are static."""
        return {name: Range() for name in prepared} if job.spec.activation_granularity == "tensor" else {}

    def quantize_weight(
        self, job: TowerJob, prepared: Prepared, scheme: Scheme, seen: Observer | None
    ) -> QuantizedWeight:
        """Codes of one weight: rounding to nearest over the full range."""
        return affine.quantize_weight(prepared.target.layer.weight, scheme)

    def activation_range(self, job: TowerJob, prepared: Prepared, seen: Observer) -> tuple[float, float]:
        """The static range of one layer's input."""
        assert isinstance(seen, Range)
        return seen.low, seen.high

    def quantize_tower(self, job: TowerJob) -> list[LayerRecord]:
        """All steps, layer after layer."""
        prepared = self.prepare(job)
        observers = self.observers(job, prepared)
        if observers:
            assert job.calibration is not None
            observe(job.model, job.tower, observers, job.calibration, job.progress, f"{self.name}: statistics")
        records = []
        with job.progress.phase(f"{self.name}: weights ({job.tower})", len(prepared)) as advance:
            for name, item in prepared.items():
                records.append(self._replace(job, item, observers.pop(name, None)))
                advance(1)
        return records

    @torch.no_grad()
    def _replace(self, job: TowerJob, item: Prepared, seen: Observer | None) -> LayerRecord:
        target, spec = item.target, job.spec
        weight: QuantizedWeight | None = None
        if target.bits is not None:
            scheme = Scheme(target.bits, target.granularity, target.group_size, spec.symmetric)
            weight = self.quantize_weight(job, item, scheme, seen)
        activation = self._activation(job, item, seen)
        module, engine = replacement(target.layer, weight, activation, item.online, job.exact_float)
        job.replace(target.name, module)
        return _record(item, weight, engine)

    def _activation(self, job: TowerJob, item: Prepared, seen: Observer | None) -> TokenQuantizer | None:
        spec = job.spec
        if spec.activation_bits is None:
            return None
        if spec.activation_granularity == "tensor":
            assert seen is not None
            low, high = self.activation_range(job, item, seen)
            return TensorQuantizer(spec.activation_bits, spec.activation_symmetric, low, high)
        dims = (-3, -2, -1) if isinstance(item.target.layer, nn.Conv2d) else (-1,)
        return TokenQuantizer(spec.activation_bits, spec.activation_symmetric, dims)


def _record(item: Prepared, weight: QuantizedWeight | None, engine: str) -> LayerRecord:
    target, shape = item.target, tuple(item.original.shape)
    common = {"name": target.name, "kind": type(target.layer).__name__, "shape": shape, "engine": engine}
    if weight is None:
        return LayerRecord(
            **common,  # type: ignore[arg-type]
            bits=32,
            granularity="full precision",
            packed_bits=32 * item.original.numel(),
            relative_error=0.0,
            sqnr_db=None,
        )
    relative, sqnr = affine.error(item.original, item.effective(weight.dequantize()))
    grain = f"group {target.group_size}" if target.granularity == "group" else target.granularity
    return LayerRecord(
        **common,  # type: ignore[arg-type]
        bits=weight.scheme.bits,
        granularity=grain,
        packed_bits=weight.packed_bits,
        relative_error=relative,
        sqnr_db=sqnr,
    )


__all__ = ["FLOAT_ENGINE", "Prepared", "Simulated"]
