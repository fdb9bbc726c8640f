"""FeatureBank: what one model makes of one data set. Tasks see nothing else of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError

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

    def __post_init__(self) -> None:
        n = len(self.image)
        for name in ("label", "sample_id", "group", "base_id"):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise DataError(f"data set '{self.dataset}': {name} has {len(column)} rows, image has {n}")
        if n == 0:
            raise DataError(f"data set '{self.dataset}' is empty")
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
        """The rows named by an index or a boolean mask, in that order."""
        return replace(
            self,
            image=self.image[index],
            label=self.label[index],
            sample_id=self.sample_id[index],
            group=None if self.group is None else self.group[index],
            base_id=None if self.base_id is None else self.base_id[index],
            taps={name: tap[index] for name, tap in self.taps.items()},
        )
