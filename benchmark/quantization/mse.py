r"""MSE clipping: the scale that minimises the squared quantization error, then round to nearest.

.. math:: s^* = \arg\min_{s \in S_b} \sum_i w_i \,(\hat x_i(s) - x_i)^2

per tensor, channel or group of the weights, and over the calibration histogram for static activations. The candidates
`S_b` for a range of width R are R / (2^i - 1) for i = 2..b, and R / 3 * 2^(-k/8) down to 0.2 R / (2^b - 1): those of
fewer bits are among those of more bits, and the codes of fewer bits among the codes of more, so that more bits never
give a larger error. Min-max is one of the candidates. Source: Choukroun et al., 2019 (arXiv 1902.06822); Nagel et
al., 2021 (arXiv 2106.08295). Per token, activations keep min-max.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.quantization import affine
from benchmark.quantization.affine import QuantizedWeight, Scheme
from benchmark.quantization.base import ACTIVATION_FIELDS, COMMON_FIELDS, WEIGHT_FIELDS, TowerJob
from benchmark.quantization.observers import Histogram, Observer, Seen
from benchmark.quantization.simulated import Prepared, Simulated
from benchmark.spec import QuantSpec

_STEPS_PER_OCTAVE = 8
_SMALLEST = 0.2


def scale_fractions(bits: int) -> Iterator[float]:
    """Candidate scales as fractions of the range's width, largest first."""
    yield from (1 / (2**i - 1) for i in range(2, bits + 1))
    smallest = _SMALLEST / (2**bits - 1)
    count = math.floor(_STEPS_PER_OCTAVE * math.log2(1 / 3 / smallest))
    yield from (2 ** (-k / _STEPS_PER_OCTAVE) / 3 for k in range(1, count + 1))


def best_scale(
    values: Tensor, bits: int, symmetric: bool, weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, zero point and the error they reach, each (..., 1).

    Args:
        values: (..., S); each slice of the last dimension gets its own scale.
        bits: of the codes.
        symmetric: zero point 0.
        weight: (S,) weights of the squared errors, e.g. the counts of a histogram; None weights all equally.
    """
    low, high = affine.value_range(values)
    full, full_zero_point = affine.choose_qparams(low, high, bits, symmetric)
    best, best_zero_point, least = full, full_zero_point, _error(values, full, full_zero_point, bits, weight)
    low, width = low.clamp(max=0), full * (2**bits - 1)
    for fraction in scale_fractions(bits):
        scale = torch.where(width > 0, width * fraction, full).clamp(min=torch.finfo(torch.float32).tiny)
        zero_point = torch.zeros_like(scale) if symmetric else _zero_point(low, width, scale, bits)
        error = _error(values, scale, zero_point, bits, weight)
        better = error < least
        best, best_zero_point = torch.where(better, scale, best), torch.where(better, zero_point, best_zero_point)
        least = torch.where(better, error, least)
    return best, best_zero_point, least


def _zero_point(low: Tensor, width: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Integer zero point: both ends of the range are shrunk by the same factor."""
    shrink = (scale * (2**bits - 1) / width).clamp(max=1)
    bottom = -(2 ** (bits - 1))
    return torch.clamp(bottom - torch.round(low * shrink / scale), bottom, bottom + 2**bits - 1)


def _error(values: Tensor, scale: Tensor, zero_point: Tensor, bits: int, weight: Tensor | None) -> Tensor:
    error = affine.quantize(values, scale, zero_point, bits).sub_(zero_point).mul_(scale).sub_(values)
    if weight is None:
        norm: Tensor = torch.linalg.vector_norm(error, dim=-1, keepdim=True)
        return norm.square_()
    return (error.square_() * weight).sum(-1, keepdim=True)


class MeanSquaredError(Simulated):
    """Clip search."""

    def range_observer(self) -> Observer:
        """A histogram of all input values."""
        return Histogram()

    def quantize_weight(self, job: TowerJob, item: Prepared, scheme: Scheme, seen: Seen) -> QuantizedWeight:
        """Round to nearest with the best scale of each tensor, channel or group."""
        weight = item.target.layer.weight.detach().float()
        scale, zero_point, _ = best_scale(scheme.grouped(weight), scheme.bits, scheme.symmetric)
        return affine.encode(weight, scheme, scale, zero_point)

    def activation_range(self, spec: QuantSpec, bits: int, seen: Seen) -> tuple[float, float]:
        """The range whose scale is best on the calibration histogram."""
        histogram = seen.get(Histogram)
        occupied = histogram.counts > 0
        values, counts = histogram.centres()[occupied].float(), histogram.counts[occupied]
        scale, zero_point, _ = best_scale(values, bits, spec.activation_symmetric, counts)
        bottom = -(2 ** (bits - 1))
        if spec.activation_symmetric:
            half = float(scale) * (2**bits - 1) / 2
            return -half, half
        return float((bottom - zero_point) * scale), float((bottom + 2**bits - 1 - zero_point) * scale)


quantizer = MeanSquaredError(
    name="mse",
    version=1,
    title="round to nearest, ranges that minimise the squared error",
    paper="Choukroun et al. 2019, arXiv 1902.06822",
    fields=WEIGHT_FIELDS | ACTIVATION_FIELDS | COMMON_FIELDS,
)
