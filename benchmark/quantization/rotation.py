r"""Rotation: quantize in a rotated basis, in which no feature is an outlier (QuaRot, SpinQuant without training).

.. math:: Y = (X R)\,(W R)^T, \qquad R R^T = I

`R` is a randomised Hadamard matrix (Kronecker product of two small ones, signs by `seed`), or a random orthogonal one
in the part of a width that has no Hadamard matrix. It is applied per Linear: the input is rotated when the model runs,
at a cost of about sqrt(K) multiplications a feature; nothing is folded into the residual stream, because LayerNorms
with their means and gains are in between. With weight-only quantization the rotation is undone within the dequantized
weight and costs nothing. The option `rounding` chooses how the rotated weights are rounded: `mse` and `gptq` are the
paper's two choices, `rtn` is min-max. Conv2d layers are not rotated. Papers: Ashkboos et al., "QuaRot", NeurIPS 2024
(arXiv 2404.00456); Liu et al., "SpinQuant", 2024 (arXiv 2405.16406).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from benchmark.quantization.base import ACTIVATION_FIELDS, COMMON_FIELDS, WEIGHT_FIELDS, TowerJob
from benchmark.quantization.diagonal import with_weight
from benchmark.quantization.hadamard import Rotation
from benchmark.quantization.rounding import RoundingChoice, RoundingOptions
from benchmark.quantization.simulated import Prepared
from benchmark.spec import QuantSpec


class RotationOptions(RoundingOptions):
    """`seed`: of the random signs; `rounding`: of the rotated weights."""

    rounding: Literal["rtn", "mse", "gptq"] = "mse"
    seed: int = Field(default=0, ge=0, lt=2**32)


class Rotated(RoundingChoice):
    """Rotation of every Linear's input before rounding."""

    options = RotationOptions

    def stage(self, spec: QuantSpec) -> str:
        """The rotation depends on its seed."""
        return f"{self.name} {self.version} {self.read_options(spec, RotationOptions).seed}"

    @torch.no_grad()
    def prepare(self, job: TowerJob) -> dict[str, Prepared]:
        """Rotate the weights of all Linears; their inputs follow when the model runs."""
        seed = self.read_options(job.spec, RotationOptions).seed
        prepared = super().prepare(job)
        for name, item in prepared.items():
            layer = item.target.layer
            if isinstance(layer, nn.Linear):
                rotation = Rotation(layer.in_features, seed).to(layer.weight.device)
                target = replace(item.target, layer=with_weight(layer, rotation.rotate(item.original).float()))
                prepared[name] = replace(item, target=target, online=rotation, undo=rotation.unrotate)
        return prepared


quantizer = Rotated(
    name="rotation",
    version=2,
    title="rotation by randomised Hadamard matrices (QuaRot style)",
    paper="Ashkboos et al. 2024, arXiv 2404.00456",
    fields=WEIGHT_FIELDS | ACTIVATION_FIELDS | COMMON_FIELDS | {"options"},
)
