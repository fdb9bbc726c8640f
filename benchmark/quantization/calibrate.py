"""Collect calibration statistics of layer inputs through hooks, one bounded batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.errors import NonFiniteError, QuantizationError
from benchmark.models.base import ClipModel
from benchmark.quantization.calibration import Calibration
from benchmark.quantization.observers import Observer, Seen
from benchmark.spec import Tower, digest
from benchmark.utils.progress import Progress

BATCH = 32
STATISTICS_BYTES = 1 << 30
"""Bytes that the statistics of one pass may take; a tower that needs more takes several passes."""
VERSION = 3
"""Raise it when statistics can change for the same model and data."""


class Store(Protocol):
    """Keeps named arrays under content keys, e.g. `benchmark.ledger.store.Store`."""

    def get(self, key: str) -> Mapping[str, NDArray[Any]] | None:
        """The arrays, or None where they are missing or damaged."""

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> object:
        """Keep arrays."""

    def lock(self, key: str) -> AbstractContextManager[None]:
        """A lock with which only one process computes the entry of a key; the others wait."""


@dataclass(frozen=True)
class Source:
    """Where statistics come from: a model, one of its towers, calibration data, and the transformation so far.

    `stage` names exactly what a method has done to the model (a smoothing, a rotation), with the method's version; with
    the digests of model and data it is the key under which `store` keeps statistics for other quantizations.
    `transforms` are applied to the inputs of the layers that they are named for before statistics are taken.
    """

    model: ClipModel
    tower: Tower
    calibration: Calibration
    stage: str = "plain"
    transforms: Mapping[str, nn.Module] = field(default_factory=dict)
    store: Store | None = None

    def key(self, layer: str, observer: Observer) -> str:
        """Content key of one statistic: everything that determines it."""
        about = [self.model.digest, self.model.device.type, self.tower, self.calibration.digest, self.stage]
        return digest(["statistic", VERSION, *about, layer, observer.kind, observer.version])

    def recall(self, layer: str, observer: Observer) -> bool:
        """Read a statistic from the store into the observer; whether the store has it."""
        stored = self.store.get(self.key(layer, observer)) if self.store is not None else None
        if stored is None:
            return False
        observer.restore(stored, self.model.device)
        return True


def observe(
    source: Source, wanted: Mapping[str, Sequence[Observer]], progress: Progress, title: str
) -> dict[str, Seen]:
    """Statistics by layer; those that the source's store has are not collected again.

    The data runs through the tower once. Padding of captions is left out where the model says which positions count.

    Raises:
        NonFiniteError: a layer's input is NaN or infinite.
        QuantizationError: a layer was never called.
    """
    missing = _missing(source, wanted)
    if missing and source.store is None:
        _collect(source, missing, progress, title)
    elif missing and source.store is not None:
        with source.store.lock(digest([source.key(name, o) for name, some in missing.items() for o in some])):
            missing = _missing(source, missing)  # another process may have stored them meanwhile
            if missing:
                _collect(source, missing, progress, title)
            for name, observers in missing.items():
                for observer in observers:
                    source.store.put(source.key(name, observer), observer.state())
    return {name: Seen(observers) for name, observers in wanted.items()}


def _missing(source: Source, wanted: Mapping[str, Sequence[Observer]]) -> dict[str, list[Observer]]:
    """The observers whose statistics the store does not have, by layer; the others are filled from it."""
    missing = {name: [o for o in observers if not source.recall(name, o)] for name, observers in wanted.items()}
    return {name: observers for name, observers in missing.items() if observers}


def in_parts(
    source: Source, wanted: dict[str, Sequence[Observer]], progress: Progress, title: str
) -> Iterator[dict[str, Seen]]:
    """`observe` as many layers at a time as fit into `STATISTICS_BYTES`; empties `wanted`."""
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
    mask: Tensor | None = None  # of the batch under way
    called: set[str] = set()

    def see(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        called.add(name)
        x = _seen_input(name, module, args[0].detach(), mask)
        if name in source.transforms:
            x = source.transforms[name](x)
        for observer in wanted[name]:
            observer.update(x)

    handles = [model.module.get_submodule(name).register_forward_pre_hook(partial(see, name)) for name in wanted]
    total = len(calibration.pixels) if tower == "vision" else len(calibration.captions)
    try:
        with progress.phase(f"{title} ({tower})", total) as advance, torch.inference_mode():
            for start in range(0, total, BATCH):
                if tower == "vision":
                    model.encode_image(torch.from_numpy(calibration.pixels[start : start + BATCH].copy()))
                else:
                    texts = list(calibration.captions[start : start + BATCH])
                    if model.token_mask is not None:
                        mask = model.token_mask(model.tokenizer(texts)).to(model.device)
                    model.encode_text(texts)
                advance(min(BATCH, total - start))
    finally:
        for handle in handles:
            handle.remove()
    if missing := sorted(set(wanted) - called):
        raise QuantizationError(f"the {tower} tower's forward pass never calls {', '.join(missing[:5])}")


def _seen_input(name: str, layer: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    if x.ndim != 4 or not isinstance(layer, nn.Conv2d):
        x = masked_rows(x, mask)
    if not torch.isfinite(x).all():
        raise NonFiniteError(f"the input of '{name}' is NaN or infinite on the calibration data")
    return x


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
