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

from benchmark.metrics.spectrum import BANDS
from benchmark.spec import FP32

Floats = npt.NDArray[np.float64]
Band = tuple[int, int | None]
CLEAN = "clean"


@dataclass(frozen=True)
class LayerSpectrum:
    """One layer of one model on one version of the images.

    Attributes:
        energy: (D,) its own energy spectrum, falling, sum 1. effective_rank: of the same, in [1, D].
        rank: directions of full precision on clean images that are numerically not zero; beyond it nothing is compared.
        signal, noise: (D,) mean over images of (x . v_k)^2 and ((x' - x) . v_k)^2, x the features of the reference,
            x' of this model; None for full precision on clean images, the reference of all.
        angles: size k -> (k,) principal angles in degrees, rising, between its k strongest directions and full
            precision's; sizes above the rank are left out.
        accuracy: "0-8", "8-64", "64+" and "all" -> zero-shot accuracy of the features within that band of full
            precision's directions; empty for layers that are not affinely read out into the joint space.
    """

    energy: Floats
    effective_rank: float
    rank: int
    signal: Floats | None = None
    noise: Floats | None = None
    angles: Mapping[int, Floats] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)

    @property
    def sqnr_db(self) -> Floats | None:
        """(D,) 10 log10(signal / noise); NaN beyond the rank and where no noise falls."""
        if self.signal is None or self.noise is None:
            return None
        defined = (np.arange(len(self.noise)) < self.rank) & (self.signal > 0) & (self.noise > 0)
        ratio = np.divide(self.signal, self.noise, out=np.ones_like(self.noise), where=defined)
        return np.where(defined, 10 * np.log10(ratio), np.nan)

    def band_sqnr_db(self) -> dict[str, float]:
        """SQNR of the energy of a rank band together; bands without noise or beyond the rank are left out."""
        found = {}
        if self.signal is not None and self.noise is not None:
            for band in bands_of(self.rank):
                signal, noise = (float(v[band[0] : min(band[1] or self.rank, self.rank)].sum())
                                 for v in (self.signal, self.noise))  # fmt: skip
                if signal > 0 and noise > 0:
                    found[band_name(band)] = 10 * math.log10(signal / noise)
        return found


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
        return tuple(name for name in self.layers if not name.startswith("block:"))

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


def study_metrics(study: Study) -> dict[str, float]:
    """The headline numbers: `<quantization>/<images>/<layer>/<name>` for the layers behind the last block."""
    found: dict[str, float] = {}
    for entry in study.entries:
        for name in study.final_layers:
            layer = entry.layers[name]
            numbers = {"effective_rank": layer.effective_rank}
            numbers |= {f"sqnr_db_{band}": value for band, value in layer.band_sqnr_db().items()}
            numbers |= {f"accuracy_{band}": value for band, value in layer.accuracy.items()}
            numbers |= {f"angle_top_{k}_deg": float(angles[-1]) for k, angles in layer.angles.items()}
            where = f"{entry.quantization}/{entry.images.replace('/', '.')}/{name}"
            found |= {f"{where}/{key}": value for key, value in numbers.items()}
    for quantization in study.quantizations:
        for corruption in study.corruptions:
            for name, rhos in study.correlations(quantization, corruption).items():
                if name in study.final_layers:
                    where = f"{quantization}/{corruption.replace('/', '.')}/{name}"
                    found |= {f"{where}/rank_correlation_{key}": rho for key, rho in rhos.items()}
    return found


def study_json(study: Study) -> dict[str, Any]:
    """Plain values with 6 significant digits; null where an SQNR is undefined (no noise there, or beyond the rank)."""
    return {
        "format": 1,
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
    arrays = {"energy": layer.energy, "signal": layer.signal, "noise": layer.noise, "sqnr_db": layer.sqnr_db}
    return {
        "dimension": len(layer.energy),
        "rank": layer.rank,
        "effective_rank": _short(layer.effective_rank),
        "sqnr_db_by_band": {band: _short(value) for band, value in layer.band_sqnr_db().items()},
        "accuracy_by_band": dict(layer.accuracy),
        "angles_deg": {f"top_{k}": _list(angles) for k, angles in layer.angles.items()},
        **{name: _list(values) for name, values in arrays.items() if values is not None},
    }


def _list(values: Sequence[float] | Floats) -> list[float | None]:
    return [_short(float(value)) if np.isfinite(value) else None for value in values]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
