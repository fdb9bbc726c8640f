r"""bitsandbytes: LLM.int8(), NF4 and FP4 on their own kernels (CPU and CUDA), for Linear layers only.

- `bnb-int8` (Dettmers et al., "LLM.int8()", NeurIPS 2022, arXiv 2208.07339): weights int8 per output channel
  (absmax / 127), inputs int8 per token; input columns holding a magnitude over `threshold` are multiplied in float.
  The columns are found per batch, so embeddings depend slightly on what shares a batch; `threshold_0` avoids it.
- `bnb-nf4`, `bnb-fp4` (Dettmers et al., "QLoRA", NeurIPS 2023, arXiv 2305.14314): blocks of 64 consecutive weights,
  each divided by its absmax and rounded to a 16-entry table (normal quantiles, or a 4-bit float);
  `doublequant_true` quantizes the absmax values to 8 bits in blocks of 256 as well.

Conv2d layers have no kernel there and stay in full precision; the report lists them. 4-bit layers compute in float32
on every CPU: bitsandbytes' own path for AVX512-BF16 is left out, since it rounds inputs and absmax to bfloat16, takes
only layers with a multiple of 32 outputs, and rewrites the stored weight when it is first called.
"""

from __future__ import annotations

import logging
import platform
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.errors import ModelError, QuantizationError
from benchmark.quantization import affine
from benchmark.quantization.base import COMMON_FIELDS, LayerRecord, Options, Quantizer, TowerJob
from benchmark.quantization.linear import Flattened
from benchmark.quantization.state import LayerState
from benchmark.spec import QuantSpec

ENGINE = "bitsandbytes"


class Int8Options(Options):
    """`threshold`: magnitude over which an input column counts as an outlier; 0 turns the decomposition off."""

    threshold: float = Field(default=6.0, ge=0)


class FourBitOptions(Options):
    """`doublequant`: also quantize the absmax values."""

    doublequant: bool = False


@dataclass(frozen=True)
class BitsAndBytes(Quantizer):
    """One of bitsandbytes' formats: "int8", "nf4" or "fp4"."""

    format: str = "int8"
    layer_types = (nn.Linear,)

    def check_available(self, device: str) -> None:
        """Check that bitsandbytes is installed; it has no wheel for macOS on Intel and for musl."""
        super().check_available(device)
        if find_spec("bitsandbytes") is None:
            raise QuantizationError(
                f"{self.name}: bitsandbytes is not installed, and may have no wheel for {platform.system()} on "
                f"{platform.machine()}. Run pip install bitsandbytes, or choose another method."
            )

    def quantize_tower(self, job: TowerJob) -> list[LayerRecord]:
        """Replace every Linear by bitsandbytes' own module."""
        records = []
        with job.progress.phase(f"{self.name}: weights ({job.tower})", len(job.targets)) as advance:
            for name, layer in job.linears().items():
                inner, dense, packed = self.convert(layer, job.spec)
                original = layer.weight.detach()
                if job.kept is not None:
                    stored = {key: value.clone() for key, value in inner.state_dict().items() if key != "bias"}
                    job.kept[name] = LayerState({"bitsandbytes": version("bitsandbytes")}, stored)
                job.replace(name, Flattened(inner, original))
                relative, sqnr = affine.error(original, dense)
                bits, grain = (8, "channel") if self.format == "int8" else (4, "block 64")
                shape = tuple(original.shape)
                records.append(LayerRecord(name, "Linear", shape, bits, grain, packed, relative, sqnr, ENGINE))
                advance(1)
        return records

    def rebuild(
        self, spec: QuantSpec, layer: nn.Linear | nn.Conv2d, state: LayerState, exact_float: bool = False
    ) -> tuple[nn.Module, str]:
        """bitsandbytes' module around the stored codes."""
        if not isinstance(layer, nn.Linear):
            raise ModelError(f"it is a {type(layer).__name__}, for which bitsandbytes has no kernel")
        try:
            inner = self.restore(layer, spec, state.tensors)
        except (KeyError, ValueError, RuntimeError, AttributeError) as error:
            raise ModelError(f"its stored state is damaged ({type(error).__name__}: {error})") from error
        _fill(inner, layer)
        return Flattened(inner, layer.weight.detach()), ENGINE

    @abstractmethod
    def restore(self, layer: nn.Linear, spec: QuantSpec, tensors: Mapping[str, Tensor]) -> nn.Module:
        """bitsandbytes' module with the stored codes, its bias still to be filled in."""

    @abstractmethod
    def convert(self, layer: nn.Linear, spec: QuantSpec) -> tuple[nn.Module, Tensor, int]:
        """bitsandbytes' module, its dequantized weight and its packed bits."""


