r"""HQQ: half-quadratic quantization of weights, without data.

Minimises the sparse error `||W - \hat W||_p^p`, p = 0.7, over the zero point, with a split variable E for the error:

.. math:: E \leftarrow \mathrm{shrink}_{p,\beta}(W - \hat W), \qquad
          z \leftarrow \mathrm{mean}\big(Q - (W - E) / s\big), \qquad \beta \leftarrow 1.01\,\beta

where `shrink(x) = sign(x) max(|x| - |x|^(p-1) / beta, 0)`, beta starts at 10, at most 20 iterations, ending when the
mean error grows. Scales come from min-max; the zero points are float numbers, so asymmetric codes always, and no
integer matrix product. Paper: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023
(mobiusml.github.io/hqq_blog). The `hqq` package rounds the initial zero point at 4 bits, and so do we.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from benchmark.quantization.affine import QuantizedWeight, Scheme
from benchmark.quantization.base import ACTIVATION_FIELDS, COMMON_FIELDS, WEIGHT_FIELDS, Options, TowerJob
from benchmark.quantization.observers import Seen
from benchmark.quantization.simulated import Prepared, Simulated


class HqqOptions(Options):
    """`iterations`: at most so many steps; `norm`: the p of the error."""

    iterations: int = Field(default=20, ge=1, le=1000)
    norm: float = Field(default=0.7, gt=0, le=1)


def half_quadratic(values: Tensor, bits: int, iterations: int, norm: float) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (..., S) in [0, 2^bits - 1], scale and zero point (..., 1), with values ~ (codes - zero_point) * scale."""
    top = 2**bits - 1
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    inverse = torch.where(high > low, top / (high - low), torch.ones_like(high))
    zero_point = -low * inverse
    if bits == 4:
        zero_point = zero_point.round()
    beta, least = 10.0, float("inf")
    for _ in range(iterations):
        codes = torch.round(values * inverse + zero_point).clamp_(0, top)
        residual = values - (codes - zero_point) / inverse
        magnitude = residual.abs()
        error = float(magnitude.mean())
        split = residual.sign() * (magnitude - magnitude.pow(norm - 1) / beta).clamp_(min=0)
        zero_point = (codes - (values - split) * inverse).mean(-1, keepdim=True)
        beta *= 1.01
        if error >= least:
            break
        least = error
    codes = torch.round(values * inverse + zero_point).clamp_(0, top)
    return codes, 1 / inverse, zero_point


class HalfQuadratic(Simulated):
    """Zero points by half-quadratic splitting."""

    options = HqqOptions

    def quantize_weight(self, job: TowerJob, item: Prepared, scheme: Scheme, seen: Seen) -> QuantizedWeight:
        """Optimise the zero points of each tensor, channel or group."""
        options = self.read_options(job.spec, HqqOptions)
        weight = item.target.layer.weight.detach().float()
        codes, scale, zero_point = half_quadratic(scheme.grouped(weight), scheme.bits, options.iterations, options.norm)
        asymmetric = replace(scheme, symmetric=False)
        shift = 2 ** (scheme.bits - 1)
        return QuantizedWeight(
            (codes - shift).to(torch.int8), scale, zero_point - shift, asymmetric, tuple(weight.shape)
        )


quantizer = HalfQuadratic(
    name="hqq",
    version=1,
    title="half-quadratic quantization of weights, no data",
    paper="Badri and Shaji 2023, mobiusml.github.io/hqq_blog",
    fields=(WEIGHT_FIELDS - {"symmetric"}) | ACTIVATION_FIELDS | COMMON_FIELDS | {"options"},
    required=frozenset({"weight_bits"}),
)
