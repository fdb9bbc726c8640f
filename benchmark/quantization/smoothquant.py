r"""SmoothQuant: move the outliers of activations into the weights by an exact scaling, then round to nearest.

.. math:: Y = (X \,\mathrm{diag}(s)^{-1}) (\mathrm{diag}(s) W^T), \qquad
          s_j = \frac{\max_t |X_{tj}|^{\alpha}}{\max_i |W_{ij}|^{1 - \alpha}}

over the calibration data. `s` is folded into the LayerNorm that feeds the Linear; where none does (attention output,
second MLP layer) the input is divided when the model runs (the paper does not smooth these). Conv2d layers are not
smoothed. An input or weight column that is zero throughout gets s = 1. The option `rounding` (`rtn`, `mse` or
`gptq`) chooses how the smoothed weights are rounded. Paper: Xiao et al., "SmoothQuant", ICML 2023
(arXiv 2211.10438).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from benchmark.quantization.base import ACTIVATION_FIELDS, COMMON_FIELDS, WEIGHT_FIELDS, TowerJob
from benchmark.quantization.calibrate import observe
from benchmark.quantization.diagonal import apply_scales, input_groups
from benchmark.quantization.observers import ChannelMagnitude
from benchmark.quantization.rounding import RoundingChoice, RoundingOptions
from benchmark.quantization.simulated import Prepared
from benchmark.spec import QuantSpec


class SmoothOptions(RoundingOptions):
    """`alpha`: share of the quantization difficulty moved from activations to weights; `rounding`: of the weights."""

    alpha: float = Field(default=0.5, ge=0, le=1, json_schema_extra={"search": [0.25, 0.5, 0.75]})


def smoothing_scale(largest: Tensor, weights: Sequence[Tensor], alpha: float) -> Tensor:
    """`s` (K,) for Linears that share an input.

    Args:
        largest: (K,) largest |x| per input feature.
        weights: of these Linears, each (O, K).
        alpha: in [0, 1].
    """
    columns = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    live = (largest > 0) & (columns > 0)
    scale = largest.pow(alpha) / columns.pow(1 - alpha)
    return torch.where(live, scale.clamp(min=1e-5), torch.ones_like(scale))


class SmoothQuant(RoundingChoice):
    """Smoothing before rounding."""

    options = SmoothOptions

    def stage(self, spec: QuantSpec) -> str:
        """The smoothing depends on alpha and on the skipped layers."""
        return f"{self.name} {self.version} {self.read_options(spec, SmoothOptions).alpha} {spec.skip}"

    def prepare(self, job: TowerJob) -> dict[str, Prepared]:
        """Collect magnitudes and smooth every Linear."""
        alpha = self.read_options(job.spec, SmoothOptions).alpha
        groups = input_groups(job)
        wanted = {group.layers[0]: [ChannelMagnitude()] for group in groups}
        seen = observe(job.source(), wanted, job.progress, "smoothquant: magnitudes")
        scales = {}
        for group in groups:
            weights = [job.targets[name].layer.weight.detach() for name in group.layers]
            scales[group] = smoothing_scale(seen[group.layers[0]].get(ChannelMagnitude).largest, weights, alpha)
        return apply_scales(job, scales)


quantizer = SmoothQuant(
    name="smoothquant",
    version=3,
    title="SmoothQuant: outliers moved from activations to weights",
    paper="Xiao et al. 2023, arXiv 2211.10438",
    fields=WEIGHT_FIELDS | ACTIVATION_FIELDS | COMMON_FIELDS | {"options"},
    needs_calibration=True,
)