class Int8(BitsAndBytes):
    """LLM.int8()."""

    options = Int8Options

    def convert(self, layer: nn.Linear, spec: QuantSpec) -> tuple[nn.Module, Tensor, int]:
        """`Linear8bitLt`."""
        return _int8(layer, self.read_options(spec, Int8Options).threshold)

    def restore(self, layer: nn.Linear, spec: QuantSpec, tensors: Mapping[str, Tensor]) -> nn.Module:
        """`Linear8bitLt`."""
        params, device = _bitsandbytes().nn.Int8Params, layer.weight.device
        new: nn.Module = _empty_int8(layer, self.read_options(spec, Int8Options).threshold)
        codes, scale = tensors["weight"].to(device), tensors["SCB"].to(device)
        new.weight = params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scale)
        return new


class FourBit(BitsAndBytes):
    """NF4 and FP4."""

    options = FourBitOptions

    def convert(self, layer: nn.Linear, spec: QuantSpec) -> tuple[nn.Module, Tensor, int]:
        """`Linear4bit`."""
        return _four_bit(layer, self.format, self.read_options(spec, FourBitOptions).doublequant)

    def restore(self, layer: nn.Linear, spec: QuantSpec, tensors: Mapping[str, Tensor]) -> nn.Module:
        """`Linear4bit`."""
        params, device = _bitsandbytes().nn.Params4bit, layer.weight.device
        new: nn.Module = _empty_four_bit(layer, self.format, self.read_options(spec, FourBitOptions).doublequant)
        statistics = {key.removeprefix("weight."): tensors[key] for key in tensors if key != "weight"}
        new.weight = params.from_prequantized(
            tensors["weight"], statistics, requires_grad=False, device=device, module=new
        )
        return new


def _bitsandbytes() -> Any:
    # it warns about the optional kernels of the bfloat16 path, which is not used, and at each call about the cast of
    # float32 inputs, which is intended
    for name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes


def _fill(new: Any, layer: nn.Linear) -> None:
    if layer.bias is not None:
        new.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    new.eval().requires_grad_(False)


def _empty_int8(layer: nn.Linear, threshold: float) -> Any:
    return _bitsandbytes().nn.Linear8bitLt(
        layer.in_features, layer.out_features, layer.bias is not None, has_fp16_weights=False, threshold=threshold
    )


def _empty_four_bit(layer: nn.Linear, kind: str, double: bool) -> Any:
    new = _bitsandbytes().nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=torch.float32,
        compress_statistics=double,
        quant_type=kind,
    )
    new.support_avx512bf16_for_cpu = False
    return new


def _int8(layer: nn.Linear, threshold: float) -> tuple[nn.Module, Tensor, int]:
    bnb, weight = _bitsandbytes(), layer.weight.detach().float()
    new = _empty_int8(layer, threshold)
    new.weight = bnb.nn.Int8Params(weight.cpu().contiguous(), requires_grad=False, has_fp16_weights=False)
    _fill(new, layer)
    new = new.to(weight.device)
    codes, scale = new.weight.data, new.weight.SCB
    if codes.dtype != torch.int8 or scale is None:
        raise QuantizationError(f"bitsandbytes {bnb.__version__} does not quantize to int8 on {weight.device.type}")
    dense = codes.float() * (scale.float().unsqueeze(1) / 127)
    return new, dense, codes.numel() * 8 + scale.numel() * 32


def _four_bit(layer: nn.Linear, kind: str, double: bool) -> tuple[nn.Module, Tensor, int]:
    bnb, weight = _bitsandbytes(), layer.weight.detach().float()
    new = _empty_four_bit(layer, kind, double)
    new.weight = bnb.nn.Params4bit(
        weight.cpu().contiguous(), requires_grad=False, compress_statistics=double, quant_type=kind, module=new
    )
    _fill(new, layer)
    new = new.to(weight.device)
    state = new.weight.quant_state
    dense = bnb.functional.dequantize_4bit(new.weight.data, state).reshape(weight.shape).float()
    return new, dense, new.weight.data.numel() * 8 + _state_bits(state)


def _state_bits(state: Any) -> int:
    """Bits of the absmax values: float32, or 8 bits with their own float32 absmax and one offset."""
    if state.nested:
        return int(state.absmax.numel() * 8 + state.state2.absmax.numel() * 32 + 32)
    return int(state.absmax.numel() * 32)


_QLORA = "Dettmers et al. 2023 (QLoRA), arXiv 2305.14314"
_FIELDS = COMMON_FIELDS | {"options"}
int8 = Int8(
    name="bnb-int8",
    version=1,
    title="bitsandbytes LLM.int8(): int8 weights and inputs, outlier columns in float",
    paper="Dettmers et al. 2022, arXiv 2208.07339",
    fields=_FIELDS,
    kernel="real",
    format="int8",
)
nf4 = FourBit("bnb-nf4", 2, "bitsandbytes NF4 weights in blocks of 64", _QLORA, _FIELDS, kernel="real", format="nf4")
fp4 = FourBit("bnb-fp4", 2, "bitsandbytes FP4 weights in blocks of 64", _QLORA, _FIELDS, kernel="real", format="fp4")
