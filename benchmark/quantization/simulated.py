"""The steps of all simulated methods: transform, calibrate, quantize the weights, replace the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmark.errors import SpecError
from benchmark.quantization import affine
from benchmark.quantization.activation import TensorQuantizer, TokenQuantizer
from benchmark.quantization.affine import QuantizedWeight, Scheme
from benchmark.quantization.base import LayerRecord, Quantizer, Target, TowerJob
from benchmark.quantization.calibrate import in_parts
from benchmark.quantization.kernels.selection import replacement
from benchmark.quantization.linear import Transform
from benchmark.quantization.observers import Observer, Range, Seen
from benchmark.quantization.packing import Parts, pack_layer, unpack_layer
from benchmark.quantization.state import LayerState
from benchmark.spec import QuantSpec


@dataclass(frozen=True)
class Prepared:
    """A target after the exact transformation of its input.

    Attributes:
        target: with the transformed weight in its layer.
        original: weight before any transformation, for the report's error.
        online: module that transforms the input when the model runs, or None.
        undo: maps a weight for transformed inputs back to one for the original inputs.
        span: range (low, high) of the transformed weight's groups that `prepare` chose, None for min-max.
    """

    target: Target
    original: Tensor
    online: Transform | None = None
    undo: Callable[[Tensor], Tensor] | None = None
    span: tuple[Tensor, Tensor] | None = None

    def effective(self, weight: Tensor) -> Tensor:
        """The weight that acts on the original input: W' with x' = T x becomes W' T."""
        return weight if self.undo is None else self.undo(weight)


def scheme_of(target: Target, spec: QuantSpec) -> Scheme | None:
    """How a target's weight is quantized; None where it stays in full precision."""
    if target.bits is None:
        return None
    return Scheme(target.bits, target.granularity, target.group_size, spec.symmetric)


