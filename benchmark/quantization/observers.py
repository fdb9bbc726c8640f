"""Statistics of a layer's input: each accumulates batch by batch, and can be saved and restored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

T = TypeVar("T", bound="Observer")


class Observer(ABC):
    """Accumulates a statistic of one layer's input.

    Attributes:
        kind: its name. version: raise it, and those of the methods that use it, when its numbers can
            change. nbytes: an upper bound of its memory.
        fields: the attributes that hold its state: numbers and tensors.
    """

    kind: str
    version: ClassVar[int] = 1
    nbytes: int = 1024
    fields: ClassVar[tuple[str, ...]]

    @abstractmethod
    def update(self, x: Tensor) -> None:
        """Take in a batch: (rows, features) of a Linear, (B, C, H, W) of a Conv2d."""

    def state(self) -> dict[str, NDArray[Any]]:
        """The state, as arrays."""
        values = {name: getattr(self, name) for name in self.fields}
        return {name: v.numpy(force=True) if isinstance(v, Tensor) else np.asarray(v) for name, v in values.items()}

    def restore(self, state: Mapping[str, NDArray[Any]], device: torch.device) -> None:
        """Restore a saved `state`; tensors go to a device."""
        for name in self.fields:
            old = getattr(self, name)
            value = np.array(state[name])
            setattr(self, name, torch.from_numpy(value).to(device) if isinstance(old, Tensor) else type(old)(value))


class Seen:
    """The statistics of one layer's input, at most one of each class."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._found = {type(observer): observer for observer in observers}

    def find(self, kind: type[T]) -> T | None:
        """The statistic of a class, None where it was not collected."""
        found = self._found.get(kind)
        return found if isinstance(found, kind) else None

    def get(self, kind: type[T]) -> T:
        """The statistic of a class that the method has requested.

        Raises:
            LookupError: it was not collected; a quantizer must request the statistics that it reads.
        """
        found = self.find(kind)
        if found is None:
            raise LookupError(f"no {kind.__name__} was collected for this layer")
        return found


class Range(Observer):
    """Smallest and largest value seen."""

    kind = "range"
    fields = ("low", "high")

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")

    def update(self, x: Tensor) -> None:
        """Widen the range."""
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))


class ChannelMagnitude(Observer):
    """Largest and mean |x| per input feature of a Linear."""

    kind = "magnitude"
    fields = ("largest", "total", "rows")

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

    Only its upper triangle is computed, in strips. A Conv2d without groups is seen as a Linear on its unfolded patches.
    """

    kind = "second moment"
    version = 2
    fields = ("upper", "rows")

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        self.columns, self.rows = layer.weight[0].numel(), 0
        self.upper, self.nbytes = torch.zeros(0), 4 * self.columns**2
        self._unfold: Callable[[Tensor], Tensor] | None = None
        if isinstance(layer, nn.Conv2d):
            self._unfold = unfolder(layer)

    def update(self, x: Tensor) -> None:
        """Add rows (N, K), or images."""
        rows = x.float() if self._unfold is None else self._unfold(x.float())
        if self.rows == 0:
            with torch.inference_mode(False):  # so that it may be changed outside of the calibration pass
                self.upper = torch.zeros(self.columns, self.columns, device=x.device)
        self.rows += len(rows)
        kept, added = 1 - len(rows) / self.rows, 1 / self.rows
        for start, stop in strips(self.columns):
            strip = self.upper[start:stop, start:]
            strip.mul_(kept).addmm_(rows[:, start:stop].t(), rows[:, start:], alpha=added)

    @property
    def matrix(self) -> Tensor:
        """The symmetric matrix (K, K) float32, made anew."""
        return self.upper.triu() + self.upper.triu(1).t()


def strips(size: int) -> Iterator[tuple[int, int]]:
    """Four strips of the rows of a square matrix; from its diagonal on, a strip holds its part of the upper triangle.

    Together they are 5/8 of the matrix, which is enough to compute a symmetric product.
    """
    step = -(-size // 4)
    yield from ((start, min(start + step, size)) for start in range(0, size, step))


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

    fields = ("counts", "limit", "low", "high")

    def __init__(self, bins: int = 4096) -> None:
        self.kind, self.bins, self.limit = f"histogram {bins}", bins, 0.0
        self.counts, self.nbytes = torch.zeros(bins, dtype=torch.float64), 8 * bins
        self.low, self.high = float("inf"), float("-inf")

    def update(self, x: Tensor) -> None:
        """Count the values of a batch."""
        low, high = (float(v) for v in torch.aminmax(x))
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if largest == 0 and self.limit == 0:  # there is no range yet; 0 falls into this bin for any range
            self.counts[self.bins // 2] += x.numel()
            return
        self.limit = self.limit or largest
        while largest > self.limit:
            self._double()
        self.counts += torch.histc(x.float(), self.bins, -self.limit, self.limit).double().cpu()

    def restore(self, state: Mapping[str, NDArray[Any]], device: torch.device) -> None:
        """Counts are kept in main memory."""
        super().restore(state, torch.device("cpu"))

    def _double(self) -> None:
        half = torch.zeros_like(self.counts)
        quarter = self.bins // 4
        half[quarter : 3 * quarter] = self.counts.view(-1, 2).sum(1)
        self.counts, self.limit = half, self.limit * 2

    def centres(self) -> Tensor:
        """Bin centres (bins,) float64."""
        width = 2 * self.limit / self.bins
        return (torch.arange(self.bins, dtype=torch.float64) + 0.5) * width - self.limit
