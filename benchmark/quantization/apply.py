"""From a short name to a quantized model and its QuantizationReport."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from benchmark.errors import QuantizationError, SpecError
from benchmark.models.base import ClipModel
from benchmark.quantization.base import FeatureControl, Quantizer, TowerJob
from benchmark.quantization.calibrate import Store
from benchmark.quantization.calibration import Calibration
from benchmark.quantization.graphs.graph import Graph
from benchmark.quantization.registry import quantizers
from benchmark.quantization.report import (
    QuantizationReport,
    TowerReport,
    control_report,
    describe_device,
    tower_report,
    tower_sizes,
)
from benchmark.quantization.state import LayerState
from benchmark.quantization.targets import check_finite, check_patterns, resolve
from benchmark.spec import QuantSpec, Tower
from benchmark.utils.memory import keep_freed_memory
from benchmark.utils.progress import Progress, Silent

_COVERED = 0.99


def check_model(model: ClipModel, specs: Iterable[QuantSpec]) -> None:
    """Refuse what a model cannot be quantized to, before any work.

    Args:
        specs: as the user named them, not split by tower: a pattern must match a layer of their own scope.

    Raises:
        QuantizationError: a pattern matches no layer, or the group size does not divide a layer's inputs.
        NonFiniteError: a weight is NaN or infinite.
    """
    towers: dict[Tower, None] = {}
    for spec in specs:
        check_patterns(model, spec, spec.towers)
        for tower in spec.towers:
            resolve(quantizers.get(spec.method), model, tower, spec)
            towers[tower] = None
    for tower in towers:
        check_finite(model.layers(tower))


def requires_calibration(spec: QuantSpec) -> bool:
    """Whether a quantization looks at calibration data."""
    return quantizers.get(spec.method).requires_calibration(spec)


def quantize(
    model: ClipModel,
    spec: QuantSpec,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
    exact_float: bool = False,
    statistics: Store | None = None,
) -> tuple[ClipModel, QuantizationReport]:
    """Quantize a copy of a model.

    Args:
        model: in full precision; it is left as it is. Full precision returns the model itself.
        spec: the quantization; `spec.for_tower(tower)` does to that tower exactly what the whole spec does to it.
        calibration: image-caption pairs, for methods that need them. The report uses them as probe batch too.
        progress: shows long phases.
        exact_float: compute on dequantized floats even where an int8 matrix product would be faster.
        statistics: keeps what the calibration data says about layers; what it has is not computed again.

    Raises:
        SpecError, QuantizationError: the quantization is not possible (before any work), or had no effect.
        NonFiniteError: a weight, an activation or the result is NaN or infinite.
    """
    return _quantize(model, spec, calibration, progress, exact_float, statistics, False)[:2]


def quantize_to_store(
    model: ClipModel,
    spec: QuantSpec,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
    exact_float: bool = False,
    statistics: Store | None = None,
) -> tuple[ClipModel, QuantizationReport, dict[str, LayerState]]:
    """`quantize`, and the states of the replaced layers by name, as a file of the quantized model holds them."""
    return _quantize(model, spec, calibration, progress, exact_float, statistics, True)[:3]


def quantize_to_graphs(
    model: ClipModel,
    spec: QuantSpec,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
    exact_float: bool = False,
    statistics: Store | None = None,
) -> tuple[ClipModel, QuantizationReport, dict[Tower, Graph]]:
    """`quantize`, and the towers that have become graphs."""
    quantized, report, _, graphs = _quantize(model, spec, calibration, progress, exact_float, statistics, False)
    return quantized, report, graphs


def _quantize(
    model: ClipModel,
    spec: QuantSpec,
    calibration: Calibration | None,
    progress: Progress | None,
    exact_float: bool,
    statistics: Store | None,
    keep: bool,
) -> tuple[ClipModel, QuantizationReport, dict[str, LayerState], dict[Tower, Graph]]:
    method = quantizers.get(spec.method)
    method.check(spec)
    if not spec.towers:
        return model, _report(model, model, spec, method, {}, []), {}, {}
    _check_before(model, spec, method, calibration)
    if isinstance(method, FeatureControl) and calibration is not None:

        def quantized(inner: QuantSpec) -> ClipModel:
            return quantize(model, inner, calibration, progress, exact_float, statistics)[0]

        return *_controlled(model, spec, method, calibration, quantized), {}, {}
    keep_freed_memory()
    clone = model.clone()
    notes: list[str] = []
    kept: dict[str, LayerState] = {}
    graphs: dict[Tower, Graph] = {}
    towers: dict[Tower, TowerReport] = {}
    for tower in spec.towers:
        targets, skipped = resolve(method, clone, tower, spec)
        job = TowerJob(
            model=clone,
            tower=tower,
            spec=spec,
            targets=targets,
            calibration=calibration,
            progress=progress or Silent(),
            exact_float=exact_float,
            statistics=statistics,
            skipped=skipped,
            kept={} if keep else None,
        )
        records = method.quantize_tower(job)
        towers[tower] = tower_report(model, job.model, tower, records, job.skipped, calibration, spec, graph_bytes(job))
        clone = job.model
        notes += [*job.notes, *_uncovered(tower, towers[tower])]
        kept |= job.kept or {}
        graphs |= job.graphs
    return clone, _report(model, clone, spec, method, towers, notes), kept, graphs


def graph_bytes(job: TowerJob) -> int | None:
    """Bytes on disk of the graph that a tower has become; None for one that still runs in torch."""
    graph = job.graphs.get(job.tower)
    return None if graph is None else graph.size


def _uncovered(tower: Tower, report: TowerReport) -> list[str]:
    """A note on the weights that stay in full precision, if they are more than 1 %."""
    if report.weight_share >= _COVERED:
        return []
    reasons = Counter(report.skipped.values())
    said = "; ".join(f"{count} layer{'s' * (count > 1)}: {reason}" for reason, count in reasons.items())
    return [
        f"{tower}: {report.weight_share:.1%} of the weights are quantized, the others stay in full precision ({said})"
    ]


@dataclass(frozen=True)
class ControlledEncoder:
    """An image encoder whose features are changed before they are normalised."""

    encoder: Callable[[nn.Module, Tensor], Tensor]
    change: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, module: nn.Module, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) -> changed features (B, D)."""
        return self.change(pixels, self.encoder(module, pixels))


