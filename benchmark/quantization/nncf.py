"""OpenVINO models quantized by NNCF: int8 weights and activations, or weights alone in 8 or 4 bits.

- `openvino-int8`: `nncf.quantize`. SmoothQuant moves outliers of inputs into weights, weights and inputs become int8
  (symmetric weights per output channel, activations per tensor from the calibration data), biases are corrected.
- `openvino-int8wo`, `openvino-int4wo`: `nncf.compress_weights`. Weights are dequantized within the product; NNCF keeps
  the first convolutions, embeddings and the last layer of `int4wo` in 8 bits.

Options have NNCF's names without underscores: `smoothquantalpha` is its `smooth_quant_alphas.matmul` (-1 is none),
`ignoredscope` a regular expression of names of the graph's operations. Needs the extra `reliquant[openvino]`.
Source: github.com/openvinotoolkit/nncf. Papers: Xiao et al., 2023 (arXiv 2211.10438) on SmoothQuant; Lin et al., 2024
(arXiv 2306.00978) on AWQ; Frantar et al., 2023 (arXiv 2210.17323) on GPTQ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from benchmark.errors import SpecError
from benchmark.quantization.base import COMMON_FIELDS, Options, TowerJob
from benchmark.quantization.graphs.graph import quiet
from benchmark.quantization.graphs.openvino import attention_products, library, operations, save
from benchmark.quantization.graphs.quantizer import GraphQuantizer
from benchmark.quantization.graphs.towers import INPUTS
from benchmark.spec import QuantSpec


class QuantizeOptions(Options):
    """Of `nncf.quantize`; the defaults are those for transformers, SmoothQuant's strength is NNCF's own."""

    preset: Literal["performance", "mixed"] = "mixed"
    modeltype: Literal["transformer", "none"] = "transformer"
    subsetsize: int = Field(default=300, ge=1)
    fastbiascorrection: bool = True
    smoothquantalpha: float = Field(default=0.95, ge=-1, le=1)
    overflowfix: Literal["enable", "disable", "firstlayeronly"] = "firstlayeronly"
    ignoredscope: str | None = None


class CompressOptions(Options):
    """Of `nncf.compress_weights`; those with `awq`, `scaleestimation` or `gptq` look at calibration data."""

    mode: Literal["sym", "asym"] = "asym"
    ignoredscope: str | None = None


class Compress4Options(CompressOptions):
    """Of `nncf.compress_weights` in 4 bits. NNCF makes a group smaller where it does not divide a layer's inputs."""

    groupsize: int = Field(default=128, ge=-1)
    ratio: float = Field(default=1.0, ge=0, le=1)
    alllayers: bool = False
    subsetsize: int = Field(default=128, ge=1)
    awq: bool = False
    scaleestimation: bool = False
    gptq: bool = False


def _nncf() -> Any:
    library()
    import logging

    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf


@dataclass(frozen=True)
class Nncf(GraphQuantizer):
    """A method of NNCF."""

    def quantize_graph(
        self, source: Path, target: Path, skipped: tuple[str, ...], data: list[Any], job: TowerJob
    ) -> None:
        """Read, quantize, save."""
        ov = library()
        graph = ov.Core().read_model(source)
        with quiet(f"quantization '{job.spec.name}': NNCF on the {job.tower} tower"):
            save(self.apply(graph, self.ignored(source, skipped, job.spec), data, job), target.parent, target.stem)

    def apply(self, graph: Any, ignored: Any, data: list[Any], job: TowerJob) -> Any:
        """The quantized graph."""
        raise NotImplementedError

    def ignored(self, source: Path, skipped: tuple[str, ...], spec: QuantSpec) -> Any:
        """NNCF's scope of operations that stay in full precision: those of skipped layers and of `ignoredscope`."""
        names = operations(source)
        pattern = str(spec.option("ignoredscope") or "")
        return _nncf().IgnoredScope(
            names=[name for layer in skipped for name in names.get(layer, [])], patterns=[pattern] if pattern else []
        )

    def notes(self, path: Path) -> list[str]:
        """How much of attention's own products takes rounded inputs."""
        done, products = attention_products(path)
        return [f"the inputs of {done} of {products} attention products are rounded to 8 bits, too"] if done else []


