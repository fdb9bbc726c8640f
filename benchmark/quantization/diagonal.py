r"""Exact diagonal scalings: x W^T = (x / s) (W s)^T, folded into a LayerNorm where one feeds the layer.

A fold divides the LayerNorm's gain and bias by `s`; all Linears that read the LayerNorm must share that `s`. A probe
batch tests that nothing else reads it: the fold stays only if neither the tower's output nor any of its taps changes.
Otherwise the input is divided when the model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.quantization.base import TowerJob
from benchmark.quantization.linear import Scaled
from benchmark.quantization.report import probe, probe_outputs
from benchmark.quantization.simulated import Prepared

_FOLD_TOLERANCE = 1e-4
_FOLD_PROBE = 2


@dataclass(frozen=True)
class InputGroup:
    """Linears that read the same LayerNorm output, or one Linear that reads something else (`norm` None)."""

    norm: str | None
    layers: tuple[str, ...]


def input_groups(job: TowerJob) -> list[InputGroup]:
    """The target Linears of a tower by what feeds them, found by running a probe batch.

    LayerNorms without gain, and those that also feed a Linear that is not a target, form no group.
    """
    linears = {name: t for name, t in job.targets.items() if isinstance(t.layer, nn.Linear)}
    feeds = _feeds(job)
    groups: list[InputGroup] = []
    taken: set[str] = set()
    for norm, layers in feeds.items():
        if layers and all(name in linears for name in layers):
            groups.append(InputGroup(norm, tuple(layers)))
            taken.update(layers)
    return groups + [InputGroup(None, (name,)) for name in linears if name not in taken]


def _feeds(job: TowerJob) -> dict[str, list[str]]:
    """LayerNorm name -> Linears whose input is the tensor memory that it wrote."""
    module = job.model.module
    outputs: dict[tuple[int, int], str] = {}
    feeds: dict[str, list[str]] = {}
    alive: list[Tensor] = []  # keeps addresses from being used again

    def norm_hook(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            alive.append(output)
            outputs[output.data_ptr(), output.numel()] = name

        return hook

    def linear_hook(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            norm = outputs.get((args[0].data_ptr(), args[0].numel()))
            if norm is not None and name not in feeds[norm]:
                feeds[norm].append(name)

        return hook

    handles = []
    for name, child in module.named_modules():
        if job.model.in_tower(name, job.tower):
            if isinstance(child, nn.LayerNorm) and child.weight is not None:
                feeds[name] = []
                handles.append(child.register_forward_hook(norm_hook(name)))
            elif isinstance(child, nn.Linear):
                handles.append(child.register_forward_pre_hook(linear_hook(name)))
    try:
        probe(job.model, job.tower, (), job.calibration)
    finally:
        for handle in handles:
            handle.remove()
    return feeds


@torch.no_grad()
def apply_scales(job: TowerJob, scales: Mapping[InputGroup, Tensor]) -> dict[str, Prepared]:
    """Multiply weights by their group's scale and divide the inputs by it; layers without one stay unchanged.

    Args:
        job: its model is changed in place; the tower's output stays the same.
        scales: (K,) float32 per group, positive.
    """
    prepared = {name: Prepared(target, target.layer.weight.detach()) for name, target in job.targets.items()}
    linears = job.linears()
    folds = _fold_all(job, {group: scale for group, scale in scales.items() if group.norm is not None})
    for group, scale in scales.items():
        for name in group.layers:
            item = prepared[name]
            if group in folds:
                prepared[name] = replace(item, undo=(1 / scale).mul)
            else:
                target = replace(item.target, layer=with_weight(linears[name], item.original * scale))
                prepared[name] = replace(item, target=target, online=Scaled(1 / scale), undo=(1 / scale).mul)
    return prepared


def with_weight(layer: nn.Linear, weight: Tensor) -> nn.Linear:
    """A copy of a Linear with another weight; the model keeps the exact one."""
    new = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    new.weight, new.bias = nn.Parameter(weight, requires_grad=False), layer.bias
    return new


def _fold_all(job: TowerJob, scales: Mapping[InputGroup, Tensor]) -> set[InputGroup]:
    """Fold scales into LayerNorms: all at once, and one by one if that changed the tower's output."""

    def output() -> dict[str, Tensor]:
        return probe_outputs(job.model, job.tower, job.calibration, _FOLD_PROBE)

    def unchanged() -> bool:
        return all(_close(found, reference[name]) for name, found in output().items())

    if not scales:
        return set()
    reference = output()
    undo = [_fold(job, group, scale) for group, scale in scales.items()]
    if unchanged():
        return set(scales)
    for step in undo:
        step()
    kept: set[InputGroup] = set()
    for group, scale in scales.items():
        back = _fold(job, group, scale)
        if unchanged():
            kept.add(group)
        else:
            back()
            job.notes.append(
                f"{group.norm} is read by more than {', '.join(group.layers)}: their inputs are scaled online"
            )
    return kept


def _close(found: Tensor, reference: Tensor) -> bool:
    return float((found - reference).abs().max()) <= _FOLD_TOLERANCE * float(reference.abs().max())


def _fold(job: TowerJob, group: InputGroup, scale: Tensor) -> Callable[[], None]:
    """Fold one scale; returns a function that undoes it."""
    norm = job.model.module.get_submodule(group.norm or "")
    changed: list[tuple[nn.Module, str, nn.Parameter]] = []

    def change(module: nn.Module, key: str, factor: Tensor) -> None:
        parameter = getattr(module, key)
        if parameter is not None:
            changed.append((module, key, parameter))
            setattr(module, key, nn.Parameter(parameter * factor, requires_grad=False))

    change(norm, "weight", 1 / scale)
    change(norm, "bias", 1 / scale)
    for name in group.layers:
        change(job.targets[name].layer, "weight", scale)

    def back() -> None:
        for module, key, parameter in changed:
            setattr(module, key, parameter)

    return back
