r"""AWQ: input channels that carry large activations are scaled up before rounding, by the scale that hurts least.

.. math:: s_j = \overline{|X_j|}^{\,\alpha} \Big/ \sqrt{\max_k s_k \min_k s_k}, \qquad
          \alpha^* = \arg\min_{\alpha} \big\| X (\mathrm{diag}(s)^{-1} Q(\mathrm{diag}(s) W^T) - W^T) \big\|^2

over `grid` values of alpha in [0, 1); alpha = 0 is plain rounding. The output error is computed from the second moment
of the calibration inputs. Linears fed by one LayerNorm share `s`. Without activation quantization the scaling is
undone within the dequantized weight; with it, the input is divided by `s`, in the LayerNorm where one feeds the layer.
Conv2d layers are rounded to nearest. The paper's clipping search is left out. Paper: Lin et al., "AWQ", MLSys 2024
(arXiv 2306.00978).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from benchmark.quantization import affine
from benchmark.quantization.affine import Scheme
from benchmark.quantization.base import ACTIVATION_FIELDS, COMMON_FIELDS, WEIGHT_FIELDS, Options, TowerJob
from benchmark.quantization.calibrate import ChannelMagnitude, Observer, SecondMoment, in_parts
from benchmark.quantization.diagonal import InputGroup, apply_scales, input_groups
from benchmark.quantization.gptq import output_error
from benchmark.quantization.simulated import Prepared, Simulated
from benchmark.spec import QuantSpec


class AwqOptions(Options):
    """`grid`: number of alphas tried."""

    grid: int = Field(default=20, ge=1, le=100)


def candidate_scale(mean: Tensor, alpha: float) -> Tensor:
    """`s` (K,) for mean |x| (K,); features that are never active count as tiny."""
    scale = mean.pow(alpha).clamp(min=1e-4)
    return scale / (scale.max() * scale.min()).sqrt()


def best_scale(
    weights: list[tuple[Tensor, Scheme]], mean: Tensor, moment: Tensor, grid: int
) -> tuple[Tensor, list[float]]:
    """The candidate with the least output error over Linears that share an input, and all errors.

    Args:
        weights: (O, K) each, with the scheme of its codes.
        mean: (K,) mean |x|.
        moment: (K, K) second moment of the input.
        grid: number of alphas k / grid, k = 0 .. grid - 1.
    """
    errors, scales = [], []
    for k in range(grid):
        scale = candidate_scale(mean, k / grid)
        error = 0.0
        for weight, scheme in weights:
            restored = affine.quantize_weight(weight * scale, scheme).dequantize() / scale
            error += float(output_error(weight, restored, moment).sum())
        errors.append(error)
        scales.append(scale)
    return scales[min(range(grid), key=errors.__getitem__)], errors


class Awq(Simulated):
    """Activation-aware scaling before rounding."""

    options = AwqOptions

    def stage(self, spec: QuantSpec) -> str:
        """The scales depend on everything that the codes depend on."""
        return f"{self.name} {spec.digest()}"

    @torch.no_grad()
    def prepare(self, job: TowerJob) -> dict[str, Prepared]:
        """Search the scale of every Linear (or of the Linears behind one LayerNorm) and apply it."""
        groups = {group.layers[0]: group for group in input_groups(job)}
        wanted: dict[str, tuple[Observer, ...]] = {}
        for name in groups:
            wanted[name] = (SecondMoment(job.targets[name].layer), ChannelMagnitude())
        scales: dict[InputGroup, Tensor] = {}
        with job.progress.phase(f"awq: scales ({job.tower})", len(groups)) as advance:
            for found in in_parts(job.source(), dict(wanted), job.progress, "awq: statistics"):
                for name, seen in found.items():
                    scales[groups[name]] = self._search(job, groups[name], seen)
                    advance(1)
        return apply_scales(job, scales)

    def _search(self, job: TowerJob, group: InputGroup, seen: dict[str, Observer]) -> Tensor:
        moment, magnitude = seen[SecondMoment.kind], seen[ChannelMagnitude.kind]
        assert isinstance(moment, SecondMoment)
        assert isinstance(magnitude, ChannelMagnitude)
        weights = []
        for name in group.layers:
            target = job.targets[name]
            assert target.bits is not None
            scheme = Scheme(target.bits, target.granularity, target.group_size, job.spec.symmetric)
            weights.append((target.layer.weight.detach().float(), scheme))
        grid = self.read_options(job.spec, AwqOptions).grid
        return best_scale(weights, magnitude.mean, moment.matrix, grid)[0]


quantizer = Awq(
    name="awq",
    version=1,
    title="AWQ: activation-aware scaling of weights",
    paper="Lin et al. 2024, arXiv 2306.00978",
    fields=WEIGHT_FIELDS | ACTIVATION_FIELDS | COMMON_FIELDS | {"options"},
    needs_calibration=True,
    required=frozenset({"weight_bits"}),
)
