"""Models in memory: loaded when they are needed, and kept no longer than that."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from benchmark.models import ResolvedModel
from benchmark.models.base import ClipModel
from benchmark.quantization import QuantizationReport

Quantized = tuple[ClipModel, QuantizationReport]


class ModelHolder:
    """The full-precision model of a sweep, loaded on first use and kept while its quantizations are evaluated.

    Args:
        keep: keep the last quantized model too, for a plan that evaluates it on other data.
    """

    def __init__(self, resolved: ResolvedModel, device: str, keep: bool = False) -> None:
        self.resolved, self.device, self._keep = resolved, device, keep
        self._last: tuple[str, Quantized] | None = None

    @cached_property
    def model(self) -> ClipModel:
        """The loaded model."""
        return self.resolved.load(self.device)

    def quantized(self, content: str, make: Callable[[], Quantized]) -> Quantized:
        """The quantized model of this content hash, made unless it is the one that was kept."""
        if self._last is not None and self._last[0] == content:
            return self._last[1]
        self._last = None  # free before there are two
        made = make()
        if self._keep:
            self._last = (content, made)
        return made


class Models:
    """The models that runs load, one at a time.

    Args:
        keep: for several runs of one model: it and its last quantization are made once for all of them.
    """

    def __init__(self, keep: bool = False) -> None:
        self._keep = keep
        self._holder: ModelHolder | None = None

    def holder(self, resolved: ResolvedModel, device: str) -> ModelHolder:
        """The holder of a model; another one's is let go."""
        known = self._holder
        if known is None or (known.resolved.digest, known.device) != (resolved.digest, device):
            self._holder = known = ModelHolder(resolved, device, self._keep)
        return known
