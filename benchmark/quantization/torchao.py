"""torchao's int8 and FP8 tensors on their own kernels: weights alone, or with dynamic inputs; Linear layers only.

- `torchao-int8wo`: weights int8 symmetric per output channel, dequantized within the product.
- `torchao-int8da`: the same weights, inputs int8 symmetric per token, an int8 matrix product. On CPUs without AVX-512
  that product is a scalar loop, many times slower than float32; the report's notes say so.
- `torchao-fp8wo`: weights E4M3 with a scale per output channel, dequantized within the product.
- `torchao-fp8da`: the same weights, inputs E4M3 with a scale per token, an FP8 matrix product: NVIDIA GPUs of compute
  capability 8.9 or more.

Conv2d layers have no kernel there and stay in full precision. Needs the extra `reliquant[torchao]`.
Source: torchao's `Int8WeightOnlyConfig`, `Int8DynamicActivationInt8WeightConfig`, `Float8WeightOnlyConfig` and
`Float8DynamicActivationFloat8WeightConfig` with one scale a row.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import ModelError, QuantizationError
from benchmark.quantization import affine
from benchmark.quantization.base import COMMON_FIELDS, LayerRecord, Quantizer, TowerJob
from benchmark.quantization.kernels.int8 import int8_available
from benchmark.quantization.linear import Flattened
from benchmark.quantization.state import LayerState
from benchmark.spec import QuantSpec

ENGINE = "torchao"


@dataclass(frozen=True)
class TorchAo(Quantizer):
    """One of torchao's configurations, by the name of its class; `capability` is what a GPU needs at least."""

    config: str = "Int8WeightOnlyConfig"
    capability: tuple[int, int] = (0, 0)
    layer_types = (nn.Linear,)

    def check_available(self, device: str) -> None:
        """Check that torchao is installed and the GPU can run it."""
        super().check_available(device)
        if find_spec("torchao") is None:
            raise QuantizationError(f"{self.name}: torchao is not installed. Run pip install 'reliquant[torchao]'")
        if device == "cuda" and torch.cuda.get_device_capability() < self.capability:
            major, minor = self.capability
            raise QuantizationError(
                f"{self.name}: it needs a GPU of compute capability {major}.{minor} or more. Choose another method."
            )

    def quantize_tower(self, job: TowerJob) -> list[LayerRecord]:
        """Replace the weight of every Linear by torchao's tensor."""
        library = _torchao()
        if self.config == "Int8DynamicActivationInt8WeightConfig" and not int8_available(job.model.device):
            job.notes.append(f"{self.name}: no fast int8 matrix product on this device; expect it to be slow")
        records = []
        with job.progress.phase(f"{self.name}: weights ({job.tower})", len(job.targets)) as advance:
            for name, layer in job.linears().items():
                original = layer.weight.detach()
                inner = _plain_copy(layer)
                library.quantize_(inner, self._config())
                dense = inner.weight.detach().dequantize()
                if job.kept is not None:
                    stored = {key: getattr(inner.weight, key) for key in _inner_names(inner.weight)}
                    job.kept[name] = LayerState({"torchao": version("torchao")}, stored)
                job.replace(name, Flattened(inner, original))
                packed, shape = 8 * original.numel() + 32 * len(original), tuple(original.shape)
                errors = affine.error(original, dense)
                records.append(LayerRecord(name, "Linear", shape, 8, "channel", packed, *errors, ENGINE))
                advance(1)
        return records

    def rebuild(
        self, spec: QuantSpec, layer: nn.Linear | nn.Conv2d, state: LayerState, exact_float: bool = False
    ) -> tuple[nn.Module, str]:
        """torchao's own tensor, filled with the stored codes and scales."""
        if not isinstance(layer, nn.Linear):
            raise ModelError(f"it is a {type(layer).__name__}, for which torchao has no kernel")
        library, inner = _torchao(), _plain_copy(layer)
        library.quantize_(inner, self._config())
        names = _inner_names(inner.weight)
        if sorted(names) != sorted(state.tensors):
            raise ModelError(
                f"it was stored by torchao {state.about.get('torchao')} as {', '.join(sorted(state.tensors))}; torchao "
                f"{version('torchao')} has {', '.join(sorted(names))}: install the version that stored it"
            )
        try:
            for name in names:
                getattr(inner.weight, name).copy_(state.tensors[name])
        except RuntimeError as error:
            raise ModelError(f"its stored state is damaged ({error})") from error
        return Flattened(inner, layer.weight.detach()), ENGINE

    def _config(self) -> Any:
        library = _torchao()
        config = getattr(library, self.config)
        return config(granularity=library.PerRow()) if self.config.startswith("Float8Dynamic") else config()


def _inner_names(weight: Any) -> list[str]:
    """Names of the plain tensors that a tensor subclass is made of."""
    return list(weight.__tensor_flatten__()[0])


def _torchao() -> Any:
    logger = logging.getLogger("torch.utils._pytree")  # complains about torchao's enums at import
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import torchao.quantization
    finally:
        logger.setLevel(level)
    return torchao.quantization


def _plain_copy(layer: nn.Linear) -> nn.Linear:
    """A Linear of torch's own class with the same numbers; torchao replaces its weight."""
    new = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    weight: Tensor = layer.weight.detach().clone()
    new.weight = nn.Parameter(weight, requires_grad=False)
    new.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    return new.eval()


_PAPER = "github.com/pytorch/ao"
_FP8_PAPER = "Micikevicius et al. 2022, arXiv 2209.05433"


def _made(name: str, title: str, paper: str, config: str, **where: Any) -> TorchAo:
    return TorchAo(name, 1, title, paper, COMMON_FIELDS, kernel="real", config=config, **where)


weight_only = _made("torchao-int8wo", "torchao int8 weights", _PAPER, "Int8WeightOnlyConfig")
dynamic = _made(
    "torchao-int8da",
    "torchao int8 weights and dynamic int8 activations",
    _PAPER,
    "Int8DynamicActivationInt8WeightConfig",
)
fp8_weight_only = _made("torchao-fp8wo", "torchao FP8 E4M3 weights", _FP8_PAPER, "Float8WeightOnlyConfig")
fp8_dynamic = _made(
    "torchao-fp8da",
    "torchao FP8 E4M3 weights and dynamic FP8 activations",
    _FP8_PAPER,
    "Float8DynamicActivationFloat8WeightConfig",
    runs_on=("cuda",),
    capability=(8, 9),
)