class Int8(Nncf):
    """`nncf.quantize`."""

    options = QuantizeOptions

    def subset(self, spec: QuantSpec) -> int:
        """NNCF's own `subset_size`."""
        return self.read_options(spec, QuantizeOptions).subsetsize

    def apply(self, graph: Any, ignored: Any, data: list[Any], job: TowerJob) -> Any:
        """int8 weights and activations."""
        nncf, options = _nncf(), self.read_options(job.spec, QuantizeOptions)
        from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters, OverflowFix

        fixes = {"enable": OverflowFix.ENABLE, "disable": OverflowFix.DISABLE}
        alphas = AdvancedSmoothQuantParameters(matmul=options.smoothquantalpha)
        return nncf.quantize(
            graph,
            _dataset(nncf, data, job),
            preset=nncf.QuantizationPreset(options.preset),
            subset_size=len(data),
            fast_bias_correction=options.fastbiascorrection,
            model_type=nncf.ModelType.TRANSFORMER if options.modeltype == "transformer" else None,
            ignored_scope=ignored,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=fixes.get(options.overflowfix, OverflowFix.FIRST_LAYER), smooth_quant_alphas=alphas
            ),
        )


class Int8Weights(Nncf):
    """`nncf.compress_weights` in 8 bits."""

    options = CompressOptions

    def apply(self, graph: Any, ignored: Any, data: list[Any], job: TowerJob) -> Any:
        """int8 weights."""
        nncf, options = _nncf(), self.read_options(job.spec, CompressOptions)
        mode = nncf.CompressWeightsMode(f"int8_{options.mode}")
        return nncf.compress_weights(graph, mode=mode, ignored_scope=ignored)


class Int4Weights(Nncf):
    """`nncf.compress_weights` in 4 bits."""

    options = Compress4Options

    def check(self, spec: QuantSpec) -> None:
        """A group size is -1 (one scale a channel) or positive."""
        super().check(spec)
        if self.read_options(spec, Compress4Options).groupsize == 0:
            raise SpecError(f"quantization '{spec.name}': option groupsize: -1 (per channel) or at least 1 (got 0)")

    def requires_calibration(self, spec: QuantSpec) -> bool:
        """AWQ, scale estimation and GPTQ look at data."""
        options = self.read_options(spec, Compress4Options)
        return options.awq or options.scaleestimation or options.gptq

    def subset(self, spec: QuantSpec) -> int:
        """NNCF's own `subset_size`."""
        return self.read_options(spec, Compress4Options).subsetsize

    def apply(self, graph: Any, ignored: Any, data: list[Any], job: TowerJob) -> Any:
        """int4 weights."""
        nncf, options = _nncf(), self.read_options(job.spec, Compress4Options)
        from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode

        return nncf.compress_weights(
            graph,
            mode=nncf.CompressWeightsMode(f"int4_{options.mode}"),
            ratio=options.ratio,
            group_size=options.groupsize,
            ignored_scope=ignored,
            all_layers=options.alllayers,
            dataset=_dataset(nncf, data, job) if data else None,
            subset_size=max(len(data), 1),
            awq=options.awq or None,
            scale_estimation=options.scaleestimation or None,
            gptq=options.gptq or None,
            advanced_parameters=AdvancedCompressionParameters(group_size_fallback_mode=GroupSizeFallbackMode.ADJUST),
        )


def _dataset(nncf: Any, data: list[Any], job: TowerJob) -> Any:
    return nncf.Dataset([{INPUTS[job.tower]: each} for each in data])


def _made(kind: type[Nncf], name: str, title: str, paper: str, **more: Any) -> Nncf:
    where: dict[str, Any] = {"runtime": "openvino", "modules": ("nncf",), "extra": "openvino"}
    return kind(name, 1, title, paper, COMMON_FIELDS | {"options"}, ("cpu",), "real", **where, **more)


_PAPER = "github.com/openvinotoolkit/nncf"
int8 = _made(
    Int8,
    "openvino-int8",
    "OpenVINO, NNCF int8 weights and activations",
    "Xiao et al. 2023, arXiv 2211.10438",
    needs_calibration=True,
)
int8_weight_only = _made(Int8Weights, "openvino-int8wo", "OpenVINO, NNCF int8 weights", _PAPER)
int4_weight_only = _made(Int4Weights, "openvino-int4wo", "OpenVINO, NNCF int4 weights", _PAPER)
