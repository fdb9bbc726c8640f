"""Feature banks of one configuration: from the cache, or from the model, which is loaded only when needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.bank import FeatureBank
from benchmark.data import Data
from benchmark.data.pixels import PixelCache, Pixels
from benchmark.engine.embed import embed_classes, embed_texts
from benchmark.engine.execution import prepared
from benchmark.engine.holding import ModelHolder, Quantized
from benchmark.engine.parts import Part
from benchmark.engine.plan import Configuration, Plan
from benchmark.errors import StorageError
from benchmark.ledger.arrays import ArrayStore
from benchmark.models.base import ClipModel
from benchmark.quantization import LayerState, check_model, quantize
from benchmark.quantization.calibration import Calibration
from benchmark.spec import FP32, digest
from benchmark.utils.progress import Advance, Progress

STATISTICS_BUDGET = 10_000_000_000
"""Bytes of calibration statistics kept on disk; the least recently used go (GPTQ on ViT-B/32: 0.5 GB a tower)."""


@dataclass
class BankMaker:
    """Makes the feature banks of one configuration.

    Attributes:
        statistics: what calibration data says about layers, kept for other quantizations and other runs.
        forward_images: images that really went through a vision tower, for tests and the summary.
    """

    plan: Plan
    configuration: Configuration
    holder: ModelHolder
    store: ArrayStore
    pixels: PixelCache
    progress: Progress
    statistics: ArrayStore | None = None
    forward_images: int = 0

    @cached_property
    def quantized(self) -> Quantized:
        """The model under this configuration's quantization, and what was done to it; a stored one as it is.

        The report's probe images are the calibration data's, where the suite has any, whether the method needs it or
        not: so the reports of all methods compare.
        """
        stored, settings = self.configuration.model.quantized, self.plan.settings
        if stored is not None:
            return stored.load(settings.device, settings.exact_float)
        if self.configuration.quant == FP32:  # nothing is gained by keeping it
            return self.quantize()
        return self.holder.quantized(self.configuration.content, self.quantize)

    def quantize(self, kept: dict[str, LayerState] | None = None) -> Quantized:
        """Quantize the full-precision model; `kept` gets the states of the replaced layers."""
        return quantize(
            self.holder.model,
            self.configuration.quant,
            self._calibration(),
            self.progress,
            exact_float=self.plan.settings.exact_float,
            statistics=self.statistics,
            kept=kept,
        )

    @cached_property
    def runner(self) -> ClipModel:
        """The quantized model, run as the settings ask: under autocast, compiled."""
        return prepared(self.quantized[0], self.plan.settings.precision, self.plan.settings.compile)

    @property
    def in_memory(self) -> bool:
        """Whether the quantized model has been made."""
        return "quantized" in vars(self)

    def _calibration(self) -> Calibration | None:
        if self.plan.calibration is None:
            return None
        data = self.plan.calibration_data(self.configuration.quant)
        pixels = self.pixels_of(data)
        captions = [(data.captions or ())[row] for row in pixels.rows]
        return Calibration(pixels.array, captions, pixels.digest)

    def pixels_of(self, data: Data) -> Pixels:
        """The decoded images of a data set at this model's input size."""
        preprocess = self.configuration.model.preprocess
        return self.pixels.open(data.spec, data.name, preprocess, self.progress, self.plan.settings.workers)

    def check_inputs(self, names: Iterable[str]) -> bool:
        """Decode every data set and load the model, so that what is wrong with them is said before any long work.

        Returns:
            False when the caches have every bank, and nothing had to be looked at.

        Raises:
            InputError: names the image, or what does not fit about the checkpoint.
            QuantizationError, NonFiniteError: the model cannot be quantized as one of its configurations says.
        """
        wanted = sorted(names)
        if not any(self._missing(name, ()) for name in wanted):
            return False
        for name in wanted:
            self.pixels_of(self._largest(name))
        model, same = self._plain, self.configuration.model
        if same.quantized is None:
            check_model(model, [c.quant for c in self.plan.configurations if c.model is same])
        return True

    def prepare(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Embed, in one phase, what is not cached yet.

        Args:
            wanted: data set name -> taps besides the pooled features.
        """
        missing = {name: self._missing(name, taps) for name, taps in wanted.items()}
        missing = {name: arrays for name, arrays in missing.items() if arrays}
        if not missing:
            return
        plain = self._plain
        has = ("image", *plain.taps)
        missing = {name: kept for name, arrays in missing.items() if (kept := [a for a in arrays if a in has])}
        if not missing:
            return
        opened = {name: self.pixels_of(self._largest(name)) for name in missing}
        total = sum(len(self.plan.data[name]) for name in missing)
        with self.progress.phase(f"embed {self.configuration.quant.name}", total) as advance:
            for name, pixels in opened.items():
                with self.store.lock(self._image_key(name, "image")):
                    self._embed(name, [a for a in self._missing(name, wanted[name]) if a in has], pixels, advance)

    def _embed(self, name: str, arrays: Sequence[str], pixels: Pixels, advance: Advance) -> None:
        """Run the vision tower over a data set for arrays that nobody has made in the meantime."""
        if not arrays:
            advance(len(self.plan.data[name]))
            return
        others, plain = self.plan.related.get(name, ()), self._plain
        part = Part(self.plan.data[name], others, arrays, pixels, self.image_key, self.store)
        new = int(part.new.sum())
        advance(len(part.rows) - new)
        model = self.runner if new else plain  # which then is not run
        about = {"logit": np.array([plain.logit_scale, plain.logit_bias]), "rows": part.rows}
        with self.store.scratch() as room:
            features = part.features(model, self.plan.settings.batch_size, advance, room)
            for array in arrays:
                self.store.put(self._image_key(name, array), {array: features[array], **about})
        self.forward_images += new

    @property
    def _plain(self) -> ClipModel:
        """A model with this one's taps and logit scale: that of full precision, or the stored quantized one."""
        return self.holder.model if self.configuration.model.quantized is None else self.quantized[0]

    def _largest(self, name: str) -> Data:
        """The data set whose pixels are used: of those that share images with this one, the largest."""
        return max((self.plan.data[name], *self.plan.related.get(name, ())), key=len)

    def _missing(self, name: str, taps: Sequence[str]) -> list[str]:
        return [array for array in ("image", *taps) if self._image_key(name, array) not in self.store]

    def texts(self, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, NDArray[np.float32]]:
        """Features (K, D) of further texts that a task's options ask for, by name."""
        return {name: self._stored_text(self._prompt_key(prompts), prompts, None) for name, prompts in wanted.items()}

    def _stored(self, name: str, array: str) -> dict[str, NDArray[Any]]:
        """One array of a data set, with `logit` and `rows`; recomputed when the cache's copy is missing or damaged.

        A tap that the model does not have gives no array at all.
        """
        key = self._image_key(name, array)
        stored = self.store.get(key)
        if stored is None:
            self.prepare({name: () if array == "image" else (array,)})
            stored = self.store.get(key)
        if stored is None and array != "image" and array not in self.quantized[0].taps:
            return {}
        if stored is None:
            raise StorageError(f"the cache {self.store.folder} does not keep what is written to it")
        return stored

    def bank(self, name: str, taps: Sequence[str] = ()) -> FeatureBank:
        """The feature bank of a data set."""
        data = self.plan.data[name]
        stored = self._stored(name, "image")
        image, rows, (scale, bias) = stored["image"], stored["rows"], stored["logit"].tolist()
        text, class_names, label = self.classes(data, image.shape[1])
        return FeatureBank(
            dataset=name,
            image=image,
            label=label[rows],
            sample_id=data.sample_ids[rows],
            text=text,
            class_names=class_names,
            logit_scale=scale,
            logit_bias=bias,
            base_id=None if data.base_ids is None else data.base_ids[rows],
            group=None if data.groups is None else data.groups[rows],
            corruption=data.spec.corruption,
            severity=data.spec.severity,
            digest=digest([self._image_key(name, "image"), self._text_key(data)]),
            taps={tap: found[tap] for tap in taps if (found := self._stored(name, tap))},
        )

    def _image_key(self, name: str, array: str) -> str:
        return self.image_key(self.plan.data[name], array)

    def image_key(self, data: Data, array: str) -> str:
        """Content hash that names one array of a data set's features."""
        plan, configuration = self.plan, self.configuration
        tower = plan.tower_key(configuration.model, configuration.quant, "vision")
        return digest(["image", tower, data.digest, array])

    def _text_key(self, data: Data) -> str:
        tower = self.plan.tower_key(self.configuration.model, self.configuration.quant, "text")
        return digest(["text", tower, data.text_digest])

    def _prompt_key(self, prompts: tuple[str, ...]) -> str:
        tower = self.plan.tower_key(self.configuration.model, self.configuration.quant, "text")
        return digest(["text", tower, list(prompts)])

    def classes(self, data: Data, dimension: int) -> tuple[NDArray[np.float32], tuple[str, ...], NDArray[np.int64]]:
        """Class weights, class names and labels; with `text: captions` each distinct caption is a class."""
        if data.spec.text == "captions":
            captions = tuple(data.captions or ())
            names, inverse = np.unique(np.array(captions), return_inverse=True)
            prompts: tuple[str, ...] = tuple(str(name) for name in names)
            return self._stored_text(self._text_key(data), prompts, None), prompts, inverse.astype(np.int64)
        if data.spec.text == "none" or not data.class_names:
            return np.zeros((0, dimension), np.float32), (), data.labels
        weights = self._stored_text(self._text_key(data), data.class_names, data.templates)
        return weights, data.class_names, data.labels

    def _stored_text(self, key: str, names: tuple[str, ...], templates: Sequence[str] | None) -> Any:
        stored = self.store.get(key)
        if stored is None:
            model = self.runner
            with self.store.lock(key):
                stored = self.store.get(key)
                if stored is None:
                    made = embed_texts(model, names) if templates is None else embed_classes(model, names, templates)
                    stored = self.store.put(key, {"text": made})
        return stored["text"]


@dataclass(frozen=True)
class Caches:
    """Banks, pixels and calibration statistics below one folder; several processes may use it."""

    banks: ArrayStore
    pixels: PixelCache
    statistics: ArrayStore

    @classmethod
    def open(cls, folder: Path, pixel_budget: int, skip_broken: bool) -> Caches:
        """The caches below `folder`."""
        return cls(
            ArrayStore(folder / "banks"),
            PixelCache(folder / "pixels", pixel_budget, skip_broken),
            ArrayStore(folder / "statistics", STATISTICS_BUDGET),
        )

    def maker(self, plan: Plan, configuration: Configuration, holder: ModelHolder, progress: Progress) -> BankMaker:
        """A maker of a configuration's banks that uses these caches."""
        return BankMaker(plan, configuration, holder, self.banks, self.pixels, progress, self.statistics)

    @property
    def damaged(self) -> list[str]:
        """Damaged entries that were found and removed."""
        return [*self.banks.damaged, *self.statistics.damaged]
