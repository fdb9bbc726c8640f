r"""GPTQ: quantize the columns of a weight one after the other and correct the later ones for the error.

For each output channel, with `H = X^T X / N` of the calibration inputs (damped by `damp` times its mean diagonal) and
the upper Cholesky factor `U` of `H^{-1}`:

.. math:: e_j = (w_j - \hat w_j) / U_{jj}, \qquad w_{k > j} \leftarrow w_k - e_j U_{jk}

Ranges are min-max: of the whole channel or tensor beforehand, of a group when its first column is reached. With
`actorder_true` the columns go by falling diagonal of `H`, and groups keep their place and get their ranges beforehand.
`H` comes from the full-precision model's inputs, in one pass over the calibration data or as few as memory allows
(`calibrate.STATISTICS_BYTES`). A channel (per tensor: the layer) keeps the codes of plain rounding where
their output error on the calibration data is smaller. Convolutions without groups are treated as Linears on their
patches, others are rounded to nearest. Paper: Frantar et al., "GPTQ", ICLR 2023 (arXiv 2210.17323).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.errors import QuantizationError
from benchmark.quantization import affine
from benchmark.quantization.affine import QuantizedWeight, Scheme
from benchmark.quantization.base import ACTIVATION_FIELDS, COMMON_FIELDS, WEIGHT_FIELDS, Options, TowerJob
from benchmark.quantization.observers import Observer, SecondMoment, Seen, strips
from benchmark.quantization.simulated import Prepared, Simulated
from benchmark.spec import QuantSpec

_BLOCK = 128


class GptqOptions(Options):
    """`damp`: share of the mean diagonal that is added to it; `actorder`: columns by falling activation energy."""

    damp: float = Field(default=0.01, gt=0, le=1)
    actorder: bool = False


def gptq(weight: Tensor, moment: Tensor, scheme: Scheme, damp: float = 0.01, actorder: bool = False) -> QuantizedWeight:
    """Quantize a weight so that its output on the calibration data changes least, greedily.

    Args:
        weight: (O, K) float32.
        moment: X^T X / N (K, K) float32 of its inputs.
        scheme: of the codes.
        damp, actorder: see `GptqOptions`.
    """
    plain = affine.quantize_weight(weight, scheme)
    rows, columns = weight.shape
    groups, size = plain.scale.shape[1], columns // plain.scale.shape[1]
    scale, zero_point = (
        value.reshape(-1, groups).expand(rows, groups).clone() for value in (plain.scale, plain.zero_point)
    )
    by_energy = moment.diagonal().argsort(descending=True)
    order = by_energy if actorder else torch.arange(columns, device=weight.device)
    factor = inverse_factor(moment[order][:, order], damp)
    places = order.tolist()
    work = weight[:, order].t().contiguous()  # (K, O): one column of the weight is contiguous
    codes = torch.empty_like(work)
    refresh = groups > 1 and not actorder
    block = size * max(1, _BLOCK // size) if refresh else _BLOCK
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.empty_like(work[start:stop])
        for j in range(start, stop):
            group = places[j] // size
            if refresh and j % size == 0:
                scale[:, group], zero_point[:, group] = _ranges(work[j : j + size], scheme)
            s, z = scale[:, group], zero_point[:, group]
            codes[j] = affine.quantize(work[j], s, z, scheme.bits)
            errors[j - start] = (work[j] - (codes[j] - z) * s) / factor[j, j]
            work[j + 1 : stop].addr_(factor[j, j + 1 : stop], errors[j - start], alpha=-1)
        work[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    found = codes[order.argsort()].t().reshape(rows, groups, size).to(torch.int8)
    return _better_rows(weight, moment, plain, found, scale.unsqueeze(-1), zero_point.unsqueeze(-1))


def inverse_factor(moment: Tensor, damp: float) -> Tensor:
    """Upper Cholesky factor (K, K) float32 of the inverse of the damped moment, computed in float64.

    Raises:
        QuantizationError: the damped matrix is not positive definite; more damping helps.
    """
    matrix = moment.double()
    diagonal = matrix.diagonal()
    diagonal += torch.where(diagonal == 0, 1.0, 0.0)  # a feature that is never active: its weight is rounded to nearest
    diagonal += damp * diagonal.mean()
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
        factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
        return factor.float()
    except RuntimeError as error:
        raise QuantizationError(
            f"gptq: the second moment is not positive definite with damp {damp}. Raise damp."
        ) from error


def _ranges(rows: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Scale and zero point (O,) of a group of columns given as (S, O)."""
    return affine.choose_qparams(rows.amin(0), rows.amax(0), scheme.bits, scheme.symmetric)


