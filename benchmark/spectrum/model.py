"""The spectral mechanism: into which directions of full precision the noise of a quantization falls, layer by layer.

v_k are the right singular vectors of full precision's features X on the clean images, uncentred, strongest first: the
same basis for every model and every corruption of the images, so that directions can be compared. Formulas:
`benchmark.metrics.spectrum`; how the numbers are gathered: `benchmark.spectrum.layers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.metrics.arrays import Bools, Ints
from benchmark.metrics.gain import RATIOS, PairSums, Told, gain, residual
from benchmark.metrics.spectrum import BANDS
from benchmark.metrics.uncertainty import GROUPS, Estimate, Measured, paired_proportions
from benchmark.results.mechanism import Verdict, judge
from benchmark.spec import FP32

Floats = npt.NDArray[np.float64]
Band = tuple[int, int | None]
CLEAN = "clean"
FORMAT = 2
"""Of `spectrum.json`."""
PARTS = ("full", "model", "gain", "residual")
"""Whose right answers are counted: full precision's, a model's, and those of either part of its error alone."""


@dataclass(frozen=True)
class Part:
    """What one part of an error does to the accuracy, beside the whole error.

    change: of the model against full precision, own: of the part; difference: part minus model.
    """

    change: Estimate
    own: Estimate
    difference: Estimate
    verdict: Verdict


def _share(right: Bools, groups: Ints) -> Measured:
    """Right answers over samples, with replicates; one picture's answer has the weight 1 / N."""
    total, samples, count = right.sum(), len(right), np.bincount(groups, minlength=GROUPS)
    left = samples - count
    without = total - np.bincount(groups, weights=right, minlength=GROUPS)
    replicates = np.divide(without, left, out=np.full(GROUPS, total / samples), where=left > 0)
    return Measured(float(total / samples), replicates, samples**-2.0)


def _part(answers: Mapping[str, Bools], groups: Ints, part: str) -> Part:
    """Changes of shares of right answers as everywhere (`paired_proportions`); the verdict on the replicates of all."""
    full, model, own = (answers[each] for each in ("full", "model", part))
    change, alone, difference = (paired_proportions(*pair) for pair in ((full, model), (full, own), (model, own)))
    f, q, c = (_share(each, groups) for each in (full, model, own))
    return Part(change, alone, difference, judge(change, f, q, c, len(np.unique(groups))))


