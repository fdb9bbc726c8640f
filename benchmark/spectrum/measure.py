"""The spectral study of a plan's models: features are streamed through, full precision beside each quantization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmark.data import Data, DataSets
from benchmark.data.pixels import PixelCache, Pixels
from benchmark.engine.banks import BankMaker
from benchmark.engine.embed import projection_matrix, stream_features
from benchmark.engine.holding import ModelHolder
from benchmark.engine.plan import Configuration, Plan, Settings, expand_sets, make_plan
from benchmark.errors import QuantizationError, ReliquantError, SpecError, StorageError, UnknownNameError
from benchmark.ledger.store import Store
from benchmark.metrics.spectrum import EigenBasis
from benchmark.metrics.uncertainty import groups_of
from benchmark.models.base import ClipModel
from benchmark.models.references import refuse_quantized
from benchmark.spec import FP32, SuiteSpec, digest
from benchmark.spectrum.layers import VERSION, Features, Readout, Samples, layer_bases, spectra
from benchmark.spectrum.model import CLEAN, Entry, Floats, Study
from benchmark.utils.guard import described, guarded, text_of
from benchmark.utils.progress import Advance, Progress

PROBE = 8
"""Images on which the map from `penultimate` to the joint space is looked at."""
AFFINE_TOLERANCE = 1e-3
"""Largest difference of a joint feature from its read-out of `penultimate` at which the head counts as affine."""


@dataclass(frozen=True)
class SpectrumPlan:
    """A plan without evaluations, and the data: `clean` or `<corruption>/<severity>` -> data set.

    joint: whether only the joint space is looked at, from cached features where there are.
    """

    plan: Plan
    data: Mapping[str, Data]
    joint: bool = False


def plan_spectrum(
    suite: SuiteSpec, data: str, corruptions: Sequence[str], settings: Settings, joint: bool = False
) -> SpectrumPlan:
    """Check what is asked and open the data; no weight is loaded and no image decoded.

    Args:
        data: name of a data set of the suite. corruptions: `<type>/<severity>` of it.

    Raises:
        UnknownNameError, SpecError: the data set, a corruption or a quantization does not fit.
    """
    if data not in suite.data:
        raise UnknownNameError(f"data set of suite '{suite.name}'", data, suite.data)
    spec = suite.data[data]
    if spec.corruptions is not None or spec.corruption is not None:
        raise SpecError(f"--data {data}: its images are corrupted already; name the data set that it is based on")
    sets = {CLEAN: spec}
    for corruption in corruptions:
        name, _, severity = corruption.rpartition("/")
        if severity not in ("1", "2", "3", "4", "5") or not name:
            raise SpecError(f"--corruption '{corruption}': the form is TYPE/SEVERITY, as in defocus_blur/3")
        sets[corruption] = spec.model_copy(update={"corruption": name, "severity": int(severity)})
    files = DataSets()
    plan = make_plan(suite.model_copy(update={"tasks": {}, "data": suite.data}), settings, files)
    refuse_quantized((configuration.model for configuration in plan.configurations), "spectrum")
    for configuration in plan.configurations:
        quant = configuration.quant
        if quant != FP32 and quant.for_tower("vision") == FP32:
            raise SpecError(f"quantization '{quant.name}' leaves the vision tower alone: its spectrum does not change")
    if all(configuration.quant == FP32 for configuration in plan.configurations):
        raise SpecError("a spectrum compares full precision with quantizations: give at least one --quant")
    named = {images: data if images == CLEAN else f"{data}/{images}" for images in sets}
    asked = suite.model_copy(update={"calibration": None, "tasks": {}, "data": {named[i]: s for i, s in sets.items()}})
    limited = {n: s for group in expand_sets(asked, set(asked.data)).values() for n, s in group.items()}
    opened = {images: files.open(limited[name], name) for images, name in named.items()}
    return SpectrumPlan(replace(plan, data={**plan.data, **{d.name: d for d in opened.values()}}), opened, joint)


def measure_spectra(
    asked: SpectrumPlan,
    home: Path,
    progress: Progress,
    pixel_budget: int,
    skip_broken: bool = False,
    known: Mapping[str, str] | None = None,
) -> dict[str, Study | None]:
    """Model -> its study; None where one is known that has the same key.

    A quantization that cannot be done is noted in `Study.failed`, the others go on.

    Args:
        known: model -> key of a study that is there already.

    Raises:
        ReliquantError: the model cannot be loaded, an image not decoded, or no quantization could be done.
    """
    store = Store(home / "cache" / "banks")
    pixels = PixelCache(home / "cache" / "pixels", pixel_budget, skip_broken)
    by_model: dict[str, list[Configuration]] = {}
    for configuration in asked.plan.configurations:
        by_model.setdefault(configuration.model.digest, []).append(configuration)
    studies: dict[str, Study | None] = {}
    for configurations in by_model.values():
        holder = ModelHolder(configurations[0].model, asked.plan.settings.device)
        makers = [BankMaker(asked.plan, c, holder, store, pixels, progress) for c in configurations]
        measurement, name = _Measurement(asked, makers, progress), configurations[0].model.name
        studies[name] = None if (known or {}).get(name) == measurement.key() else measurement.study()
    return studies


class _Measurement:
    """The study of one model; `makers`: full precision first."""

    def __init__(self, asked: SpectrumPlan, makers: Sequence[BankMaker], progress: Progress) -> None:
        self.settings, self.makers, self.progress, self.joint = asked.plan.settings, makers, progress, asked.joint
        self.pixels = {images: makers[0].pixels_of(data) for images, data in asked.data.items()}
        self.clean = asked.data[CLEAN]
        taps = () if asked.joint else self.full.taps
        self.taps = [name for name in taps if name == "penultimate" or name.startswith("block:")]
        self.taps.sort(key=lambda name: name == "penultimate")
        self.notes: list[str] = []
        self.failed: dict[str, str] = {}
        self._check_rows()

    @property
    def full(self) -> ClipModel:
        """The full-precision model; loaded again where a method has changed it."""
        return self.makers[0].holder.model

    def study(self) -> Study:
        """Pass 1: full precision's directions. Then for each entry one pass of its model beside its reference."""
        count, others = len(self.pixels[CLEAN]), len(self.pixels) - 1
        passes = 2 + 2 * others + (len(self.makers) - 1) * 2 * (1 + others)
        with self.progress.phase(f"spectrum {self.clean.name}", passes * count) as advance:
            found = layer_bases(self._stream(self.makers[0], CLEAN, advance))
            bases = {layer: found[layer] for layer in (*self.taps, "image")}
            self._note_rank(bases, count)
            readouts = self._readouts(bases)
            samples = self._samples(len(bases["image"].vectors), bool(readouts))
            entries = []
            for maker in self.makers:
                entries += self._entries(maker, bases, readouts, samples, advance)
        if len(entries) == len(self.pixels):
            raise QuantizationError(next(iter(self.failed.values())))
        name = self.makers[0].configuration.model.name
        return Study(name, self.clean.name, count, tuple(entries), tuple(self.notes), self.failed, self.key())

    def _samples(self, dimension: int, classes: bool) -> Samples:
        """Of the clean images; a corrupted version has the same."""
        rows, data = self.pixels[CLEAN].rows, self.clean
        pictures = data.sample_ids if data.base_ids is None else data.base_ids
        labels = self.makers[0].classes(data, dimension)[2][rows] if classes else None
        return Samples(labels, groups_of(pictures[rows]))

    def key(self) -> str:
        """Content hash: versions, the vision towers that did not fail, what is looked at, images, labels and texts."""
        done = [m.configuration for m in self.makers if m.configuration.quant.name not in self.failed]
        towers = [self.makers[0].plan.tower_key(c.model, c.quant, "vision") for c in done]
        pixels = {images: found.digest for images, found in self.pixels.items()}
        data = {"digest": self.clean.digest, "texts": self.clean.text_digest}
        return digest(["spectrum", VERSION, towers, pixels, data, self.joint])

    def _entries(
        self,
        maker: BankMaker,
        bases: Mapping[str, EigenBasis],
        readouts: Mapping[str, Readout],
        samples: Samples,
        advance: Advance,
    ) -> list[Entry]:
        name = maker.configuration.quant.name
        try:
            if not self.joint:
                guarded(f"quantization method '{maker.configuration.quant.method}'", lambda: maker.quantized)
            entries = []
            for images in self.pixels:
                reference = None
                if name != FP32.name or images != CLEAN:
                    reference = self._stream(self.makers[0], CLEAN if name == FP32.name else images, advance)
                stream = self._stream(maker, images, advance)
                entries.append(Entry(name, images, spectra(stream, bases, readouts, samples, reference)))
        except StorageError:
            raise
        except Exception as error:  # a stranger's method may raise anything
            if name == FP32.name:
                raise
            self.failed[name] = text_of(error) if isinstance(error, ReliquantError) else described(error)
            return []
        finally:
            if name != FP32.name:
                maker.release()  # one quantized model in memory at a time
        return entries

    def _stream(self, maker: BankMaker, images: str, advance: Advance) -> Iterator[Features]:
        if self.joint:
            return self._cached(maker, advance)
        model = self.full if maker is self.makers[0] else maker.quantized[0]
        batches = self.pixels[images].batches(self.settings.batch_size)
        return stream_features(model, batches, advance, self.taps)

    def _cached(self, maker: BankMaker, advance: Advance) -> Iterator[Features]:
        """The joint space of the clean images; embedded now where no run has."""
        features = maker.bank(self.clean.name).image
        for start in range(0, len(features), self.settings.batch_size):
            batch = features[start : start + self.settings.batch_size]
            yield {"image": batch}
            advance(len(batch))

    def _first(self, model: ClipModel) -> Features:
        """`image` and `penultimate` of a few clean images."""
        return next(stream_features(model, self.pixels[CLEAN].batches(PROBE), lambda _: None, ["penultimate"]))

    def _readouts(self, bases: Mapping[str, EigenBasis]) -> dict[str, Readout]:
        """The zero-shot classifier behind `image`, and behind `penultimate` where the way there is affine."""
        text, names, _ = self.makers[0].classes(self.clean, len(bases["image"].vectors))
        if not len(text):
            self.notes.append(f"{self.clean.name} has no classes: no accuracies")
            return {}
        weights = np.asarray(text, dtype=np.float64).T
        readouts = {"image": Readout(weights, np.zeros(len(names)), cosines=len(names) > 1)}
        if "penultimate" in bases and (head := self._head(len(bases["penultimate"].vectors))) is not None:
            readouts = {"penultimate": Readout(head[0] @ weights, head[1] @ weights), **readouts}
        elif "penultimate" in bases:
            self.notes.append("penultimate: the way to the joint space is not affine: accuracies for image only")
        return readouts

    def _head(self, width: int) -> tuple[Floats, Floats] | None:
        """The affine map from `penultimate` to the joint space, checked on the first batch."""
        head = projection_matrix(self.full, width)
        if head is None:
            return None
        first = self._first(self.full)
        if head[0].shape[1] != first["image"].shape[1]:
            return None
        joint = first["penultimate"] @ head[0] + head[1]
        joint /= np.linalg.norm(joint, axis=1, keepdims=True)
        return head if np.abs(joint - first["image"]).max() < AFFINE_TOLERANCE else None

    def _check_rows(self) -> None:
        """Corrupted versions must show the same images (broken ones may have been skipped)."""
        clean: Pixels = self.pixels[CLEAN]
        for images, pixels in self.pixels.items():
            if not np.array_equal(pixels.ids, clean.ids):
                raise SpecError(f"'{self.clean.name}' and its version {images} do not show the same images")

    def _note_rank(self, bases: Mapping[str, EigenBasis], count: int) -> None:
        widest = max(len(basis.vectors) for basis in bases.values())
        if count < widest:
            self.notes.append(
                f"{count} images span at most {count} of {widest} directions; take more images than dimensions"
            )