def output_error(weight: Tensor, other: Tensor, moment: Tensor) -> Tensor:
    """Mean squared change (O,) of each output on the calibration data: d H d^T for each row d."""
    difference = (other - weight).reshape(len(weight), -1)
    error = difference.new_zeros(len(difference))
    for start, stop in strips(difference.shape[1]):  # H is symmetric: what lies right of a diagonal block counts twice
        product = difference[:, start:stop] @ moment[start:stop, start:]
        product[:, stop - start :] *= 2
        error += product.mul_(difference[:, start:]).sum(1)
    return error


def _better_rows(
    weight: Tensor, moment: Tensor, plain: QuantizedWeight, codes: Tensor, scale: Tensor, zero_point: Tensor
) -> QuantizedWeight:
    """Per output channel the codes (O, G, S) with the smaller output error: GPTQ's or plain rounding's."""
    found = affine.dequantize(codes, scale, zero_point).reshape(weight.shape)
    keep = output_error(weight, plain.dequantize(), moment) < output_error(weight, found, moment)
    keep = keep.reshape(-1, 1, 1)
    codes = torch.where(keep, plain.codes.reshape(codes.shape), codes)
    if plain.scheme.granularity == "tensor":  # both share one scale
        return QuantizedWeight(codes.reshape(1, 1, -1), plain.scale, plain.zero_point, plain.scheme, plain.shape)
    scale, zero_point = torch.where(keep, plain.scale, scale), torch.where(keep, plain.zero_point, zero_point)
    return QuantizedWeight(codes, scale, zero_point, plain.scheme, plain.shape)


def gptq_weight(item: Prepared, scheme: Scheme, seen: Seen, damp: float, actorder: bool) -> QuantizedWeight:
    """GPTQ on a layer's weight as a matrix; rounding to nearest where there is no second moment."""
    weight = item.target.layer.weight.detach().float()
    moment = seen.find(SecondMoment)
    if moment is None:
        return affine.quantize_weight(weight, scheme)
    result = gptq(weight.flatten(1), moment.matrix, scheme, damp, actorder)
    return replace(result, shape=tuple(weight.shape))


def moment_observer(item: Prepared) -> Observer | None:
    """The second moment of a layer's input; none for grouped convolutions, which are rounded to nearest."""
    layer = item.target.layer
    return None if isinstance(layer, nn.Conv2d) and layer.groups > 1 else SecondMoment(layer)


class Gptq(Simulated):
    """Error feedback from column to column."""

    options = GptqOptions

    def weight_observer(self, spec: QuantSpec, item: Prepared) -> Observer | None:
        """The second moment of the input."""
        return moment_observer(item)

    def quantize_weight(self, job: TowerJob, item: Prepared, scheme: Scheme, seen: Seen) -> QuantizedWeight:
        """GPTQ on the weight as a matrix."""
        options = self.read_options(job.spec, GptqOptions)
        return gptq_weight(item, scheme, seen, options.damp, options.actorder)


quantizer = Gptq(
    name="gptq",
    version=2,
    title="GPTQ: rounding errors passed on to later columns",
    paper="Frantar et al. 2023, arXiv 2210.17323",
    fields=WEIGHT_FIELDS | ACTIVATION_FIELDS | COMMON_FIELDS | {"options"},
    needs_calibration=True,
    required=frozenset({"weight_bits"}),
)
