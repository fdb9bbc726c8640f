"""bfloat16 and float16: weights stored in 16 bits, and every Linear and Conv2d computed in them.

.. math:: y = \\mathrm{half}(x)\\,\\mathrm{half}(W)^T + b

Products accumulate in float32 within the kernel; norms, softmax and residual sums stay in float32, so that errors do
not add up along the residual stream. bfloat16 has float32's range and 8 bits of precision, float16 has 11 and overflows
above 65504. On CPUs without instructions for bfloat16 torch emulates them, which is slow; float16 is offered where the
CPU or GPU computes in it. Source: Kalamkar et al., 2019 (arXiv 1905.12322); Micikevicius et al., 2018 (arXiv
1710.03740).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import ModelError, QuantizationError
from benchmark.quantization import affine
from benchmark.quantization.base import COMMON_FIELDS, LayerRecord, Quantizer, TowerJob
from benchmark.quantization.state import LayerState
from benchmark.spec import QuantSpec

BITS = 16


class HalfLayer(nn.Module):
    """A Linear or Conv2d computed in a 16-bit type; takes and gives the type of its input.

    Args: layer: which it replaces. weight: (out, ...) in the 16-bit type.
    """

    weight: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.bias = layer.bias
        self.geometry = None
        if isinstance(layer, nn.Conv2d):
            self.geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
            self.mode, self.edges = layer.padding_mode, list(layer._reversed_padding_repeated_twice)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out), or (B, C, H, W) -> (B, O, H', W')."""
        half, bias = x.to(self.weight.dtype), None if self.bias is None else self.bias.to(self.weight.dtype)
        if self.geometry is None:
            return F.linear(half, self.weight, bias).to(x.dtype)
        stride, padding, dilation, groups = self.geometry
        if self.mode != "zeros":
            half, padding = F.pad(half, self.edges, mode=self.mode), (0, 0)
        return F.conv2d(half, self.weight, bias, stride, padding, dilation, groups).to(x.dtype)


@dataclass(frozen=True)
class Half(Quantizer):
    """One of the 16-bit types, by the name of torch's dtype."""

    dtype: str = "bfloat16"

    def check_available(self, device: str) -> None:
        """float16 needs a device that computes in it."""
        super().check_available(device)
        if device == "cpu" and self.dtype == "float16" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
            raise QuantizationError(f"{self.name}: this CPU does not compute in float16. Use bf16, or --device cuda.")

    def quantize_tower(self, job: TowerJob) -> list[LayerRecord]:
        """Replace every target by the same layer in 16 bits."""
        if job.model.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            job.notes.append(f"{self.name}: this CPU has no instructions for {self.dtype}; expect it to be slow")
        records = []
        with job.progress.phase(f"{self.name}: weights ({job.tower})", len(job.targets)) as advance:
            for name, target in job.targets.items():
                original = target.layer.weight.detach()
                weight = original.to(getattr(torch, self.dtype))
                if not torch.isfinite(weight).all():
                    raise QuantizationError(
                        f"quantization '{job.spec.name}': weight '{name}' overflows {self.dtype}. Use bf16, or skip it."
                    )
                if job.kept is not None:
                    job.kept[name] = LayerState({"dtype": self.dtype}, {"weight": weight})
                job.replace(name, HalfLayer(target.layer, weight))
                kind, shape = type(target.layer).__name__, tuple(original.shape)
                errors, packed = affine.error(original, weight.float()), BITS * weight.numel()
                records.append(LayerRecord(name, kind, shape, BITS, "cast", packed, *errors, self.dtype))
                advance(1)
        return records

    def rebuild(
        self, spec: QuantSpec, layer: nn.Linear | nn.Conv2d, state: LayerState, exact_float: bool = False
    ) -> tuple[nn.Module, str]:
        """The layer around the stored weight."""
        weight = state.tensors.get("weight")
        if weight is None or weight.shape != layer.weight.shape or weight.dtype != getattr(torch, self.dtype):
            raise ModelError(f"its stored weight is damaged: expected {self.dtype} {tuple(layer.weight.shape)}")
        return HalfLayer(layer, weight.to(layer.weight.device)), self.dtype


def _made(name: str, title: str, paper: str, dtype: str) -> Half:
    return Half(name, 1, title, paper, COMMON_FIELDS, kernel="real", dtype=dtype)


bf16 = _made("bf16", "bfloat16 weights and layers", "Kalamkar et al. 2019, arXiv 1905.12322", "bfloat16")
fp16 = _made("fp16", "float16 weights and layers", "Micikevicius et al. 2018, arXiv 1710.03740", "float16")
