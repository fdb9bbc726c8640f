"""What calibration data says about the inputs of layers: streamed through hooks, one bounded batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import NonFiniteError, QuantizationError
from benchmark.models.base import ClipModel
from benchmark.progress import Progress
from benchmark.quantization.calibration import Calibration
from benchmark.spec import Tower

BATCH = 32
STATISTICS_BYTES = 1 << 30
"""Memory that one pass's statistics may take, and as much again for those kept from earlier passes."""


class Observer(ABC):
    """Accumulates a statistic of one layer's input. `kind` names it, `nbytes` bounds its memory."""

    kind: str
    nbytes: int = 1024

    @abstractmethod
    def update(self, x: Tensor) -> None:
        """Take in a batch: (rows, features) of a Linear, (B, C, H, W) of a Conv2d."""


class Range(Observer):
    """Smallest and largest value seen."""

    kind = "range"

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")

    def update(self, x: Tensor) -> None:
        """Widen the range."""
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))


class ChannelMagnitude(Observer):
    """Largest and mean |x| per input feature of a Linear."""

    kind = "magnitude"

    def __init__(self) -> None:
        self.largest, self.total, self.rows = torch.zeros(0), torch.zeros(0), 0

    def update(self, x: Tensor) -> None:
        """Add rows (N, K)."""
        if self.rows == 0:
            self.largest = x.new_zeros(x.shape[-1])
            self.total = x.new_zeros(x.shape[-1], dtype=torch.float64)
            self.nbytes = 12 * x.shape[-1]
        magnitude = x.abs()
        self.largest = torch.maximum(self.largest, magnitude.amax(0))
        self.total += magnitude.sum(0, dtype=torch.float64)
        self.rows += len(x)

    @property
    def mean(self) -> Tensor:
        """Mean |x| per feature, float32."""
        return (self.total / self.rows).float()


class SecondMoment(Observer):
    """X^T X / N of a layer's input (K, K) float32: half the Hessian of its output's squared error (GPTQ, AWQ).

    A Conv2d without groups is seen as a Linear on its unfolded patches.
    """

    kind = "second moment"

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        self.columns, self.rows = layer.weight[0].numel(), 0
        self.matrix, self.nbytes = torch.zeros(0), 4 * self.columns**2
        self._unfold: Callable[[Tensor], Tensor] | None = None
        if isinstance(layer, nn.Conv2d):
            self._unfold = unfolder(layer)

    def update(self, x: Tensor) -> None:
        """Add rows (N, K), or images."""
        rows = x.float() if self._unfold is None else self._unfold(x.float())
        if self.rows == 0:
            with torch.inference_mode(False):  # so that it may be changed outside of the calibration pass
                self.matrix = torch.zeros(self.columns, self.columns, device=x.device)
        self.rows += len(rows)
        self.matrix.mul_(1 - len(rows) / self.rows).addmm_(rows.t(), rows, alpha=1 / self.rows)


