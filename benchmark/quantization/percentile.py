r"""Percentile clipping: clip the largest values of each range, then round to nearest.

Weights: each tensor, channel or group is clipped to the p-th percentile of |w| (asymmetric: to the percentiles
100 - p and p of w), linearly interpolated. Static activations: to the same percentiles over the calibration data, from
a histogram of 4096 bins. Per token, activations keep their min-max range: they are computed when the model runs.
Source: McKinstry et al., 2018 (arXiv 1809.04191); Wu et al., 2020 (arXiv 2004.09602), which finds 99.9 to 99.99 good.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from benchmark.quantization import affine
from benchmark.quantization.affine import QuantizedWeight, Scheme
from benchmark.quantization.base import ACTIVATION_FIELDS, COMMON_FIELDS, WEIGHT_FIELDS, Options, TowerJob
from benchmark.quantization.observers import Histogram, Observer, Seen
from benchmark.quantization.simulated import Prepared, Simulated
from benchmark.spec import QuantSpec


class PercentileOptions(Options):
    """`percentile`: in (50, 100]; 100 is min-max."""

    percentile: float = Field(default=99.9, gt=50, le=100, json_schema_extra={"search": [99.0, 99.9, 99.99]})


def percentile_range(values: Tensor, percentile: float, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Range (low, high) over the last dimension, kept as size 1.

    Args:
        values: (..., S).
        percentile: in (50, 100].
        symmetric: take it of |values|.
    """
    if symmetric:
        high = _quantile(values.abs(), percentile / 100)
        return -high, high
    return _quantile(values, 1 - percentile / 100), _quantile(values, percentile / 100)


def _quantile(values: Tensor, q: float) -> Tensor:
    """Linear interpolation between order statistics (torch.quantile refuses more than 16 M values)."""
    ordered = values.sort(dim=-1).values
    position = q * (ordered.shape[-1] - 1)
    below = int(position)
    above = min(below + 1, ordered.shape[-1] - 1)
    part = position - below
    return ordered[..., below, None] * (1 - part) + ordered[..., above, None] * part


def histogram_range(seen: Histogram, percentile: float, symmetric: bool) -> tuple[float, float]:
    """The same from a histogram: bin edges, within the values really seen."""
    if symmetric:
        counts = (seen.counts + seen.counts.flip(0))[seen.bins // 2 :]
        width = 2 * seen.limit / seen.bins
        high = width * (1 + _bin_at(counts, percentile / 100))
        high = min(high, max(-seen.low, seen.high))
        return -high, high
    width = 2 * seen.limit / seen.bins
    high = -seen.limit + width * (1 + _bin_at(seen.counts, percentile / 100))
    low = seen.limit - width * (1 + _bin_at(seen.counts.flip(0), percentile / 100))
    return max(low, seen.low), min(high, seen.high)


def _bin_at(counts: Tensor, q: float) -> int:
    """First bin at which the cumulative share reaches q."""
    cumulative = counts.cumsum(0)
    return int(torch.searchsorted(cumulative, q * cumulative[-1]).clamp(max=len(counts) - 1))


class Percentile(Simulated):
    """Clipped ranges."""

    options = PercentileOptions

    def range_observer(self) -> Observer:
        """A histogram of all input values."""
        return Histogram()

    def quantize_weight(self, job: TowerJob, item: Prepared, scheme: Scheme, seen: Seen) -> QuantizedWeight:
        """Round to nearest over the clipped range."""
        weight = item.target.layer.weight.detach().float()
        percentile = self.read_options(job.spec, PercentileOptions).percentile
        span = percentile_range(scheme.grouped(weight), percentile, scheme.symmetric)
        return affine.quantize_weight(weight, scheme, span)

    def activation_range(self, spec: QuantSpec, bits: int, seen: Seen) -> tuple[float, float]:
        """The clipped range of the calibration data."""
        percentile = self.read_options(spec, PercentileOptions).percentile
        return histogram_range(seen.get(Histogram), percentile, spec.activation_symmetric)


quantizer = Percentile(
    name="percentile",
    version=1,
    title="round to nearest, ranges clipped at a percentile",
    paper="Wu et al. 2020, arXiv 2004.09602",
    fields=WEIGHT_FIELDS | ACTIVATION_FIELDS | COMMON_FIELDS | {"options"},
)
