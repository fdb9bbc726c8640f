"""Streams of features in, spectra out: one pass over the images, memory D x D a layer whatever their number.

Accuracy in the model's own basis needs that basis first: the few features that are read out go through a temporary file
instead of the model a second time.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from benchmark.errors import UndefinedMetric
from benchmark.metrics.arrays import Bools
from benchmark.metrics.gain import PairAccumulator, PairSums, margins
from benchmark.metrics.spectrum import (
    EigenBasis,
    GramAccumulator,
    effective_rank,
    energy_spectrum,
    numerical_rank,
    subspace_angles,
)
from benchmark.spectrum.model import PARTS, Floats, LayerSpectrum, band_name, bands_of

Labels = npt.NDArray[np.int64]
Features = Mapping[str, npt.NDArray[np.floating[Any]]]
"""Layer -> (B, D) of one batch of images."""

VERSION = 3
"""Raise it when a number of a spectral study can change."""

TOP = (8, 64)
"""Sizes of the leading subspaces whose angles to full precision are reported."""


@dataclass(frozen=True)
class Readout:
    """Class scores of a layer's features, `x @ weights + offset`: weights (D, C), offset (C,).

    `cosines`: whether the scores are cosines, so that their margins are told.
    """

    weights: Floats
    offset: Floats
    cosines: bool = False


@dataclass(frozen=True)
class Samples:
    """The images of a stream, in its order: classes (N,), or None without; groups (N,) of their pictures."""

    labels: Labels | None
    groups: Labels


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


class Spool:
    """Rows of D float64 numbers that are written once and read again, in a temporary file; memory of one batch."""

    def __init__(self, dimension: int) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        self._sizes: list[int] = []
        self._dimension = dimension

    def write(self, rows: Floats) -> None:
        """Append (n, D)."""
        self._file.write(np.ascontiguousarray(rows, dtype=np.float64).tobytes())
        self._sizes.append(len(rows))

    def read(self) -> Iterator[Floats]:
        """The batches, in the order in which they came."""
        self._file.seek(0)
        for size in self._sizes:
            data = self._file.read(size * self._dimension * 8)
            yield np.frombuffer(data, dtype=np.float64).reshape(size, self._dimension)


class Bands:
    """Counts right answers of the features within each rank band of a basis."""

    def __init__(self, basis: EigenBasis, readout: Readout) -> None:
        self._heads, self._offset = _heads(basis, readout), readout.offset
        self._correct = dict.fromkeys(self._heads, 0)
        self._count = 0

    def update(self, features: Floats, labels: Labels) -> None:
        """Add a batch: x (n, D) and classes (n,)."""
        for band, head in self._heads.items():
            self._correct[band] += int(np.sum((features @ head + self._offset).argmax(axis=1) == labels))
        self._count += len(labels)

    @property
    def accuracy(self) -> dict[str, float]:
        """Band -> share of right answers."""
        return {band: correct / self._count for band, correct in self._correct.items()}


def _heads(basis: EigenBasis, readout: Readout) -> dict[str, Floats]:
    """Band -> matrix (D, C) that reads classes out of the features within the band."""
    found = {}
    for low, high in bands_of(len(basis.vectors)):
        columns = basis.vectors[:, low:high]
        found[band_name((low, high))] = columns @ (columns.T @ readout.weights)
    return {**found, "all": readout.weights}


class PartAnswers:
    """Right answers of full precision, of a model, and of the gain and residual parts of its error.

    With g_k the gain of direction v_k and p_k = x . v_k, the gain alone is x + sum_k (g_k - 1) p_k v_k, the residual
    alone x' - sum_k (g_k - 1) p_k v_k; together they make the whole error x' - x.
    """

    def __init__(self, basis: EigenBasis, rank: int, sums: PairSums, readout: Readout) -> None:
        pp, pe, _ = sums.total
        extra = np.divide(pe, pp, out=np.zeros_like(pp), where=np.arange(len(pp)) < rank)
        self._moved = (basis.vectors * extra) @ basis.vectors.T
        self._readout = readout
        self._right: dict[str, list[Bools]] = {part: [] for part in PARTS}

    def update(self, before: Floats, now: Floats, labels: Labels) -> None:
        """Add a batch: x and x' (n, D), classes (n,)."""
        moved = before @ self._moved
        features = {"full": before, "model": now, "gain": before + moved, "residual": now - moved}
        for part, rows in features.items():
            self._right[part].append((rows @ self._readout.weights + self._readout.offset).argmax(axis=1) == labels)

    @property
    def right(self) -> dict[str, Bools]:
        """Part -> (N,) whether each answer is right."""
        return {part: np.concatenate(batches) for part, batches in self._right.items()}


