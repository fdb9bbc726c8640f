r"""Controls for the claim that quantization works as a spectral filter: noise, truncation, gain, residual, temperature.

They change x, the vision tower's pooled features in the joint space **before** L2 normalisation, and leave every weight
alone. X (N, D) are these features on the calibration images, X_q those of the quantization `like`, e_i = x_q,i - x_i,
and v_k the right singular vectors of X (uncentred, `benchmark.metrics.spectrum`):

.. math::
    \text{control-noise:}   &\quad x + L\, g / \lVert g \rVert, \qquad L^2 = \tfrac1N \sum_i \lVert e_i \rVert^2 \\
    \text{control-shaped:}  &\quad x + \sum_k s_k g_k v_k, \qquad s_k^2 = \tfrac1N \sum_i (e_i \cdot v_k)^2 \\
    \text{control-lowrank:} &\quad \sum_{k < r} (x \cdot v_k)\, v_k \\
    \text{control-gain:}    &\quad \sum_k a_k (x \cdot v_k)\, v_k,
                             \qquad a_k = \tfrac{\sum_i (x_i \cdot v_k)(x_{q,i} \cdot v_k)}{\sum_i (x_i \cdot v_k)^2} \\
    \text{control-residual:}&\quad x_q - \sum_k (a_k - 1) (x \cdot v_k)\, v_k \\
    \text{control-margin:}  &\quad x \text{, with the logit scale times } b = \tfrac{\sum_i m_i m_{q,i}}{\sum_i m_i^2}

g is standard normal, drawn anew for each image from a generator seeded with the SHA-256 of `seed` and of the image's
8-bit pixels. So an image gets the same noise in every batch, order and process, two different images get independent
noise, and a corrupted version counts as another image. (Features would not do as a seed: they differ in the last bit
between batch sizes.)

Gain and residual are two parts of one error: (gain only - x) + (residual only - x) = x_q - x, image by image. The
residual runs the quantized model on the same image. a_k is 1 for directions below rounding of float32. m is the margin
of a calibration image, the cosine with its caption minus the largest with another one (`benchmark.metrics.gain`); the
temperature leaves every feature, cosine and prediction alone, so it changes what looks at probabilities or logits only.

The controls follow "does noise of the same magnitude reproduce the gain?" of the study's group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from benchmark.errors import QuantizationError, ReliquantError, SpecError
from benchmark.metrics.gain import PairAccumulator, gain, margins
from benchmark.metrics.spectrum import EigenBasis, GramAccumulator, energy_spectrum, numerical_rank
from benchmark.models.base import ClipModel, Preprocess
from benchmark.quantization.base import Control, FeatureControl, Options
from benchmark.quantization.calibration import Calibration
from benchmark.quantization.registry import parse, quantizers
from benchmark.spec import FP32, QuantSpec
from benchmark.spec.short_name import undotted

BATCH, TEXTS = 32, 256
_NOTE = "image features are changed before L2 normalisation; taps (local and block features) are full precision's"
_SCALED = "the logit scale is changed; features, cosines and predictions are full precision's"
Float64 = NDArray[np.float64]


class LikeOptions(Options):
    """`like`: the quantization to imitate, in short-name form with `.` for `-` (`..` for `.`)."""

    like: str


class NoiseOptions(LikeOptions):
    """Also `seed`: of the noise."""

    seed: int = Field(default=0, ge=0, lt=2**32)


class LowRankOptions(Options):
    """`rank`: number of directions that are kept."""

    rank: int = Field(ge=1)


@dataclass(frozen=True)
class Moments:
    """Second moments over the calibration images: of full precision, and of the noise where there is a second model."""

    signal: GramAccumulator
    noise: GramAccumulator
    cross: Float64
    """(D, D) `X^T (X_q - X)`."""

    @property
    def basis(self) -> EigenBasis:
        """Full precision's directions, strongest first, uncentred."""
        return self.signal.eigen()

    @property
    def noise_norm(self) -> float:
        """Root mean square length of x_q - x."""
        return float(np.sqrt(np.trace(self.noise.gram) / self.noise.count))

    @property
    def noise_to_signal(self) -> float:
        """The same, relative to the root mean square length of x."""
        return float(np.sqrt(np.trace(self.noise.gram) / np.trace(self.signal.gram)))

    def noise_deviation(self, basis: EigenBasis) -> Float64:
        """(D,) root mean square of the noise along each direction."""
        energy = np.einsum("dk,dk->k", basis.vectors, self.noise.gram @ basis.vectors)
        return np.asarray(np.sqrt(energy.clip(min=0.0) / self.noise.count), dtype=np.float64)

    def gain(self, basis: EigenBasis) -> Float64:
        """(D,) gain of the quantization along each direction; 1 where full precision has nothing but rounding."""
        along = np.einsum("dk,dk->k", basis.vectors, self.cross @ basis.vectors)
        present = np.arange(len(along)) < numerical_rank(basis)
        extra = np.divide(along, basis.singular_values**2, out=np.zeros_like(along), where=present)
        return np.asarray(1.0 + extra, dtype=np.float64)