@dataclass(frozen=True)
class LayerSpectrum:
    """One layer of one model on one version of the images.

    Attributes:
        energy: (D,) its own energy spectrum, falling, sum 1. effective_rank: of the same, in [1, D].
        rank: directions of full precision on clean images that are numerically not zero; beyond it nothing is compared.
        pairs: sums of x . v_k and (x' - x) . v_k for each of the D directions, x the features of the reference, x' of
            this model; None for full precision on clean images, the reference of all.
        margins: the same sums of the margins, cosine of the true class minus the largest other one; in the joint space
            of data with classes only.
        angles: size k -> (k,) principal angles in degrees, rising, between its k strongest directions and full
            precision's; sizes above the rank are left out.
        accuracy_full_basis: "0-8", "8-64", "64+" and "all" -> zero-shot accuracy of the features within that band of
            full precision's directions on clean images; empty for layers that are not affinely read out into the joint
            space. accuracy_own_basis: the same, of the directions of these very features, as in the study.
        part_answers: of `PARTS`, (N,) whether each answer is right, where there are margins; empty elsewhere. groups:
            (N,) the group of each sample (`benchmark.metrics.uncertainty`).
    """

    energy: Floats
    effective_rank: float
    rank: int
    pairs: PairSums | None = None
    margins: PairSums | None = None
    angles: Mapping[int, Floats] = field(default_factory=dict)
    accuracy_full_basis: Mapping[str, float] = field(default_factory=dict)
    accuracy_own_basis: Mapping[str, float] = field(default_factory=dict)
    part_answers: Mapping[str, Bools] = field(default_factory=dict)
    groups: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def signal(self) -> Floats | None:
        """(D,) mean over images of (x . v_k)^2."""
        return None if self.pairs is None else self.pairs.pp.sum(0) / self.pairs.count.sum()

    @property
    def noise(self) -> Floats | None:
        """(D,) mean over images of ((x' - x) . v_k)^2."""
        return None if self.pairs is None else self.pairs.ee.sum(0) / self.pairs.count.sum()

    def directions(self) -> dict[str, Told]:
        """Name of a ratio (`benchmark.metrics.gain.RATIOS`) -> its value in each direction below the rank."""
        if self.pairs is None:
            return {}
        below = self.pairs.take(0, self.rank)
        return {name: below.each(ratio) for name, ratio in RATIOS.items()}

    def bands(self) -> dict[str, dict[str, Told]]:
        """Rank band, and `all` -> ratio -> its value (1,), of the energies together; none beyond the rank."""
        if self.pairs is None:
            return {}
        cut = {band_name(band): self.pairs.take(band[0], min(band[1] or self.rank, self.rank))
               for band in bands_of(self.rank)} | {"all": self.pairs.take(0, self.rank)}  # fmt: skip
        return {band: {name: sums.together(ratio) for name, ratio in RATIOS.items()} for band, sums in cut.items()}

    def margin(self) -> dict[str, Told]:
        """`slope` of these margins on the reference's, and `residual`, relative to the reference; (1,) each."""
        if self.margins is None:
            return {}
        return {"slope": self.margins.together(gain), "residual": self.margins.together(residual)}

    def parts(self) -> dict[str, Part]:
        """`gain` and `residual` -> what that part of the error alone does to the zero-shot accuracy."""
        if not self.part_answers:
            return {}
        return {part: _part(self.part_answers, self.groups, part) for part in ("gain", "residual")}

    @property
    def sqnr_db(self) -> Floats | None:
        """(D,) 10 log10(signal / noise); NaN beyond the rank and where no noise falls."""
        if self.signal is None or self.noise is None:
            return None
        defined = (np.arange(len(self.noise)) < self.rank) & (self.signal > 0) & (self.noise > 0)
        ratio = np.divide(self.signal, self.noise, out=np.ones_like(self.noise), where=defined)
        return np.where(defined, 10 * np.log10(ratio), np.nan)

    def band_sqnr_db(self) -> dict[str, float]:
        """SQNR of the energy of a rank band together, and of `all`; none without noise or beyond the rank."""
        found = {band: float(ratios["sqnr_db"].value[0]) for band, ratios in self.bands().items()}
        return {band: value for band, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Entry:
    """All layers of one model on one version of the images.

    Reference of the noise: full precision on the same images; for full precision itself its clean images, so that its
    "noise" is the effect of the corruption.
    """

    quantization: str
    images: str
    layers: Mapping[str, LayerSpectrum]


@dataclass(frozen=True)
class Study:
    """Everything measured for one model on one data set; `count` images. `failed`: quantization -> why.

    `key`: content hash of everything that can change a number.
    """

    model: str
    data: str
    count: int
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    key: str = ""

    def find(self, quantization: str, images: str = CLEAN) -> Mapping[str, LayerSpectrum]:
        """The layers of an entry."""
        return next(e.layers for e in self.entries if (e.quantization, e.images) == (quantization, images))

    @property
    def quantizations(self) -> tuple[str, ...]:
        """Names without full precision."""
        return tuple(dict.fromkeys(e.quantization for e in self.entries if e.quantization != FP32.name))

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Versions of the images besides the clean ones, e.g. `defocus_blur/3`."""
        return tuple(dict.fromkeys(e.images for e in self.entries if e.images != CLEAN))

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers in forward order: blocks, `penultimate`, `image` (the joint space)."""
        return tuple(self.entries[0].layers)

    @property
    def final_layers(self) -> tuple[str, ...]:
        """The layers behind the last block: `penultimate` where the model has it, and `image`."""
        return tuple(filter(is_final, self.layers))

    def correlations(self, quantization: str, corruption: str) -> dict[str, dict[str, float]]:
        """Layer -> does the quantization's noise fall where the corruption's effect falls?

        Spearman's rank correlation, over the directions below the rank, of the energy of quantization noise on clean
        images with that of the corruption's effect in full precision. `noise`: as it is. Since strong directions
        attract both, it can be high without any likeness; `partial`: the same with the signal's energy held constant,
        (r_qc - r_qs r_cs) / sqrt((1 - r_qs^2)(1 - r_cs^2)). (Dividing both by the signal would be no remedy: a common
        divisor makes any two spectra alike.) What is undefined is left out.
        """
        quantized, corrupted = self.find(quantization), self.find(FP32.name, corruption)
        found: dict[str, dict[str, float]] = {}
        for layer, first in quantized.items():
            found[layer] = {}
            noise, effect, signal = (
                None if v is None else v[: first.rank] for v in (first.noise, corrupted[layer].noise, first.signal)
            )
            if noise is not None and effect is not None and signal is not None:
                found[layer] = rank_correlations(noise, effect, signal)
        return found


def rank_correlations(first: Floats, second: Floats, third: Floats) -> dict[str, float]:
    """Spearman's rho of two columns as `noise`, and given a third as `partial`; undefined ones are left out."""
    from scipy.stats import spearmanr  # late: the import takes most of a second, reading a study needs none

    if len(first) < 4 or not np.ptp(first) or not np.ptp(second):
        return {}
    rho = float(spearmanr(first, second).statistic)
    if not np.ptp(third):
        return {"noise": rho, "partial": rho}
    a, b = (float(spearmanr(column, third).statistic) for column in (first, second))
    rest = (1 - a**2) * (1 - b**2)
    return {"noise": rho, "partial": (rho - a * b) / math.sqrt(rest)} if rest > 1e-12 else {"noise": rho}


def bands_of(dimension: int) -> list[Band]:
    """The study's rank bands that begin below D."""
    return [band for band in BANDS if band[0] < dimension]


def band_name(band: Band) -> str:
    """`0-8`, `64+`."""
    return f"{band[0]}+" if band[1] is None else f"{band[0]}-{band[1]}"


def study_metrics(study: Mapping[str, Any]) -> dict[str, float]:
    """The headline numbers: `<quantization>/<images>/<layer>/<name>` for the layers behind the last block.

    Args:
        study: in the form of `study_json`; a number that is undefined there is left out.
    """
    found: dict[str, float | None] = {}
    behind = [name for name in study["layers"] if is_final(name)]
    for entry in study["entries"]:
        for name in behind:
            layer = entry["layers"][name]
            numbers = {"effective_rank": layer["effective_rank"]}
            for band, ratios in layer["bands"].items():
                numbers |= {f"{ratio}_{band}": told["value"] for ratio, told in ratios.items()}
            numbers |= {f"margin_{key}": told["value"] for key, told in layer["margins"].items()}
            parts = layer["accuracy_of_parts"].items()
            numbers |= {f"accuracy_change_{part}_only": told["own"]["value"] for part, told in parts}
            for basis in ("full", "own"):
                accuracies = layer[f"accuracy_{basis}_basis"].items()
                numbers |= {f"accuracy_{basis}_basis_{band}": value for band, value in accuracies}
            numbers |= {f"angle_{top}_deg": angles[-1] for top, angles in layer["angles_deg"].items()}
            where = f"{entry['quantization']}/{entry['images'].replace('/', '.')}/{name}"
            found |= {f"{where}/{key}": value for key, value in numbers.items()}
    for quantization, corruptions in study["rank_correlation_with_corruption"].items():
        for corruption, layers in corruptions.items():
            for name in (name for name in behind if name in layers):
                where = f"{quantization}/{corruption.replace('/', '.')}/{name}"
                found |= {f"{where}/rank_correlation_{key}": rho for key, rho in layers[name].items()}
    return {key: value for key, value in found.items() if value is not None and math.isfinite(value)}


def is_final(layer: str) -> bool:
    """Whether a layer stands behind the last block: `penultimate` and `image` do."""
    return not layer.startswith("block:")


def study_json(study: Study) -> dict[str, Any]:
    """Plain values with 6 significant digits; null where a number or its interval is undefined."""
    return {
        "format": FORMAT,
        "key": study.key,
        "model": study.model,
        "data": study.data,
        "images": study.count,
        "basis": "right singular vectors of full precision's features on clean images, uncentred",
        "layers": list(study.layers),
        "entries": [
            {
                "quantization": entry.quantization,
                "images": entry.images,
                "layers": {name: _layer_json(layer) for name, layer in entry.layers.items()},
            }
            for entry in study.entries
        ],
        "rank_correlation_with_corruption": {
            name: {corruption: study.correlations(name, corruption) for corruption in study.corruptions}
            for name in study.quantizations
        },
        "notes": list(study.notes),
        "failed": dict(study.failed),
    }


def _layer_json(layer: LayerSpectrum) -> dict[str, Any]:
    arrays = {"energy": layer.energy, "signal": layer.signal, "noise": layer.noise}
    by_band = {band: {name: _number(told) for name, told in each.items()} for band, each in layer.bands().items()}
    return {
        "dimension": len(layer.energy),
        "rank": layer.rank,
        "effective_rank": _short(layer.effective_rank),
        "bands": by_band,
        "margins": {name: _number(told) for name, told in layer.margin().items()},
        "accuracy_full_basis": dict(layer.accuracy_full_basis),
        "accuracy_own_basis": dict(layer.accuracy_own_basis),
        "accuracy_of_parts": {name: _part_json(part) for name, part in layer.parts().items()},
        "angles_deg": {f"top_{k}": _list(angles) for k, angles in layer.angles.items()},
        "directions": {name: _numbers(told) for name, told in layer.directions().items()},
        **{name: _list(values) for name, values in arrays.items() if values is not None},
    }


def _part_json(part: Part) -> dict[str, Any]:
    found: dict[str, Any] = {"verdict": part.verdict}
    for name in ("change", "own", "difference"):
        told: Estimate = getattr(part, name)
        found[name] = dict(zip(("value", "low", "high"), _list([told.value, *told.interval()]), strict=True))
    return found


def _numbers(told: Told) -> dict[str, list[float | None]]:
    return {"value": _list(told.value), "low": _list(told.low), "high": _list(told.high)}


def _number(told: Told) -> dict[str, float | None]:
    """Of a single number."""
    return {name: values[0] for name, values in _numbers(told).items()}


def _list(values: Sequence[float] | Floats) -> list[float | None]:
    return [_short(float(value)) if np.isfinite(value) else None for value in values]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