class LayerMeter:
    """Accumulates a LayerSpectrum batch by batch; memory D x D, D x GROUPS, and D x C for a read-out."""

    def __init__(self, basis: EigenBasis, readout: Readout | None, paired: bool) -> None:
        dimension = len(basis.vectors)
        self.basis, self.readout = basis, readout
        self.gram = GramAccumulator(dimension)
        self.pairs = PairAccumulator(dimension) if paired else None
        self.margins = PairAccumulator(1) if paired and readout is not None and readout.cosines else None
        self.bands = None if readout is None else Bands(basis, readout)
        self.spool = None if readout is None else Spool(dimension)
        self.before = Spool(dimension) if self.margins is not None else None

    def update(
        self, features: npt.ArrayLike, reference: npt.ArrayLike | None, labels: Labels | None, groups: Labels
    ) -> None:
        """Add a batch: x' (n, D), x of the same images, their classes and groups (n,)."""
        x = np.asarray(features, dtype=np.float64)
        self.gram.update(x)
        if reference is not None and self.pairs is not None:
            before = np.asarray(reference, dtype=np.float64)
            self.pairs.update(before @ self.basis.vectors, (x - before) @ self.basis.vectors, groups)
            if self.margins is not None and self.readout is not None and labels is not None:
                old, new = (margins(each @ self.readout.weights, labels)[:, None] for each in (before, x))
                self.margins.update(old, new - old, groups)
            if self.before is not None:
                self.before.write(before)
        if self.bands is not None and self.spool is not None and labels is not None:
            self.bands.update(x, labels)
            self.spool.write(x)

    def result(self, samples: Samples) -> LayerSpectrum:
        """The finished spectrum. Args: samples: all that were added, in order."""
        labels = samples.labels
        own = self.gram.eigen()
        whole = numerical_rank(self.basis)
        rank = min(whole, numerical_rank(own))
        angles = {k: np.degrees(subspace_angles(self.basis.band(0, k), own.band(0, k))) for k in TOP if k <= rank}
        return LayerSpectrum(
            energy=energy_spectrum(own.singular_values),
            effective_rank=effective_rank(own.singular_values),
            rank=whole,
            pairs=None if self.pairs is None else self.pairs.sums,
            margins=None if self.margins is None else self.margins.sums,
            angles=angles,
            accuracy_full_basis={} if self.bands is None else self.bands.accuracy,
            accuracy_own_basis=self._in_own(own, labels),
            part_answers=self._of_parts(samples),
            groups=samples.groups,
        )

    def _of_parts(self, samples: Samples) -> dict[str, Bools]:
        """Right answers of the two parts of the error, where there are margins."""
        if self.before is None or self.spool is None or self.pairs is None or self.readout is None:
            return {}
        if samples.labels is None:
            return {}
        answers, start = PartAnswers(self.basis, numerical_rank(self.basis), self.pairs.sums, self.readout), 0
        for before, now in zip(self.before.read(), self.spool.read(), strict=True):
            answers.update(before, now, samples.labels[start : start + len(now)])
            start += len(now)
        return answers.right

    def _in_own(self, own: EigenBasis, labels: Labels | None) -> dict[str, float]:
        """Accuracies within bands of the features' own directions."""
        if self.spool is None or self.readout is None or labels is None:
            return {}
        bands, start = Bands(own, self.readout), 0
        for rows in self.spool.read():
            bands.update(rows, labels[start : start + len(rows)])
            start += len(rows)
        return bands.accuracy


def spectra(
    stream: Iterable[Features],
    bases: Mapping[str, EigenBasis],
    readouts: Mapping[str, Readout],
    samples: Samples,
    reference: Iterable[Features] | None = None,
) -> dict[str, LayerSpectrum]:
    """Every layer's spectrum, from one pass.

    Args:
        stream: layer -> (B, D) for each batch.
        bases: of `layer_bases`. readouts: for layers with a zero-shot classifier.
        samples: of the stream; without classes accuracies and margins are left out.
        reference: the same images, in the same batches, through the model to compare with.

    Returns:
        Layer -> spectrum, in the order of `bases`.
    """
    labels = samples.labels
    heads = readouts if labels is not None else {}
    meters = {layer: LayerMeter(basis, heads.get(layer), reference is not None) for layer, basis in bases.items()}
    pairs: Iterator[tuple[Features, Features | None]] = (
        zip(stream, repeat(None)) if reference is None else zip(stream, reference, strict=True)
    )
    start = 0
    for batch, other in pairs:
        at = slice(start, start + len(next(iter(batch.values()))))
        classes = None if labels is None else labels[at]
        for layer, meter in meters.items():
            meter.update(batch[layer], None if other is None else other[layer], classes, samples.groups[at])
        start = at.stop
    return {layer: meter.result(samples) for layer, meter in meters.items()}
