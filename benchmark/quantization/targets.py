"""Which layers of a tower are quantized, and how: skip patterns, bit overrides, and checks of group sizes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn

from benchmark.errors import NonFiniteError, QuantizationError
from benchmark.models.base import ClipModel
from benchmark.quantization.base import Granularity, Quantizer, Target, named_tensors
from benchmark.spec import QuantSpec, Tower


def check_patterns(model: ClipModel, spec: QuantSpec, towers: Iterable[Tower]) -> None:
    """Check that every skip and override pattern matches a Linear or Conv2d of these towers.

    Raises:
        QuantizationError: names the pattern and the closest layer names.
    """
    towers = tuple(towers)
    names = [name for tower in towers for name in model.layers(tower)]
    for pattern in (*spec.skip, *(item.pattern for item in spec.overrides)):
        if not any(fnmatchcase(name, pattern) for name in names):
            where = (
                model.name if set(towers) == set(model.towers) else f"the {' and '.join(towers)} tower of {model.name}"
            )
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise QuantizationError(
                f"quantization '{spec.name}': pattern '{pattern}' matches no Linear or Conv2d of {where}. "
                f"Names are like {', '.join(close)}."
            )


def check_finite(layers: Mapping[str, nn.Module]) -> None:
    """Check that all weights are finite.

    Raises:
        NonFiniteError: names the tensor and the count.
    """
    for name, tensor in named_tensors(layers).items():
        if not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise NonFiniteError(f"weight '{name}' has {bad} NaN or infinite values of {tensor.numel()}")


def resolve(
    quantizer: Quantizer, model: ClipModel, tower: Tower, spec: QuantSpec
) -> tuple[dict[str, Target], dict[str, str]]:
    """The layers of a tower to quantize, and the skipped ones with the reason.

    Raises:
        QuantizationError: a group size does not divide the input features of a Linear.
    """
    targets: dict[str, Target] = {}
    skipped: dict[str, str] = {}
    for name, layer in model.layers(tower).items():
        pattern = _first_match(name, spec.skip)
        if pattern is not None:
            skipped[name] = f"skip pattern '{pattern}'"
        elif not (isinstance(layer, quantizer.layer_types) and isinstance(layer, nn.Linear | nn.Conv2d)):
            skipped[name] = f"{quantizer.name} does not quantize {type(layer).__name__}"
        else:
            granularity, size = _granularity(name, layer, spec)
            targets[name] = Target(name, layer, _bits(name, spec), granularity, size)
    return targets, skipped


def _first_match(name: str, patterns: Iterable[str]) -> str | None:
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def _bits(name: str, spec: QuantSpec) -> int | None:
    """Bits of a layer: the last override that matches wins."""
    matching = [item.bits for item in spec.overrides if fnmatchcase(name, item.pattern)]
    return matching[-1] if matching else spec.weight_bits


def _granularity(name: str, layer: nn.Linear | nn.Conv2d, spec: QuantSpec) -> tuple[Granularity, int | None]:
    """A convolution whose kernel no group divides (a depthwise 7 x 7) is quantized per channel instead."""
    size, columns = spec.group_size, layer.weight[0].numel()
    if size is None or columns % size == 0:
        return spec.weight_granularity or "channel", size
    if isinstance(layer, nn.Conv2d):
        return "channel", None
    near = sorted((d for d in range(1, columns + 1) if columns % d == 0), key=lambda d: (abs(d - size), d))[:4]
    raise QuantizationError(
        f"quantization '{spec.name}': group_size {size} does not divide the {columns} input features of '{name}'. "
        f"Sizes near it that do: {', '.join(map(str, sorted(near)))}."
    )
