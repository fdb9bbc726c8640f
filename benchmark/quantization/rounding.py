"""The option `rounding`: methods that transform weights first round them in one of three ways."""

from __future__ import annotations

from typing import ClassVar, Literal

from benchmark.quantization import affine
from benchmark.quantization.affine import QuantizedWeight, Scheme
from benchmark.quantization.base import Options, TowerJob
from benchmark.quantization.gptq import gptq_weight, moment_observer
from benchmark.quantization.mse import best_scale
from benchmark.quantization.observers import Observer, Seen
from benchmark.quantization.simulated import Prepared, Simulated
from benchmark.spec import QuantSpec


class RoundingOptions(Options):
    """`rounding`: "rtn" to nearest over min-max, "mse" to nearest over the best clipped range, or "gptq"."""

    rounding: Literal["rtn", "mse", "gptq"] = "rtn"


class RoundingChoice(Simulated):
    """Rounds weights as the option `rounding` says; `options` must extend `RoundingOptions`."""

    options: ClassVar[type[RoundingOptions]] = RoundingOptions

    def rounding(self, spec: QuantSpec) -> str:
        """The chosen rounding."""
        return self.read_options(spec, self.options).rounding

    def requires_calibration(self, spec: QuantSpec) -> bool:
        """Also if the rounding is GPTQ, whatever the transformation."""
        return super().requires_calibration(spec) or self.rounding(spec) == "gptq"

    def weight_observer(self, spec: QuantSpec, item: Prepared) -> Observer | None:
        """The second moment of the transformed input, for GPTQ."""
        return moment_observer(item) if self.rounding(spec) == "gptq" else None

    def quantize_weight(self, job: TowerJob, item: Prepared, scheme: Scheme, seen: Seen) -> QuantizedWeight:
        """Round the transformed weight."""
        choice = self.rounding(job.spec)
        if choice == "gptq":
            return gptq_weight(item, scheme, seen, damp=0.01, actorder=False)
        if choice == "mse":
            weight = item.target.layer.weight.detach().float()
            scale, zero_point, _ = best_scale(scheme.grouped(weight), scheme.bits, scheme.symmetric)
            return affine.encode(weight, scheme, scale, zero_point)
        return super().quantize_weight(job, item, scheme, seen)