class Simulated(Quantizer):
    """Base of the methods that fake-quantize (quantize, then dequantize); subclasses override single steps.

    `parts` are the classes that its layers are made of, by the names under which they are stored.
    """

    parts: ClassVar[Parts] = Parts()

    def check(self, spec: QuantSpec) -> None:
        """At least one of weights and activations must be quantized."""
        super().check(spec)
        if spec.weight_bits is None and spec.activation_bits is None:
            raise SpecError(f"quantization '{spec.name}': {self.name} needs weight_bits, activation_bits or both")

    def prepare(self, job: TowerJob) -> dict[str, Prepared]:
        """Transform inputs and weights without changing the tower's output; by default no transformation."""
        return {name: Prepared(target, target.layer.weight.detach()) for name, target in job.targets.items()}

    def stage(self, spec: QuantSpec) -> str:
        """Names what `prepare` did, as part of the key of stored statistics."""
        return "plain"

    def weight_observer(self, spec: QuantSpec, item: Prepared) -> Observer | None:
        """The statistic of a layer's input that quantizing its weight needs; None for no statistic."""
        return None

    def range_observer(self) -> Observer:
        """The statistic that a static activation range needs."""
        return Range()

    def quantize_weight(self, job: TowerJob, item: Prepared, scheme: Scheme, seen: Seen) -> QuantizedWeight:
        """Codes of one weight: rounding to nearest over the range that was chosen for it."""
        return affine.quantize_weight(item.target.layer.weight, scheme, item.span)

    def activation_range(self, spec: QuantSpec, bits: int, seen: Seen) -> tuple[float, float]:
        """The static range of one layer's input."""
        found = seen.get(Range)
        return found.low, found.high

    def static_activation(self, spec: QuantSpec, bits: int, low: float, high: float) -> TokenQuantizer:
        """Quantizer of inputs with one calibrated range."""
        return TensorQuantizer(bits, spec.activation_symmetric, low, high)

    def dynamic_activation(self, spec: QuantSpec, bits: int, dims: tuple[int, ...]) -> TokenQuantizer:
        """Quantizer of inputs with a range per token, taken over the dimensions `dims`."""
        return TokenQuantizer(bits, spec.activation_symmetric, dims)

    def quantize_tower(self, job: TowerJob) -> list[LayerRecord]:
        """Run all steps. Layers are replaced at the end, so that all statistics come from the full-precision model."""
        prepared = self.prepare(job)
        done: dict[str, tuple[QuantizedWeight | None, TokenQuantizer | None]] = {}
        wanted = self._observers(job, prepared)
        with job.progress.phase(f"{self.name}: weights ({job.tower})", len(prepared)) as advance:
            for found in self._seen(job, prepared, wanted):
                for name, seen in found.items():
                    done[name] = self._quantize(job, prepared[name], seen)
                    advance(1)
        return [self._replace(job, item, *done[name]) for name, item in prepared.items()]

    def _observers(self, job: TowerJob, prepared: Mapping[str, Prepared]) -> dict[str, Sequence[Observer]]:
        wanted: dict[str, Sequence[Observer]] = {}
        for name, item in prepared.items():
            weight = self.weight_observer(job.spec, item) if item.target.bits is not None else None
            static = self.range_observer() if job.spec.activation_granularity == "tensor" else None
            if observers := [observer for observer in (weight, static) if observer is not None]:
                wanted[name] = observers
        return wanted

    def _seen(
        self, job: TowerJob, prepared: Mapping[str, Prepared], wanted: dict[str, Sequence[Observer]]
    ) -> Iterator[dict[str, Seen]]:
        yield {name: Seen() for name in prepared if name not in wanted}
        if wanted:
            online = {name: item.online for name, item in prepared.items() if item.online is not None}
            source = job.source(self.stage(job.spec), online)
            yield from in_parts(source, wanted, job.progress, f"{self.name}: statistics")

    @torch.no_grad()
    def _quantize(
        self, job: TowerJob, item: Prepared, seen: Seen
    ) -> tuple[QuantizedWeight | None, TokenQuantizer | None]:
        spec, scheme, bits = job.spec, scheme_of(item.target, job.spec), job.spec.activation_bits
        weight = None if scheme is None else self.quantize_weight(job, item, scheme, seen)
        if bits is None:
            return weight, None
        if spec.activation_granularity == "tensor":
            return weight, self.static_activation(spec, bits, *self.activation_range(spec, bits, seen))
        dims = (-3, -2, -1) if isinstance(item.target.layer, nn.Conv2d) else (-1,)
        return weight, self.dynamic_activation(spec, bits, dims)

    @torch.no_grad()
    def _replace(
        self, job: TowerJob, item: Prepared, weight: QuantizedWeight | None, activation: TokenQuantizer | None
    ) -> LayerRecord:
        target = item.target
        module, engine = replacement(target.layer, weight, activation, item.online, job.exact_float)
        if job.kept is not None:
            job.kept[target.name] = pack_layer(target.layer, weight, activation, item.online, self.parts)
        job.replace(target.name, module)
        return _record(item, weight, engine)

    @torch.no_grad()
    def rebuild(
        self, spec: QuantSpec, layer: nn.Linear | nn.Conv2d, state: LayerState, exact_float: bool = False
    ) -> tuple[nn.Module, str]:
        """Build the layer from codes, scales, the quantizer of the input and its transformation."""
        return unpack_layer(layer, state, self.parts, exact_float)


def _record(item: Prepared, weight: QuantizedWeight | None, engine: str) -> LayerRecord:
    target, shape = item.target, tuple(item.original.shape)
    common = {"name": target.name, "kind": type(target.layer).__name__, "shape": shape, "engine": engine}
    online = 0 if item.online is None else item.online.packed_bits
    if weight is None:
        return LayerRecord(
            **common,  # type: ignore[arg-type]
            bits=32,
            granularity="full precision",
            packed_bits=32 * item.original.numel() + online,
            relative_error=0.0,
            sqnr_db=None,
        )
    relative, sqnr = affine.error(item.original, item.effective(weight.dequantize()))
    grain = f"group {target.group_size}" if target.granularity == "group" else target.granularity
    return LayerRecord(
        **common,  # type: ignore[arg-type]
        bits=weight.scheme.bits,
        granularity=grain,
        packed_bits=weight.packed_bits + online,
        relative_error=relative,
        sqnr_db=sqnr,
    )