def _controlled(
    model: ClipModel,
    spec: QuantSpec,
    method: FeatureControl,
    calibration: Calibration,
    quantized: Callable[[QuantSpec], ClipModel],
) -> tuple[ClipModel, QuantizationReport]:
    """The model with its features changed as a control says; it shares the weights."""
    control = method.control(model, spec, calibration, quantized)
    encoder = ControlledEncoder(model.image_encoder, control.change)
    changed = replace(model, image_encoder=encoder, logit_scale=model.logit_scale * control.temperature)
    towers: dict[Tower, TowerReport] = {"vision": control_report(model, changed, spec, calibration)}
    report = _report(model, model, spec, method, towers, list(control.notes))
    return changed, replace(report, figures=dict(control.figures))


def _check_before(model: ClipModel, spec: QuantSpec, method: Quantizer, calibration: Calibration | None) -> None:
    """Refuse a quantization that does not fit the model, before any tower is changed."""
    method.check_available(model.device.type)
    _check_calibration(method, spec, calibration)
    check_patterns(model, spec, model.towers)  # of both: this may be one tower of a whole
    for tower in spec.towers:
        resolve(method, model, tower, spec)
        check_finite(model.layers(tower))


def _check_calibration(method: Quantizer, spec: QuantSpec, calibration: Calibration | None) -> None:
    if not method.requires_calibration(spec):
        return
    why = f"the method {method.name}"
    if not method.needs_calibration:
        static = spec.activation_granularity == "tensor"
        why = "a static activation range" if static else f"{why} with these options"
    if calibration is None:
        raise QuantizationError(
            f"quantization '{spec.name}': it needs calibration data for {why}. Add 'calibration: NAME' to the suite."
        )
    for tower, count in (("vision", len(calibration.pixels)), ("text", len(calibration.captions))):
        if tower in spec.towers and count == 0:
            raise SpecError(
                f"quantization '{spec.name}': the calibration set has no {tower} data, which {why} needs. "
                "Add image-caption pairs to it."
            )


def _report(
    before: ClipModel,
    after: ClipModel,
    spec: QuantSpec,
    method: Quantizer,
    towers: dict[Tower, TowerReport],
    notes: list[str],
) -> QuantizationReport:
    (cpu, device), (weights, parameters) = describe_device(after), tower_sizes(before)
    common: dict[str, Any] = {"cpu": cpu, "device": device, "weights": weights, "parameters": parameters}
    common["notes"] = tuple(dict.fromkeys(notes))
    kernel = method.kernel if towers else None
    common |= {"kept": method.keeps, "kind": method.kind, "title": method.title}
    return QuantizationReport(spec.name, before.name, method.version, kernel, towers, **common)
