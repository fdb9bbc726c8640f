r"""AWQ: scale up input channels with large activations before rounding, by the scale with the least output error.

.. math:: s_j = \overline{|X_j|}^{\,\alpha} \Big/ \sqrt{\max_k s_k \min_k s_k}, \qquad
          \alpha^* = \arg\min_{\alpha} \big\| X (\mathrm{diag}(s)^{-1} Q(\mathrm{diag}(s) W^T) - W^T) \big\|^2

over `grid` values of alpha in [0, 1); alpha = 0 is plain rounding. Then, unless `clip_false`, each channel's or group's
range is shrunk by the factor (1 to 0.5) with the least output error, the other groups being exact. Output
errors are computed from the second moment of the calibration inputs. Linears fed by one LayerNorm share `s`. Without
activation quantization the scaling is undone within the dequantized weight; with it, the input is divided by `s`, in
the LayerNorm where one feeds the layer. Conv2d layers are rounded to nearest. Paper: Lin et al., "AWQ", MLSys 2024
(arXiv 2306.00978).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from benchmark.quantization import affine
from benchmark.quantization.affine import Scheme
from benchmark.quantization.base import ACTIVATION_FIELDS, COMMON_FIELDS, WEIGHT_FIELDS, Options, TowerJob
from benchmark.quantization.calibrate import in_parts
from benchmark.quantization.diagonal import InputGroup, apply_scales, input_groups
from benchmark.quantization.gptq import output_error
from benchmark.quantization.observers import ChannelMagnitude, Observer, SecondMoment, Seen
from benchmark.quantization.simulated import Prepared, Simulated, scheme_of
from benchmark.spec import QuantSpec

_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)


class AwqOptions(Options):
    """`grid`: number of alphas tried; `clip`: also search the ranges."""

    grid: int = Field(default=20, ge=1, le=100)
    clip: bool = True


def candidate_scale(mean: Tensor, alpha: float) -> Tensor:
    """`s` (K,) for mean |x| (K,); features that are never active get a tiny one."""
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


def best_span(weight: Tensor, scale: Tensor, scheme: Scheme, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Ranges (low, high), each (R, G, 1), of the groups of `weight * scale` with the least output error.

    Args:
        weight: (O, K), before scaling.
        scale: (K,).
        scheme: of the codes.
        moment: (K, K) second moment of the input before scaling.
    """
    low, high = affine.value_range(scheme.grouped(weight * scale))
    best, least = torch.ones_like(low), torch.full_like(low, torch.inf)
    for factor in _SHRINK:
        restored = affine.quantize_weight(weight * scale, scheme, (low * factor, high * factor)).dequantize() / scale
        error = _error_by_group(restored - weight, scheme, moment)
        better = error < least
        best, least = torch.where(better, factor, best), torch.where(better, error, least)
    return low * best, high * best


def _error_by_group(difference: Tensor, scheme: Scheme, moment: Tensor) -> Tensor:
    """Output error (R, G, 1) of each group as if the others were exact; per tensor, of the whole weight."""
    if scheme.granularity == "tensor":
        return ((difference @ moment) * difference).sum().reshape(1, 1, 1)
    size = scheme.group_size or difference.shape[1]
    blocks = difference.reshape(len(difference), -1, size)
    diagonal = torch.stack([moment[k : k + size, k : k + size] for k in range(0, len(moment), size)])
    return (torch.einsum("ogi,gij->ogj", blocks, diagonal) * blocks).sum(-1, keepdim=True)


class Awq(Simulated):
    """Activation-aware scaling before rounding."""

    options = AwqOptions

    def stage(self, spec: QuantSpec) -> str:
        """The scales depend on everything that the codes depend on."""
        return f"{self.name} {self.version} {spec.digest()}"

    @torch.no_grad()
    def prepare(self, job: TowerJob) -> dict[str, Prepared]:
        """Search the scale of every Linear (or of the Linears behind one LayerNorm) and apply it."""
        groups = {group.layers[0]: group for group in input_groups(job)}
        wanted: dict[str, tuple[Observer, ...]] = {}
        for name in groups:
            wanted[name] = (SecondMoment(job.targets[name].layer), ChannelMagnitude())
        scales: dict[InputGroup, Tensor] = {}
        spans: dict[str, tuple[Tensor, Tensor]] = {}
        with job.progress.phase(f"awq: scales ({job.tower})", len(groups)) as advance:
            for found in in_parts(job.source(), dict(wanted), job.progress, "awq: statistics"):
                for name, seen in found.items():
                    scales[groups[name]], own = self._search(job, groups[name], seen)
                    spans |= own
                    advance(1)
        prepared = apply_scales(job, scales)
        return {name: replace(item, span=spans.get(name)) for name, item in prepared.items()}

    def _search(self, job: TowerJob, group: InputGroup, seen: Seen) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """The scale of a group, and the ranges of its layers where they are clipped."""
        moment, mean = seen.get(SecondMoment).matrix, seen.get(ChannelMagnitude).mean
        weights = [
            (target.layer.weight.detach().float(), scheme)
            for target in (job.targets[name] for name in group.layers)
            if (scheme := scheme_of(target, job.spec)) is not None  # always: AWQ requires weight bits
        ]
        options = self.read_options(job.spec, AwqOptions)
        scale, _ = best_scale(weights, mean, moment, options.grid)
        if not options.clip:
            return scale, {}
        layers = zip(group.layers, weights, strict=True)
        return scale, {name: best_span(weight, scale, scheme, moment) for name, (weight, scheme) in layers}


quantizer = Awq(
    name="awq",
    version=3,
    title="AWQ: activation-aware scaling of weights",
    paper="Lin et al. 2024, arXiv 2306.00978",
    fields=WEIGHT_FIELDS | ACTIVATION_FIELDS | COMMON_FIELDS | {"options"},
    needs_calibration=True,
    required=frozenset({"weight_bits"}),
)
