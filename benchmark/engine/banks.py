"""Feature banks of one configuration: from the cache, or from the model, which is loaded only when needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.bank import FeatureBank
from benchmark.data import Data
from benchmark.data.pixels import PixelCache, Pixels
from benchmark.engine import prompt_check
from benchmark.engine.artifacts import (
    Opened,
    Probe,
    check_features,
    feature_id,
    needed_texts,
    open_artifact,
    report_of,
    unit,
)
from benchmark.engine.embed import embed_classes, embed_texts, stream_features, write_features
from benchmark.engine.execution import prepared
from benchmark.engine.holding import ModelHolder, Quantized
from benchmark.engine.plan import Configuration, Plan
from benchmark.errors import StorageError
from benchmark.ledger.store import Entry, Store
from benchmark.models.base import ClipModel
from benchmark.quantization import (
    LayerState,
    QuantizationReport,
    check_model,
    quantize,
    quantize_to_graphs,
    quantize_to_store,
    quantizers,
)
from benchmark.quantization.calibration import Calibration
from benchmark.quantization.graphs.graph import Graph
from benchmark.runtimes.artifact import Artifact
from benchmark.runtimes.base import Features
from benchmark.spec import FP32, ArtifactQuant, Tower, digest
from benchmark.utils.progress import Advance, Progress

PROBE_IMAGES, PROBE_TEXTS = 16, 16
"""Images and prompts on which an artifact is compared with full precision for its report."""
STATISTICS_BUDGET = 10_000_000_000
"""Bytes of calibration statistics kept on disk; the least recently used go (GPTQ on ViT-B/32: 0.5 GB a tower)."""


@dataclass
class BankMaker:
    """Makes the feature banks of one configuration.

    Attributes:
        statistics: store of calibration statistics, shared by quantizations and runs.
        forward_images: number of images embedded by a vision tower, for tests and the summary; `images_run` has those
            of `full_precision` too.
        prompts: data set -> what the tokenizer made of its prompts (`prompt_check.examine`), once its bank was asked
            for.
    """

    plan: Plan
    configuration: Configuration
    holder: ModelHolder
    store: Store
    pixels: PixelCache
    progress: Progress
    statistics: Store | None = None
    forward_images: int = 0
    prompts: dict[str, Mapping[str, Any]] = field(default_factory=dict, init=False)
    _seen: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)
    _made: Quantized | None = field(default=None, init=False, repr=False)
    _runner: ClipModel | None = field(default=None, init=False, repr=False)
    _opened: Opened | None = field(default=None, init=False, repr=False)

    @property
    def quantized(self) -> Quantized:
        """The quantized model of this configuration, and its report; a stored quantized model is loaded unchanged.

        If there is calibration data, every report takes its probe images from it, whether the method needs it or not,
        so that the reports of all methods on one calibration set are comparable.
        """
        if self._made is None:
            self._made = self._make()
        return self._made

    def release(self) -> None:
        """Let the quantized model go; it is made again when it is needed again."""
        self._made = self._runner = self._opened = None
        if (full := self.__dict__.get("_full")) is not None:
            full.release()

    def _make(self) -> Quantized:
        if self.artifact is not None:
            return self._open_artifact(self.artifact)
        stored, settings = self.configuration.model.quantized, self.plan.settings
        if stored is not None:
            return stored.load(settings.device, settings.exact_float)
        if self.configuration.quant == FP32:  # keeping it would save nothing
            return self.quantize()
        return self.holder.quantized(self.configuration.quantized_key, self.quantize)

    @property
    def artifact(self) -> Artifact | None:
        """The artifact of this configuration; None for a quantization."""
        quant = self.configuration.quant
        return self.plan.artifacts[quant.name] if isinstance(quant, ArtifactQuant) else None

    def _open_artifact(self, artifact: Artifact) -> Quantized:
        """The model with the artifact's towers, and what they do to a few images and prompts."""
        probe = self._probe()
        with self._lent() as full:
            self._opened = self._open(artifact, full, probe)
            return self._opened.model, report_of(artifact, self._opened, full, probe)

    def _open(self, artifact: Artifact, full: ClipModel, probe: Probe) -> Opened:
        settings = self.plan.settings
        base = prepared(full, settings.precision, settings.compile)
        return open_artifact(artifact, base, settings.device.split(":")[0], probe)

    def _probe(self) -> Probe:
        """The first images of the first data set, and the first prompts."""
        names = [name for e in self.configuration.evaluations for bound in e.roles.values() for name in bound]
        pixels = self.pixels_of(self.plan.data[names[0]])
        texts = [text for name in names for text in needed_texts(self.plan.data[name])[:PROBE_TEXTS]]
        ids = [feature_id(names[0], sample) for sample in pixels.ids[:PROBE_IMAGES]]
        return Probe(next(pixels.batches(PROBE_IMAGES)), ids, texts[:PROBE_TEXTS])

    def _check_artifact(self, names: Sequence[str]) -> None:
        """Open the artifact, and find every image and text that it must have features of.

        Raises:
            ArtifactError: see `open_artifact`; or a feature is missing.
        """
        if self.artifact is None:
            return
        with self._lent() as full:
            opened = self._open(self.artifact, full, self._probe())
        data = [self.plan.data[name] for name in names]
        texts = [text for each in data for text in needed_texts(each)]
        texts += [text for e in self.configuration.evaluations for asked in e.texts.values() for text in asked]
        ids = [feature_id(each.name, sample) for each in data for sample in self.pixels_of(each).ids]
        for line in check_features(self.artifact, opened, ids, texts):
            self.progress.message(line)

    def quantize(self) -> Quantized:
        """Quantize the full-precision model."""
        means = self._means()
        with self._lent() as model:
            return quantize(model, self.configuration.quant, *means)

    @contextmanager
    def _lent(self) -> Iterator[ClipModel]:
        """Lend the full-precision model to a quantizer, or to its running layers; it must not be changed.

        Raises:
            PluginError: it was changed.
        """
        if self.configuration.model.quantized is not None or self.configuration.quant == FP32:
            yield self._plain
            return
        with self.holder.lent(f"quantization method '{self.configuration.quant.method}'") as model:
            yield model

    def quantize_to_store(self) -> tuple[ClipModel, QuantizationReport, dict[str, LayerState]]:
        """`quantize`, and the states of the replaced layers by name."""
        means = self._means()
        with self._lent() as model:
            return quantize_to_store(model, self.configuration.quant, *means)

    def quantize_to_graphs(self) -> tuple[ClipModel, QuantizationReport, dict[Tower, Graph]]:
        """`quantize`, and the towers that have become graphs of another runtime."""
        means = self._means()
        with self._lent() as model:
            return quantize_to_graphs(model, self.configuration.quant, *means)

    def _means(self) -> tuple[Calibration | None, Progress, bool, Store | None]:
        return self._calibration(), self.progress, self.plan.settings.exact_float, self.statistics

    @property
    def runner(self) -> ClipModel:
        """The quantized model, run as the settings ask: under autocast, compiled."""
        if self._runner is None:
            settings, made = self.plan.settings, self.quantized[0]
            same = self.artifact is not None  # its encoders run elsewhere, the model's own are prepared
            self._runner = made if same else prepared(made, settings.precision, settings.compile)
        return self._runner

    @property
    def in_memory(self) -> bool:
        """Whether the quantized model has been made."""
        return self._made is not None

    def _calibration(self) -> Calibration | None:
        data = self.plan.pairs_of(self.configuration.quant)
        if data is None:
            return None
        pixels = self.pixels_of(data)
        return Calibration(pixels.array, data.first_captions(pixels.rows), pixels.digest)

    def pixels_of(self, data: Data) -> Pixels:
        """The decoded images of a data set at this model's input size."""
        preprocess = self.configuration.model.preprocess
        return self.pixels.open(data, preprocess, self.progress, self.plan.settings.workers)

    def check_inputs(self, names: Iterable[str]) -> bool:
        """Decode every data set and load the model, so that their errors come before any long work.

        Returns:
            False when the caches have every bank, so that nothing needed checking.

        Raises:
            InputError: names the broken image, two classes with one prompt, or the mismatch in the checkpoint.
            QuantizationError, NonFiniteError: one of its quantizations is not possible.
        """
        wanted = sorted(names)
        if not any(self._missing(name, ()) for name in wanted):
            return False
        for name in wanted:
            self.pixels_of(self.plan.data[name])
        model, same = self._plain, self.configuration.model
        for data in (self.plan.data[name] for name in wanted):
            if self._has_classes(data):
                prompt_check.check(data, self._examined(data.text_digest, data.class_names, data.templates))
        own = [c for c in self.plan.configurations if c.model is same]
        if same.quantized is None:
            check_model(model, [c.quant for c in own if not isinstance(c.quant, ArtifactQuant)])
        for configuration in (c for c in own if isinstance(c.quant, ArtifactQuant)):
            replace(self, configuration=configuration)._check_artifact(wanted)
        return True

    def prepare(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Embed all data that is not cached yet, in one phase.

        Args:
            wanted: data set name -> taps besides the pooled features.
        """
        missing = {name: self._missing(name, taps) for name, taps in wanted.items()}
        missing = {name: arrays for name, arrays in missing.items() if arrays}
        if not missing:
            return
        has = ("image", *self._taps)
        missing = {name: kept for name, arrays in missing.items() if (kept := [a for a in arrays if a in has])}
        if not missing:
            return
        opened = {name: self.pixels_of(self.plan.data[name]) for name in missing}
        total = sum(len(self.plan.data[name]) for name in missing)
        with self.progress.phase(f"embed {self.configuration.quant.name}", total) as advance:
            for name, pixels in opened.items():
                with self.store.lock(self._image_key(name, "image")):
                    self._embed(name, [a for a in self._missing(name, wanted[name]) if a in has], pixels, advance)

    def _embed(self, name: str, arrays: Sequence[str], pixels: Pixels, advance: Advance) -> None:
        """Run the vision tower over a data set for arrays that no other process has stored meanwhile."""
        if not arrays:
            advance(len(self.plan.data[name]))
            return
        if self._given is not None:
            self._store_given(self._given, name, arrays, pixels)
            advance(len(pixels))
            return
        model = self.runner
        control = self.artifact is None and quantizers.get(self.configuration.quant.method).kind == "control"
        scaled = self.quantized[0] if control else self._plain
        with ExitStack() as entries:
            writers = {a: entries.enter_context(self.store.writing(self._image_key(name, a))) for a in arrays}
            for writer in writers.values():
                writer.add("logit", np.array([scaled.logit_scale, scaled.logit_bias]))
                writer.add("rows", pixels.rows)
            with self._lent():
                batches = pixels.batches(self.plan.settings.batch_size)
                outputs = stream_features(model, batches, advance, [a for a in arrays if a != "image"])
                write_features(outputs, len(pixels), arrays, lambda a, shape: writers[a].room(a, shape))
        self.forward_images += len(pixels)

    @property
    def _given(self) -> Features | None:
        """Features of images that were made elsewhere, where the artifact has them."""
        return self._opened.given if self.quantized and self._opened else None

    def _store_given(self, given: Features, name: str, arrays: Sequence[str], pixels: Pixels) -> None:
        """The features of a data set, by its images' ids, in the place of a forward pass."""
        data, plain = self.plan.data[name], self._plain
        rows = np.flatnonzero(np.isin(data.sample_ids, pixels.ids))
        features = unit(given.of([feature_id(name, sample) for sample in data.sample_ids[rows]]))
        for array in arrays:
            with self.store.writing(self._image_key(name, array)) as writer:
                writer.add("logit", np.array([plain.logit_scale, plain.logit_bias]))
                writer.add("rows", rows)
                writer.add(array, features)

    @property
    def _taps(self) -> Sequence[str]:
        """Taps of the image tower: none where an artifact or a quantized graph takes its place."""
        quant = self.configuration.quant
        if "vision" not in quant.towers:
            return tuple(self._plain.taps)
        keeps = self.artifact is None and quantizers.get(quant.method).keeps_taps
        return tuple(self._plain.taps) if keeps else ()

    @property
    def _plain(self) -> ClipModel:
        """The full-precision model, or the stored quantized one: it has the same taps, and the same logit scale too
        unless this is a control.
        """
        return self.holder.model if self.configuration.model.quantized is None else self.quantized[0]

    def _missing(self, name: str, taps: Sequence[str]) -> list[str]:
        return [array for array in ("image", *taps) if self._image_key(name, array) not in self.store]

    def texts(self, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, NDArray[np.float32]]:
        """Features (K, D) of further texts that a task's options ask for, by name."""
        keys = {name: self._prompt_key(prompts) for name, prompts in wanted.items()}
        return {name: self._stored_text(keys[name], prompts, None)["text"] for name, prompts in wanted.items()}

    def _stored(self, name: str, array: str) -> dict[str, NDArray[Any]]:
        """One array of a data set, with `logit` and `rows`; recomputed when the cache's copy is missing or damaged.

        A tap that the model lacks gives no array.
        """
        key = self._image_key(name, array)
        stored = self.store.get(key)
        if stored is None:
            self.prepare({name: () if array == "image" else (array,)})
            stored = self.store.get(key)
        if stored is None and array != "image" and array not in self._taps:
            return {}
        if stored is None:
            raise StorageError(f"cache {self.store.folder}: written entries disappear. Check the file system.")
        return stored

    @property
    def full_precision(self) -> BankMaker | None:
        """The maker of the same model's banks in full precision; None for a model that was stored quantized."""
        return self if self.configuration.quant == FP32 else self._full  # itself is not kept: a cycle keeps the model

    @cached_property
    def _full(self) -> BankMaker | None:
        same = (c for c in self.plan.configurations if c.model is self.configuration.model and c.quant == FP32)
        full = next(same, None)
        return None if full is None else replace(self, configuration=full, forward_images=0)

    @property
    def images_run(self) -> int:
        """Images embedded here by either model."""
        full = self.full_precision
        return self.forward_images + (0 if full is None or full is self else full.forward_images)

    def bank(self, name: str, taps: Sequence[str] = (), captions: bool = False) -> FeatureBank:
        """The feature bank of a data set. Args: captions: with the features of all its captions."""
        data = self.plan.data[name]
        stored = self._stored(name, "image")
        image, rows, (scale, bias) = stored["image"], stored["rows"], stored["logit"].tolist()
        text, class_names, label = self.classes(data, image.shape[1])
        caption, caption_image = self._captions(data, rows) if captions else (None, None)
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
            caption=caption,
            caption_image=caption_image,
        )

    def _captions(self, data: Data, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Features (P, D) of all captions of these images, each distinct text embedded once, and (P,) their images."""
        of_images = [(data.captions or ())[row] for row in rows]
        every = [text for texts in of_images for text in texts]
        prompts = tuple(sorted(set(every)))
        stored = self._stored_text(self._prompt_key(prompts), prompts, None)
        self.prompts.setdefault(data.name, stored.info)
        place = {text: at for at, text in enumerate(prompts)}
        image = np.repeat(np.arange(len(rows)), [len(texts) for texts in of_images])
        return stored["text"][[place[text] for text in every]], image

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
            names, inverse = np.unique(np.array(data.class_names), return_inverse=True)
            prompts: tuple[str, ...] = tuple(str(name) for name in names)
            stored = self._stored_text(self._text_key(data), prompts, None)
            self.prompts[data.name] = stored.info
            return stored["text"], prompts, inverse.astype(np.int64)
        if not self._has_classes(data):
            return np.zeros((0, dimension), np.float32), (), data.labels
        stored = self._stored_text(self._text_key(data), data.class_names, data.templates)
        prompt_check.check(data, stored.info)
        self.prompts[data.name] = stored.info
        return stored["text"], data.class_names, data.labels

    @staticmethod
    def _has_classes(data: Data) -> bool:
        return data.spec.text == "classes" and bool(data.class_names)

    def _examined(self, key: str, names: tuple[str, ...], templates: Sequence[str] | None) -> dict[str, Any]:
        """What the tokenizer makes of prompts; once for each of them."""
        if key not in self._seen:
            self._seen[key] = prompt_check.examine(self._plain, names, templates)
        return self._seen[key]

    def _stored_text(self, key: str, names: tuple[str, ...], templates: Sequence[str] | None) -> Entry:
        stored = self.store.get(key)
        if stored is None:
            model = self.runner
            with self.store.lock(key):
                stored = self.store.get(key)
                if stored is None:
                    made = self._embed_prompts(model, names, templates)
                    about = self._examined(digest([list(names), list(templates or ())]), names, templates)
                    stored = self.store.put(key, {"text": made}, about)
        return stored

    def _embed_prompts(
        self, model: ClipModel, names: tuple[str, ...], templates: Sequence[str] | None
    ) -> NDArray[np.float32]:
        """Features of texts, or of class names in every template; 80,000 prompts take minutes: they show progress."""
        count = len(names) * (1 if templates is None else len(templates))
        with self.progress.phase(f"embed prompts {self.configuration.quant.name}", count) as advance, self._lent():
            if templates is None:
                return embed_texts(model, names, advance)
            return embed_classes(model, names, templates, advance)


@dataclass(frozen=True)
class Caches:
    """Banks, pixels and calibration statistics below one folder; several processes may use it."""

    banks: Store
    pixels: PixelCache
    statistics: Store

    @classmethod
    def open(cls, folder: Path, pixel_budget: int, skip_broken: bool) -> Caches:
        """The caches below `folder`."""
        return cls(
            Store(folder / "banks"),
            PixelCache(folder / "pixels", pixel_budget, skip_broken),
            Store(folder / "statistics", STATISTICS_BUDGET),
        )

    def maker(self, plan: Plan, configuration: Configuration, holder: ModelHolder, progress: Progress) -> BankMaker:
        """A maker of a configuration's banks that uses these caches."""
        return BankMaker(plan, configuration, holder, self.banks, self.pixels, progress, self.statistics)

    @property
    def damaged(self) -> list[str]:
        """Damaged entries that were found and removed."""
        return [*self.banks.damaged, *self.pixels.store.damaged, *self.statistics.damaged]