def unfolder(layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    """Images (B, C, H, W) -> patches (B * H' * W', C * kh * kw) as a convolution without groups reads them."""
    edges = list(layer._reversed_padding_repeated_twice)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    size, dilation, stride = layer.kernel_size, layer.dilation, layer.stride

    def unfold(x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, edges, mode=mode)
        patches = nn.functional.unfold(padded, size, dilation=dilation, stride=stride)
        return patches.transpose(1, 2).reshape(-1, patches.shape[1])

    return unfold


class Histogram(Observer):
    """Counts in equal bins over a range that doubles when a value falls outside; memory does not grow.

    The range is symmetric about 0 and the number of bins even, so that doubling merges neighbouring bins exactly.
    """

    kind = "histogram"

    def __init__(self, bins: int = 4096) -> None:
        self.bins, self.limit = bins, 0.0
        self.counts, self.nbytes = torch.zeros(bins, dtype=torch.float64), 8 * bins
        self.low, self.high = float("inf"), float("-inf")

    def update(self, x: Tensor) -> None:
        """Count the values of a batch."""
        low, high = (float(v) for v in torch.aminmax(x))
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if largest == 0 and self.limit == 0:
            return
        self.limit = self.limit or largest
        while largest > self.limit:
            self._double()
        self.counts += torch.histc(x.float(), self.bins, -self.limit, self.limit).double().cpu()

    def _double(self) -> None:
        half = torch.zeros_like(self.counts)
        quarter = self.bins // 4
        half[quarter : 3 * quarter] = self.counts.view(-1, 2).sum(1)
        self.counts, self.limit = half, self.limit * 2

    def centres(self) -> Tensor:
        """Bin centres (bins,) float64."""
        width = 2 * self.limit / self.bins
        return (torch.arange(self.bins, dtype=torch.float64) + 0.5) * width - self.limit


@dataclass(frozen=True)
class Source:
    """Where statistics come from: a model, one of its towers, calibration data, and the transformation so far.

    `stage` names what a method has done to the model exactly (a smoothing, a rotation); with the digests of model
    and data it makes the key under which statistics are kept for the next quantization of the same process.
    `transforms` are applied to the inputs of the layers that they are named for before statistics are taken.
    """

    model: ClipModel
    tower: Tower
    calibration: Calibration
    stage: str = "plain"
    transforms: Mapping[str, nn.Module] = field(default_factory=dict)

    def key(self, layer: str, observer: Observer) -> tuple[str, ...]:
        """Content key of one statistic."""
        parts = (self.model.digest, self.model.device.type, self.calibration.digest, self.stage)
        return (*parts, self.tower, layer, observer.kind)


_kept: OrderedDict[tuple[str, ...], Observer] = OrderedDict()


def observe(
    source: Source, wanted: Mapping[str, Sequence[Observer]], progress: Progress, title: str
) -> dict[str, dict[str, Observer]]:
    """Statistics by layer and kind; those seen before in this process are not collected again.

    The data runs through the tower once. Padding of captions is left out where the model says which positions count.

    Raises:
        NonFiniteError: a layer's input is NaN or infinite.
        QuantizationError: a layer was never called.
    """
    found: dict[str, dict[str, Observer]] = {name: {} for name in wanted}
    missing: dict[str, list[Observer]] = {}
    for name, observers in wanted.items():
        for observer in observers:
            key = source.key(name, observer)
            if key in _kept:
                _kept.move_to_end(key)
                found[name][observer.kind] = _kept[key]
            else:
                missing.setdefault(name, []).append(observer)
                found[name][observer.kind] = observer
    if missing:
        _collect(source, missing, progress, title)
        _keep(source, missing)
    return found


def _keep(source: Source, collected: Mapping[str, Sequence[Observer]]) -> None:
    for name, observers in collected.items():
        _kept.update({source.key(name, observer): observer for observer in observers})
    while sum(observer.nbytes for observer in _kept.values()) > STATISTICS_BYTES:
        _kept.popitem(last=False)


def forget() -> None:
    """Drop the statistics kept in this process."""
    _kept.clear()


def in_parts(
    source: Source, wanted: dict[str, Sequence[Observer]], progress: Progress, title: str
) -> Iterator[dict[str, dict[str, Observer]]]:
    """`observe` for so many layers at a time that their statistics fit `STATISTICS_BYTES`; empties `wanted`."""
    while wanted:
        part: dict[str, Sequence[Observer]] = {}
        size = 0
        while wanted:
            name, observers = next(iter(wanted.items()))
            size += sum(observer.nbytes for observer in observers)
            if part and size > STATISTICS_BYTES:
                break
            part[name] = wanted.pop(name)
        yield observe(source, part, progress, title)


def _collect(source: Source, wanted: Mapping[str, Sequence[Observer]], progress: Progress, title: str) -> None:
    model, tower, calibration = source.model, source.tower, source.calibration
    mask: list[Tensor | None] = [None]
    called: set[str] = set()
    handles = [
        model.module.get_submodule(name).register_forward_pre_hook(
            _hook(name, observers, mask, called, source.transforms.get(name))
        )
        for name, observers in wanted.items()
    ]
    total = len(calibration.pixels) if tower == "vision" else len(calibration.captions)
    try:
        with progress.phase(f"{title} ({tower})", total) as advance, torch.inference_mode():
            for start in range(0, total, BATCH):
                run_batch(model, tower, calibration, start, min(start + BATCH, total), mask)
                advance(min(BATCH, total - start))
    finally:
        for handle in handles:
            handle.remove()
    if missing := sorted(set(wanted) - called):
        raise QuantizationError(f"the {tower} tower's forward pass never calls {', '.join(missing[:5])}")


def run_batch(
    model: ClipModel, tower: Tower, calibration: Calibration, start: int, stop: int, mask: list[Tensor | None]
) -> Tensor:
    """Features of a slice of the calibration data; `mask[0]` is set to the text positions that count."""
    if tower == "vision":
        return model.encode_image(torch.from_numpy(calibration.pixels[start:stop].copy()))
    texts = list(calibration.captions[start:stop])
    if model.token_mask is not None:
        mask[0] = model.token_mask(model.tokenizer(texts)).to(model.device)
    return model.encode_text(texts)


def _hook(
    name: str,
    observers: Sequence[Observer],
    mask: list[Tensor | None],
    called: set[str],
    transform: nn.Module | None,
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        called.add(name)
        x = args[0].detach()
        if x.ndim != 4 or not isinstance(module, nn.Conv2d):
            x = masked_rows(x, mask[0])
        if not torch.isfinite(x).all():
            raise NonFiniteError(f"the input of '{name}' is NaN or infinite on the calibration data")
        if transform is not None:
            x = transform(x)
        for observer in observers:
            observer.update(x)

    return hook


def masked_rows(x: Tensor, mask: Tensor | None) -> Tensor:
    """Input (..., K) as rows (N, K), only the positions of a mask (B, L) where x is (B, L, K) or (L, B, K).

    A sequence longer than the mask has extra positions at its end (CoCa's class token), which count.
    """
    if mask is not None and x.ndim == 3:
        batch = mask.shape[0]
        if x.shape[0] != batch and x.shape[1] == batch:
            x = x.transpose(0, 1)
        if x.shape[0] == batch and x.shape[1] >= mask.shape[1]:
            extra = x.shape[1] - mask.shape[1]
            return x[torch.nn.functional.pad(mask, (0, extra), value=True)]
    return x.reshape(-1, x.shape[-1])
