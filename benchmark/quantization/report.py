"""QuantizationReport: evidence that a quantization did what its name says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.errors import NonFiniteError, QuantizationError
from benchmark.models.base import ClipModel
from benchmark.quantization.base import Kernel, Kind, LayerRecord
from benchmark.quantization.calibration import Calibration
from benchmark.quantization.kernels.int8 import cpu_capability
from benchmark.spec import QuantSpec, Tower

PROBE = 8
_PROBE_TEXTS = (
    "a photo of a cat",
    "a drawing of two red circles on a blue background",
    "the handwritten digit seven",
    "a dog",
    "a satellite image of a harbour at night",
    "green square",
    "a close-up photo of an old wooden door, slightly open",
    "texture",
)
KEPT = "LayerNorm, softmax, residual sums, embeddings, logit scale and bias stay in float32"


@dataclass(frozen=True)
class TowerReport:
    """What happened to one tower.

    Attributes:
        layers: one record per replaced layer.
        skipped: layers left in full precision, with the reason.
        weight_share: share of the weights of the tower's Linear and Conv2d layers that was replaced.
        mac_share: share of their multiply-accumulates, counted on a probe batch (attention products not included).
        bits_per_weight: packed bits over weights, in the replaced layers.
        bits_per_parameter, bits_per_parameter_without_embedding: the same over all parameters of the tower, with and
            without its token embedding.
        packed_bytes, float_bytes: size of the tower's parameters after and before, scales and zero points counted.
        weight_relative_error, weight_sqnr_db: over all replaced weights together.
        cosine: mean cosine between quantized and full-precision embeddings of the probe batch.
        embedding_sqnr_db: 10 log10(||f||^2 / ||q - f||^2) over the probe batch; None where a control leaves f alone.
        engines: number of layers by engine.
    """

    layers: tuple[LayerRecord, ...]
    skipped: Mapping[str, str]
    weight_share: float
    mac_share: float
    bits_per_weight: float
    bits_per_parameter: float
    bits_per_parameter_without_embedding: float
    packed_bytes: int
    float_bytes: int
    weight_relative_error: float
    weight_sqnr_db: float | None
    cosine: float
    embedding_sqnr_db: float | None
    engines: Mapping[str, int]


@dataclass(frozen=True)
class QuantizationReport:
    """One quantization of one model; `towers` is empty for full precision.

    `weights` counts the Linear and Conv2d weights of every tower of the model, replaced or not, `parameters` all its
    parameters. A control (`kind`) replaces no layer; its tower report says what it did to the features, `figures` by
    how much. `title` is the method's, in words.
    """

    quantization: str
    model: str
    version: int
    kernel: Kernel | None
    towers: Mapping[Tower, TowerReport]
    cpu: str
    device: str
    weights: Mapping[Tower, int]
    parameters: Mapping[Tower, int]
    kept: str = KEPT
    notes: tuple[str, ...] = ()
    kind: Kind = "quantization"
    title: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        """Names of all engines used, joined by `+`; `float` for full precision."""
        return "+".join(sorted({e for tower in self.towers.values() for e in tower.engines})) or "float"

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps(..., allow_nan=False)`."""
        value: dict[str, Any] = json.loads(json.dumps(asdict(self) | {"engine": self.engine}, allow_nan=False))
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> QuantizationReport:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, AttributeError: the value does not come from `to_json`.
        """
        towers: dict[Tower, TowerReport] = {}
        for name, tower in value["towers"].items():
            layers = tuple(LayerRecord(**{**layer, "shape": tuple(layer["shape"])}) for layer in tower["layers"])
            towers[name] = TowerReport(**{**tower, "layers": layers})
        fields = {key: found for key, found in value.items() if key != "engine"}
        return cls(**{**fields, "towers": towers, "notes": tuple(value["notes"])})


@dataclass(frozen=True)
class Run:
    """One probe batch through a tower: features and, per watched module, calls and multiply-accumulates."""

    features: Tensor
    calls: Mapping[str, int]
    macs: Mapping[str, int]


def probe(
    model: ClipModel, tower: Tower, names: Sequence[str], calibration: Calibration | None, count: int = PROBE
) -> Run:
    """Run a probe batch: the first calibration pairs, or seeded noise images and fixed texts."""
    calls, macs = dict.fromkeys(names, 0), dict.fromkeys(names, 0)

    def hook(name: str, weights: int) -> Any:
        def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] += 1
            channels = 1 if isinstance(module, nn.Conv2d) else -1
            macs[name] += output.numel() // output.shape[channels] * weights

        return count

    handles = []
    for name in names:
        module = model.module.get_submodule(name)
        weights = module.weight.shape.numel()  # type: ignore[operator]
        handles.append(module.register_forward_hook(hook(name, weights)))
    try:
        return Run(_probe_features(model, tower, calibration, count).double().cpu(), calls, macs)
    finally:
        for handle in handles:
            handle.remove()


def probe_outputs(
    model: ClipModel, tower: Tower, calibration: Calibration | None, count: int = PROBE
) -> dict[str, Tensor]:
    """All outputs of a tower on a probe batch: its features, under "features", and its taps."""
    if tower == "text":
        return {"features": _probe_features(model, tower, calibration, count)}
    found = model.encode_image_with(_probe_pixels(model, calibration, count), tuple(model.taps))
    return {"features": found.pop("image"), **found}


def _probe_features(model: ClipModel, tower: Tower, calibration: Calibration | None, count: int) -> Tensor:
    if tower == "text":
        return model.encode_text(list((calibration.captions if calibration else ()) or _PROBE_TEXTS)[:count])
    return model.encode_image(_probe_pixels(model, calibration, count))


def _probe_pixels(model: ClipModel, calibration: Calibration | None, count: int) -> Tensor:
    if calibration is not None:
        return torch.from_numpy(calibration.pixels[:count].copy())
    height, width = model.preprocess.size
    noise = np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(noise)


def tower_report(
    before: ClipModel,
    after: ClipModel,
    tower: Tower,
    records: Sequence[LayerRecord],
    skipped: Mapping[str, str],
    calibration: Calibration | None,
    spec: QuantSpec,
) -> TowerReport:
    """Measure the effect of a quantization on a tower.

    Raises:
        QuantizationError: nothing was replaced, a replaced layer is never called, or the embeddings did not change.
        NonFiniteError: the quantized embeddings are not finite.
    """
    if not records:
        reason = next(iter(skipped.values()), "it has no Linear or Conv2d")
        raise QuantizationError(f"quantization '{spec.name}' replaced no layer of the {tower} tower: {reason}")
    layers = before.layers(tower)
    reference = probe(before, tower, list(layers), calibration)
    quantized = probe(after, tower, [r.name for r in records], calibration)
    _check_run(spec, tower, reference, quantized)
    done = {r.name for r in records}
    weights = {name: layer.weight.numel() for name, layer in layers.items()}  # type: ignore[operator]
    macs, total = reference.macs, sum(weights.values())
    packed, covered = sum(r.packed_bits for r in records), sum(weights[n] for n in done)
    parameters, embedding = _parameters(before, tower)
    rest = 32 * (parameters - covered)
    relative, sqnr = _pooled_error(records, layers)
    noise = float((quantized.features - reference.features).square().sum())
    return TowerReport(
        layers=tuple(records),
        skipped=dict(skipped),
        weight_share=covered / total,
        mac_share=sum(macs[n] for n in done) / sum(macs.values()),
        bits_per_weight=packed / covered,
        bits_per_parameter=(packed + rest) / parameters,
        bits_per_parameter_without_embedding=(packed + rest - 32 * embedding) / (parameters - embedding),
        packed_bytes=-(-(packed + rest) // 8),
        float_bytes=4 * parameters,
        weight_relative_error=relative,
        weight_sqnr_db=sqnr,
        cosine=float((quantized.features * reference.features).sum(1).mean()),
        embedding_sqnr_db=float(10 * np.log10(float(reference.features.square().sum()) / noise)),
        engines={e: sum(r.engine == e for r in records) for e in sorted({r.engine for r in records})},
    )


def control_report(before: ClipModel, after: ClipModel, spec: QuantSpec, calibration: Calibration) -> TowerReport:
    """Measure what a control did to the vision tower's features; no layer is replaced, the size stays.

    Raises:
        QuantizationError: neither embeddings nor the logit scale changed. NonFiniteError: they are not finite.
    """
    reference, changed = (probe(model, "vision", (), calibration) for model in (before, after))
    if before.logit_scale == after.logit_scale:
        _check_run(spec, "vision", reference, changed)
    noise = float((changed.features - reference.features).square().sum())
    size = 4 * _parameters(before, "vision")[0]
    return TowerReport(
        layers=(),
        skipped={},
        weight_share=0.0,
        mac_share=0.0,
        bits_per_weight=32.0,
        bits_per_parameter=32.0,
        bits_per_parameter_without_embedding=32.0,
        packed_bytes=size,
        float_bytes=size,
        weight_relative_error=0.0,
        weight_sqnr_db=None,
        cosine=float((changed.features * reference.features).sum(1).mean()),
        embedding_sqnr_db=float(10 * np.log10(float(reference.features.square().sum()) / noise)) if noise else None,
        engines={},
    )


def _check_run(spec: QuantSpec, tower: Tower, reference: Run, quantized: Run) -> None:
    if silent := sorted(name for name, count in quantized.calls.items() if count == 0):
        raise QuantizationError(
            f"quantization '{spec.name}': the {tower} tower never calls {', '.join(silent[:3])}"
            f"{' ...' if len(silent) > 3 else ''}; so replacing it has no effect. Skip it, or fix the model adapter."
        )
    if not torch.isfinite(quantized.features).all():
        raise NonFiniteError(f"quantization '{spec.name}': the {tower} embeddings are NaN or infinite")
    if torch.equal(reference.features, quantized.features):
        raise QuantizationError(f"quantization '{spec.name}' changed nothing: the {tower} embeddings are bit-identical")


def _parameters(model: ClipModel, tower: Tower) -> tuple[int, int]:
    """Number of parameters of a tower, and of those in its embedding tables."""
    total = sum(p.numel() for n, p in model.module.named_parameters() if model.in_tower(n, tower))
    tables = [m for n, m in model.module.named_modules() if isinstance(m, nn.Embedding) and model.in_tower(n, tower)]
    return total, sum(table.weight.numel() for table in tables)


def _pooled_error(records: Sequence[LayerRecord], layers: Mapping[str, nn.Module]) -> tuple[float, float | None]:
    """Relative error and SQNR of all replaced weights as one long vector."""
    signal = noise = 0.0
    for record in records:
        energy = float(layers[record.name].weight.detach().square().sum(dtype=torch.float64))  # type: ignore[operator]
        signal += energy
        noise += energy * record.relative_error**2
    if noise == 0:
        return 0.0, None
    return (noise / signal) ** 0.5, float(10 * np.log10(signal / noise))


def tower_sizes(model: ClipModel) -> tuple[dict[Tower, int], dict[Tower, int]]:
    """For each tower the weights of its Linear and Conv2d layers, and all its parameters."""
    weights = {t: sum(layer.weight.numel() for layer in model.layers(t).values()) for t in model.towers}  # type: ignore[operator, misc]
    return weights, {tower: _parameters(model, tower)[0] for tower in model.towers}


def describe_device(model: ClipModel) -> tuple[str, str]:
    """CPU capability, and the device's name."""
    device = model.device
    return cpu_capability(), torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
