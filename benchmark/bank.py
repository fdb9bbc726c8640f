"""FeatureBank: what one model makes of one data set. Tasks see nothing else of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError
from benchmark.utils.checksums import checksum

CHECKED = 512_000_000
"""Bytes of a bank up to which it is checked whether a task wrote to it past numpy: about 0.1 s at most."""
FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class FeatureBank:
    """Features of one data set under one (model, quantization).

    Attributes:
        dataset: name of the data set in the suite.
        image: (N, D) float32, L2-normalised, possibly memory-mapped.
        label: (N,) int64, index into `class_names`; -1 marks out-of-distribution images.
        sample_id: (N,) str, the pairing key between quantizations.
        text: (C, D) float32, L2-normalised class weights (the mean over templates, normalised again);
            (0, D) for data without classes (`text: none`).
        class_names: C names, in the order of `text`.
        logit_scale, logit_bias: the model's own exp(logit_scale) and bias (0.0 where the model has none).
        group: (N,) int64 or None, e.g. the background.
        corruption, severity: what was done to the images, None for clean ones.
        base_id: (N,) str, the picture behind each sample: equal for all its corrupted versions and wherever it appears
            again; the sample ids where None is given.
        digest: content hash of everything that determined these numbers.
        taps: further named arrays that a task asked for, e.g. `local` (N, P, D).
        caption: (P, D) float32, L2-normalised features of every caption, where a task asked for them; those of one
            image in the data's order. Equal captions are several rows.
        caption_image: (P,) int64, the row of the image that each caption belongs to.
    """

    dataset: str
    image: FloatArray
    label: IntArray
    sample_id: NDArray[np.str_]
    text: FloatArray
    class_names: tuple[str, ...]
    logit_scale: float
    logit_bias: float = 0.0
    group: IntArray | None = None
    corruption: str | None = None
    severity: int | None = None
    digest: str = ""
    taps: Mapping[str, FloatArray] = field(default_factory=dict)
    base_id: NDArray[np.str_] | None = None
    caption: FloatArray | None = None
    caption_image: IntArray | None = None

    def __post_init__(self) -> None:
        n = len(self.image)
        for name in ("label", "sample_id", "group", "base_id"):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise DataError(f"data set '{self.dataset}': {name} has {len(column)} rows, image has {n}")
        if n == 0:
            raise DataError(f"data set '{self.dataset}' is empty")
        if self.caption is not None and (self.caption_image is None or len(self.caption_image) != len(self.caption)):
            raise DataError(f"data set '{self.dataset}': caption_image does not name the image of each caption")
        if len(self.text) and len(self.text) != len(self.class_names):
            raise DataError(
                f"data set '{self.dataset}': {len(self.class_names)} class names for {len(self.text)} class weights"
            )
        if int(self.label.min()) < -1:
            raise DataError(f"data set '{self.dataset}': label {int(self.label.min())}; -1 marks out of distribution")
        if len(self.label) and int(self.label.max()) >= max(len(self.text), 1) and len(self.text):
            raise DataError(
                f"data set '{self.dataset}': label {int(self.label.max())} is outside its {len(self.text)} classes"
            )

    def read_only(self) -> FeatureBank:
        """The same bank with arrays that cannot be written, nor be made writable; nothing is copied."""
        arrays: dict[str, Any] = {name: read_only(array) for name, array in self._arrays().items()}
        taps = {name: read_only(array) for name, array in self.taps.items()}
        return replace(self, **arrays, taps=taps)

    def checksum(self) -> int:
        """Of all its arrays; 0 for a bank of more than `CHECKED` bytes."""
        arrays = [*self._arrays().values(), *self.taps.values()]
        if sum(array.nbytes for array in arrays) > CHECKED:
            return 0
        return hash(tuple(checksum(array) for array in arrays))

    def _arrays(self) -> dict[str, NDArray[Any]]:
        names = ("image", "label", "sample_id", "text", "group", "caption", "caption_image")
        named = {name: getattr(self, name) for name in names}
        return {name: array for name, array in named.items() if array is not None}

    def __len__(self) -> int:
        return len(self.image)

    def cosines(self, text: FloatArray | None = None) -> NDArray[np.float64]:
        """Cosine similarities (N, C) in float64, with this bank's class weights or with those given."""
        from benchmark.metrics.scores import cosines

        return cosines(self.image, self.text if text is None else text)

    def columns(self, **columns: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """A group of `Columns` for these samples: their ids, and the given columns with one row a sample."""
        return {
            "sample_id": self.sample_id,
            "base_id": self.sample_id if self.base_id is None else self.base_id,
            **columns,
        }

    def take(self, index: NDArray[Any]) -> FeatureBank:
        """The rows named by an index or a boolean mask, in that order, with their captions."""
        caption, owner = self._captions_of(np.arange(len(self))[index])
        return replace(
            self,
            image=self.image[index],
            label=self.label[index],
            sample_id=self.sample_id[index],
            group=None if self.group is None else self.group[index],
            base_id=None if self.base_id is None else self.base_id[index],
            taps={name: tap[index] for name, tap in self.taps.items()},
            caption=caption,
            caption_image=owner,
        )

    def _captions_of(self, rows: IntArray) -> tuple[FloatArray | None, IntArray | None]:
        """Captions of some images, image by image, and the place among `rows` that each belongs to."""
        if self.caption is None or self.caption_image is None:
            return None, None
        by_image = np.argsort(self.caption_image, kind="stable")
        count = np.bincount(self.caption_image, minlength=len(self))
        first = np.cumsum(count) - count
        owner = np.repeat(np.arange(len(rows)), count[rows])
        within = np.arange(len(owner)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
        return self.caption[by_image[first[rows][owner] + within]], owner


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view that cannot be written, and whose flag cannot be set to writable again (an array of objects: a copy)."""
    if array.dtype.hasobject:
        copy = array.copy()
        copy.flags.writeable = False
        return copy
    if array.size == 0:
        return array
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        return read_only(array.T).T
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return np.frombuffer(raw.data.toreadonly(), array.dtype).reshape(array.shape)
