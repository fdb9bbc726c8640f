"""What calibration data says about the inputs of layers: streamed through hooks, one bounded batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import NonFiniteError, QuantizationError
from benchmark.models.base import ClipModel
from benchmark.progress import Progress
from benchmark.quantization.calibration import Calibration
from benchmark.spec import Tower

BATCH = 32


class Observer(ABC):
    """Accumulates a statistic of one layer's input."""

    @abstractmethod
    def update(self, x: Tensor) -> None:
        """Take in a batch: (rows, features) of a Linear, (B, C, H, W) of a Conv2d."""


class Range(Observer):
    """Smallest and largest value seen."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")

    def update(self, x: Tensor) -> None:
        """Widen the range."""
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))


class ChannelMagnitude(Observer):
    """Largest and mean |x| per input feature of a Linear."""

    def __init__(self) -> None:
        self.largest, self.total, self.rows = torch.zeros(0), torch.zeros(0), 0

    def update(self, x: Tensor) -> None:
        """Add rows (N, K)."""
        if self.rows == 0:
            self.largest = x.new_zeros(x.shape[-1])
            self.total = x.new_zeros(x.shape[-1], dtype=torch.float64)
        magnitude = x.abs()
        self.largest = torch.maximum(self.largest, magnitude.amax(0))
        self.total += magnitude.sum(0, dtype=torch.float64)
        self.rows += len(x)

    @property
    def mean(self) -> Tensor:
        """Mean |x| per feature, float32."""
        return (self.total / self.rows).float()


class Histogram(Observer):
    """Counts in equal bins over a range that doubles when a value falls outside; memory does not grow.

    The range is symmetric about 0 and the number of bins even, so that doubling merges neighbouring bins exactly.
    """

    def __init__(self, bins: int = 4096) -> None:
        self.bins, self.limit = bins, 0.0
        self.counts = torch.zeros(bins, dtype=torch.float64)
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


def observe(
    model: ClipModel,
    tower: Tower,
    observers: Mapping[str, Observer],
    calibration: Calibration,
    progress: Progress,
    title: str = "calibration",
) -> None:
    """Run the calibration data through a tower once; each observer sees the inputs of the layer it is named for.

    Padding of captions is left out where the model says which positions count.

    Raises:
        NonFiniteError: a layer's input is NaN or infinite.
        QuantizationError: a layer was never called.
    """
    mask: list[Tensor | None] = [None]
    called: set[str] = set()
    handles = [
        model.module.get_submodule(name).register_forward_pre_hook(_hook(name, observer, mask, called))
        for name, observer in observers.items()
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
    if missing := sorted(set(observers) - called):
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
    name: str, observer: Observer, mask: list[Tensor | None], called: set[str]
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        called.add(name)
        x = args[0].detach()
        if x.ndim != 4 or not isinstance(module, nn.Conv2d):
            x = masked_rows(x, mask[0])
        if not torch.isfinite(x).all():
            raise NonFiniteError(f"the input of '{name}' is NaN or infinite on the calibration data")
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
