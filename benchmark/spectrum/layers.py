"""Streams of features in, spectra out: one pass over the images, memory D x D a layer whatever their number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.errors import UndefinedMetric
from benchmark.metrics.spectrum import (
    EigenBasis,
    GramAccumulator,
    SqnrAccumulator,
    effective_rank,
    energy_spectrum,
    numerical_rank,
    subspace_angles,
)
from benchmark.spectrum.model import Floats, LayerSpectrum, band_name, bands_of

Labels = npt.NDArray[np.int64]
Features = Mapping[str, npt.NDArray[np.floating[Any]]]
"""Layer -> (B, D) of one batch of images."""

VERSION = 1
"""Raise it when a number of a spectral study can change."""

TOP = (8, 64)
"""Sizes of the leading subspaces whose angles to full precision are reported."""


@dataclass(frozen=True)
class Readout:
    """Class scores of a layer's features, `x @ weights + offset`: weights (D, C), offset (C,)."""

    weights: Floats
    offset: Floats


def layer_bases(stream: Iterable[Features]) -> dict[str, EigenBasis]:
    """Full precision's directions, layer by layer, from one pass over its features.

    Raises:
        UndefinedMetric: no features, or a layer whose features are all zero.
    """
    grams: dict[str, GramAccumulator] = {}
    for batch in stream:
        for layer, features in batch.items():
            if layer not in grams:
                grams[layer] = GramAccumulator(features.shape[1])
            grams[layer].update(features)
    if not grams:
        raise UndefinedMetric("spectrum: no features were given.")
    for layer, gram in grams.items():
        if not gram.gram.any():
            raise UndefinedMetric(f"spectrum: the features of layer '{layer}' are all zero.")
    return {layer: gram.eigen() for layer, gram in grams.items()}


class LayerMeter:
    """Accumulates a LayerSpectrum batch by batch; memory D x D, and D x C for a read-out."""

    def __init__(self, basis: EigenBasis, readout: Readout | None) -> None:
        self.basis, self.rank = basis, numerical_rank(basis)
        self.gram = GramAccumulator(len(basis.vectors))
        self.pair = SqnrAccumulator(basis)
        self.paired = False
        self.heads = {} if readout is None else _heads(basis, readout)
        self.correct = dict.fromkeys(self.heads, 0)
        self.offset = 0.0 if readout is None else readout.offset

    def update(self, features: npt.ArrayLike, reference: npt.ArrayLike | None, labels: Labels | None) -> None:
        """Add a batch: x' (n, D), x of the same images, and their classes (n,)."""
        x = np.asarray(features, dtype=np.float64)
        self.gram.update(x)
        if reference is not None:
            self.pair.update(reference, x)
            self.paired = True
        if labels is not None:
            for band, head in self.heads.items():
                self.correct[band] += int(np.sum((x @ head + self.offset).argmax(axis=1) == labels))

    def result(self) -> LayerSpectrum:
        """The finished spectrum."""
        own = self.gram.eigen()
        count, rank = self.gram.count, min(self.rank, numerical_rank(own))
        angles = {k: np.degrees(subspace_angles(self.basis.band(0, k), own.band(0, k))) for k in TOP if k <= rank}
        return LayerSpectrum(
            energy=energy_spectrum(own.singular_values),
            effective_rank=effective_rank(own.singular_values),
            rank=self.rank,
            signal=self.pair.signal / count if self.paired else None,
            noise=self.pair.noise / count if self.paired else None,
            angles=angles,
            accuracy={band: correct / count for band, correct in self.correct.items()},
        )


def _heads(basis: EigenBasis, readout: Readout) -> dict[str, Floats]:
    """Band -> matrix (D, C) that reads classes out of the features within the band."""
    found = {}
    for low, high in bands_of(len(basis.vectors)):
        columns = basis.vectors[:, low:high]
        found[band_name((low, high))] = columns @ (columns.T @ readout.weights)
    return {**found, "all": readout.weights}


def spectra(
    stream: Iterable[Features],
    bases: Mapping[str, EigenBasis],
    readouts: Mapping[str, Readout],
    labels: Labels | None = None,
    reference: Iterable[Features] | None = None,
) -> dict[str, LayerSpectrum]:
    """Every layer's spectrum, from one pass.

    Args:
        stream: layer -> (B, D) for each batch.
        bases: of `layer_bases`. readouts: for layers with a zero-shot classifier.
        labels: (N,) classes in the order of the images; None leaves accuracies out.
        reference: the same images, in the same batches, through the model to compare with.

    Returns:
        Layer -> spectrum, in the order of `bases`.
    """
    heads = readouts if labels is not None else {}
    meters = {layer: LayerMeter(basis, heads.get(layer)) for layer, basis in bases.items()}
    pairs: Iterator[tuple[Features, Features | None]] = (
        zip(stream, repeat(None)) if reference is None else zip(stream, reference, strict=True)
    )
    start = 0
    for batch, other in pairs:
        size = len(next(iter(batch.values())))
        classes = None if labels is None else labels[start : start + size]
        for layer, meter in meters.items():
            meter.update(batch[layer], None if other is None else other[layer], classes)
        start += size
    return {layer: meter.result() for layer, meter in meters.items()}