@torch.inference_mode()
def measure(model: ClipModel, calibration: Calibration, quantized: ClipModel | None = None) -> Moments:
    """Second moments of features before L2 normalisation over the calibration images, float64, memory D x D."""

    def features(of: ClipModel, pixels: Tensor) -> Float64:
        found: Float64 = of.image_encoder(of.module, of.normalise(pixels)).double().cpu().numpy()
        return found

    signal = noise = None
    cross: Float64 = np.zeros(())
    for start in range(0, len(calibration.pixels), BATCH):
        pixels = torch.from_numpy(np.array(calibration.pixels[start : start + BATCH]))
        x = features(model, pixels)
        if signal is None or noise is None:
            signal, noise = GramAccumulator(x.shape[1]), GramAccumulator(x.shape[1])
        error = features(quantized, pixels) - x if quantized else np.zeros_like(x)
        signal.update(x)
        noise.update(error)
        cross = cross + x.T @ error
    if signal is None or noise is None:
        raise QuantizationError("control: the calibration set has no images. Add image-caption pairs to it.")
    return Moments(signal, noise, cross)


@torch.inference_mode()
def margin_slope(model: ClipModel, calibration: Calibration, quantized: ClipModel) -> float:
    """Slope through the origin of quantized on full-precision margins of the calibration pairs; equal captions are one.

    Raises:
        QuantizationError: there are fewer than two different captions, or one of the images has none.
    """
    captions, own = np.unique(np.array(calibration.captions, dtype=np.str_), return_inverse=True)
    if len(captions) < 2 or len(own) != len(calibration.pixels):
        raise QuantizationError(
            "control-margin: the calibration set needs two different captions, one for each image. "
            "Name image-caption pairs with 'calibration: NAME'."
        )
    texts = [model.encode_text(captions[at : at + TEXTS].tolist()) for at in range(0, len(captions), TEXTS)]
    weights = torch.cat(texts).double().cpu().numpy().T
    sums = PairAccumulator(1)
    for start in range(0, len(calibration.pixels), BATCH):
        pixels = torch.from_numpy(np.array(calibration.pixels[start : start + BATCH]))
        rows = own[start : start + BATCH]
        before, now = (margins(of.encode_image(pixels).double().cpu().numpy() @ weights, rows)[:, None]
                       for of in (model, quantized))  # fmt: skip
        sums.update(before, now - before, np.zeros(len(rows), dtype=np.int64))
    return float(gain(*sums.sums.total))


