"""Keep models in memory while they are needed: loaded on first use, then released."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

from benchmark.errors import PluginError
from benchmark.models import ResolvedModel
from benchmark.models.base import ClipModel
from benchmark.models.fingerprint import differences, fingerprint
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

    @cached_property
    def _fingerprint(self) -> dict[str, object]:
        return fingerprint(self.model)

    @contextmanager
    def lent(self, to: str) -> Iterator[ClipModel]:
        """Lend the full-precision model to code that must not change it.

        If it was changed, it is released, so that the next user loads it again.

        Args:
            to: the borrower, for the message.

        Raises:
            PluginError: it was changed; names the first part.
        """
        model, before = self.model, self._fingerprint
        try:
            yield model
        finally:
            changed = differences(before, fingerprint(model))
            if changed:
                self.__dict__.pop("model", None)
                self.__dict__.pop("_fingerprint", None)
                self._last = None
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise PluginError(
                f"{to} changes the full-precision model that all quantizations are made from ({changed[0]}{more}); "
                "it must work on the copy that it is given"
            )

    def quantized(self, content: str, make: Callable[[], Quantized]) -> Quantized:
        """The quantized model of this content hash, made unless it is still kept."""
        if self._last is not None and self._last[0] == content:
            return self._last[1]
        self._last = None  # free the old one before the new one is made
        made = make()
        if self._keep:
            self._last = (content, made)
        return made


class Models:
    """The models that runs load, one at a time.

    Args:
        keep: keep the model and its last quantization for several runs.
    """

    def __init__(self, keep: bool = False) -> None:
        self._keep = keep
        self._holder: ModelHolder | None = None

    def holder(self, resolved: ResolvedModel, device: str) -> ModelHolder:
        """The holder of a model; that of another model is released."""
        known = self._holder
        if known is None or (known.resolved.digest, known.device) != (resolved.digest, device):
            self._holder = known = ModelHolder(resolved, device, self._keep)
        return known