def image_noise(pixels: Tensor, dimension: int, preprocess: Preprocess, seed: int) -> Float64:
    """Standard normal noise (B, D), one row for each image, determined by its 8-bit pixels and the seed alone.

    Args:
        pixels: normalised (B, 3, H, W), as the image encoder sees them.
        preprocess: whose mean and std lead back to 8 bits, exactly and on every device.
    """
    mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (preprocess.mean, preprocess.std))
    images = ((pixels.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    rows = []
    for image in images:
        state = hashlib.sha256(seed.to_bytes(8, "big") + image.tobytes()).digest()
        rows.append(np.random.default_rng(int.from_bytes(state)).standard_normal(dimension))
    return np.stack(rows)


@dataclass(frozen=True)
class Noise:
    """Adds `directions @ (deviation * g)`, or noise in a random direction of length `length` where that is given."""

    preprocess: Preprocess
    seed: int
    length: float | None = None
    deviation: Float64 | None = None
    directions: Float64 | None = None

    def __call__(self, pixels: Tensor, features: Tensor) -> Tensor:
        """(B, D) -> (B, D) float32."""
        noise = image_noise(pixels, features.shape[1], self.preprocess, self.seed)
        if self.length is not None:
            noise *= self.length / np.linalg.norm(noise, axis=1, keepdims=True)
        if self.deviation is not None and self.directions is not None:
            noise = (noise * self.deviation) @ self.directions.T
        return (features.double() + torch.from_numpy(noise).to(features.device)).float()


@dataclass(frozen=True)
class Truncation:
    """Projection on the columns of `directions` (D, r), orthonormal, in float64."""

    directions: Float64

    def __call__(self, pixels: Tensor, features: Tensor) -> Tensor:
        """(B, D) -> (B, D) float32."""
        basis = torch.from_numpy(self.directions).to(features.device)
        return ((features.double() @ basis) @ basis.T).float()


@dataclass(frozen=True)
class Gain:
    """Multiplies the part of x along each of `directions` (D, D) by `gain` (D,), in float64."""

    directions: Float64
    gain: Float64

    def __call__(self, pixels: Tensor, features: Tensor) -> Tensor:
        """(B, D) -> (B, D) float32."""
        return (features.double() + self.moved(features)).float()

    def moved(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, D) float64: what the gain adds."""
        basis, extra = (torch.from_numpy(v).to(features.device) for v in (self.directions, self.gain - 1.0))
        return ((features.double() @ basis) * extra) @ basis.T


@dataclass(frozen=True)
class Residual:
    """The features of `quantized` without what `gain` adds."""

    quantized: ClipModel
    gain: Gain

    def __call__(self, pixels: Tensor, features: Tensor) -> Tensor:
        """(B, D) -> (B, D) float32; the quantized layers compute in float32 even under autocast."""
        with torch.autocast(pixels.device.type, enabled=False):
            found = self.quantized.image_encoder(self.quantized.module, pixels.float())
        return (found.double() - self.gain.moved(features)).float()


def unchanged(pixels: Tensor, features: Tensor) -> Tensor:
    """The features as they are."""
    return features


class VisionControl(FeatureControl):
    """What all have in common: options only, vision only, calibration always."""

    def check(self, spec: QuantSpec) -> None:
        """Check the fields as for every method, and that the scope is the vision tower.

        Raises:
            SpecError: names the field or option that does not fit.
        """
        if spec.scope != "vision":
            raise SpecError(f"quantization '{spec.name}': {self.name} changes image features; its scope is vision only")
        for name, info in self.options.model_fields.items():
            if info.is_required() and spec.option(name) is None:
                example = "rank_16" if name == "rank" else "like_rtn.w4a8"
                raise SpecError(
                    f"quantization '{spec.name}': {self.name} needs the option {name}, as in {self.name}-{example}"
                )
        super().check(spec)


class LikeControl(VisionControl):
    """A control that imitates another quantization."""

    options = LikeOptions

    def imitated(self, spec: QuantSpec) -> QuantSpec:
        """The quantization that `like` names.

        Raises:
            SpecError: it cannot be read, is itself a control, or does not change image features.
        """
        name = undotted(str(spec.option("like")))
        try:
            other = parse(name)
        except ReliquantError as error:
            raise SpecError(f"quantization '{spec.name}': option like: {error}") from None
        if quantizers.get(other.method).kind == "control" or other.for_tower("vision") == FP32:
            raise SpecError(
                f"quantization '{spec.name}': option like: '{name}' is not a quantization of the vision tower, "
                "so a control cannot imitate it. Name one, as in rtn.w4.vision."
            )
        return other.for_tower("vision")

    def check(self, spec: QuantSpec) -> None:
        """Also checks the quantization to imitate."""
        super().check(spec)
        self.imitated(spec)

    def depends_on(self, spec: QuantSpec) -> tuple[QuantSpec, ...]:
        """The quantization that it imitates."""
        return (self.imitated(spec),)


class NoiseControl(LikeControl):
    """Noise like that of another quantization."""

    options = NoiseOptions

    def control(
        self, model: ClipModel, spec: QuantSpec, calibration: Calibration, quantized: Callable[[QuantSpec], ClipModel]
    ) -> Control:
        """Measure X and X_q on the calibration images."""
        moments = measure(model, calibration, quantized(self.imitated(spec)))
        figures = {"noise_norm": moments.noise_norm, "noise_to_signal": moments.noise_to_signal}
        seed = self.read_options(spec, NoiseOptions).seed
        return Control(self.noise(moments, model.preprocess, seed), figures, (_NOTE,))

    def noise(self, moments: Moments, preprocess: Preprocess, seed: int) -> Noise:
        """Isotropic noise of the same root mean square length."""
        return Noise(preprocess, seed, length=moments.noise_norm)


class ShapedControl(NoiseControl):
    """The same with the energy of the quantization's noise along each direction of full precision."""

    def noise(self, moments: Moments, preprocess: Preprocess, seed: int) -> Noise:
        """Independent noise along each direction."""
        basis = moments.basis
        return Noise(preprocess, seed, deviation=moments.noise_deviation(basis), directions=basis.vectors)


class GainControl(LikeControl):
    """What a quantization does to the strength of each direction, without the rest of its error."""

    def control(
        self, model: ClipModel, spec: QuantSpec, calibration: Calibration, quantized: Callable[[QuantSpec], ClipModel]
    ) -> Control:
        """Fit the gains on the calibration images."""
        return self.part(*fitted(model, calibration, quantized(self.imitated(spec))))

    def part(self, fit: Gain, figures: Mapping[str, float], quantized: ClipModel) -> Control:
        """The gains alone."""
        moved = np.sqrt(figures["systematic_share"]) * figures["noise_to_signal"]
        return Control(fit, {**figures, "noise_to_signal": moved}, (_NOTE,))


class ResidualControl(GainControl):
    """The rest of a quantization's error, without what it does to the strength of each direction."""

    def part(self, fit: Gain, figures: Mapping[str, float], quantized: ClipModel) -> Control:
        """The quantized features without the gains."""
        left = np.sqrt(max(1.0 - figures["systematic_share"], 0.0)) * figures["noise_to_signal"]
        return Control(Residual(quantized, fit), {**figures, "noise_to_signal": left}, (_NOTE,))


def fitted(
    model: ClipModel, calibration: Calibration, quantized: ClipModel
) -> tuple[Gain, dict[str, float], ClipModel]:
    """The gains of a quantized model on the calibration images, figures for the report, and the model.

    `systematic_share`: of the energy of all errors, what the gains explain; `gain_0-8`: of the strongest directions.
    """
    moments = measure(model, calibration, quantized)
    basis = moments.basis
    gains, energy = moments.gain(basis), basis.singular_values**2
    share = float(energy @ (gains - 1.0) ** 2 / np.trace(moments.noise.gram))
    strongest = float(energy[:8] @ gains[:8] / energy[:8].sum())
    figures = {"gain_0-8": strongest, "systematic_share": share, "noise_to_signal": moments.noise_to_signal}
    return Gain(basis.vectors, gains), figures, quantized


class MarginControl(LikeControl):
    """A temperature as large as what a quantization does to the margins."""

    def control(
        self, model: ClipModel, spec: QuantSpec, calibration: Calibration, quantized: Callable[[QuantSpec], ClipModel]
    ) -> Control:
        """Fit the slope of the margins on the calibration pairs.

        Raises:
            QuantizationError: the calibration set has no captions, or the slope is not above zero.
        """
        slope = margin_slope(model, calibration, quantized(self.imitated(spec)))
        if not slope > 0.0:
            raise QuantizationError(
                f"quantization '{spec.name}': margins have the slope {slope:.3g} under it; a logit scale is above 0. "
                "Imitate a quantization that keeps part of the margins."
            )
        return Control(unchanged, {"margin_slope": slope}, (_SCALED,), slope)


class LowRankControl(VisionControl):
    """Truncation to the strongest directions."""

    options = LowRankOptions

    def control(
        self, model: ClipModel, spec: QuantSpec, calibration: Calibration, quantized: Callable[[QuantSpec], ClipModel]
    ) -> Control:
        """Measure X on the calibration images.

        Raises:
            QuantizationError: the rank is not below D, or above the number of calibration images.
        """
        rank = self.read_options(spec, LowRankOptions).rank
        basis = measure(model, calibration).basis
        dimension = len(basis.vectors)
        for limit, what in ((dimension - 1, f"the features have {dimension} dimensions"),
                            (basis.count, f"there are {basis.count} calibration images")):  # fmt: skip
            if rank > limit:
                raise QuantizationError(f"quantization '{spec.name}': {what}; the rank can be at most {limit}")
        kept = float(energy_spectrum(basis.singular_values)[:rank].sum())
        figures = {"rank": float(rank), "energy_kept": kept, "noise_to_signal": float(np.sqrt(max(1.0 - kept, 0.0)))}
        return Control(Truncation(basis.band(0, rank)), figures, (_NOTE,))


def _made(kind: type[VisionControl], name: str, what: str) -> VisionControl:
    paper, fields = "control of Bouguerra et al. 2026, arXiv 2509.21173", frozenset({"options"})
    return kind(f"control-{name}", 1, f"control: {what}", paper, fields, needs_calibration=True)


noise = _made(NoiseControl, "noise", "isotropic feature noise as large as a quantization's")
shaped = _made(ShapedControl, "shaped", "feature noise with a quantization's energy in each direction")
lowrank = _made(LowRankControl, "lowrank", "features truncated to the strongest directions")
gained = _made(GainControl, "gain", "each direction's gain under a quantization, without the rest of its error")
residual = _made(ResidualControl, "residual", "the rest of a quantization's error, without each direction's gain")
margin = _made(MarginControl, "margin", "a temperature with the slope of the margins under a quantization")
