"""From a DataSpec to `Data`: labels, ids, class names and prompts, with the limit applied; nothing is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from benchmark.data import decode, prompts
from benchmark.data.corruption_names import COMMON, EXTRA, GENERATOR_VERSION
from benchmark.data.labels import check_prompts, class_names
from benchmark.data.rows import (
    check_captions,
    check_ids,
    check_inside,
    check_labels,
    take_classes,
    take_half,
    take_limit,
)
from benchmark.data.sources.base import Described, LoadedData, Source
from benchmark.errors import DataError, InputError, UnknownNameError
from benchmark.registry import Registry
from benchmark.spec import DataSpec, digest
from benchmark.utils.files import Aside

if TYPE_CHECKING:
    import datasets

LIMIT_VERSION = 2
"""Raise it when `limit` comes to choose other images."""

KEPT_TABLES = 8
"""Tables of images that stay in memory: some sources keep encoded images in them."""

_RESOLVED = frozenset({"classes", "classes_by", "allow_equal_prompts", "allow_empty_classes"})
"""Fields of which only the outcome counts: the names and labels."""

_UNSEEN = frozenset({"corruptions", "severities", "published"})
"""Fields that change nothing of a single data set."""

sources: Registry[Source[Any]] = Registry("data source", "reliquant.sources", Source)


class DataSets:
    """Data sets by specification: their files are looked at once, and equal columns and tables are shared.

    A new object looks at all files again.

    Args:
        allow_outside: whether a path inside a data file (parquet, image list) may lead out of the data's folder.
    """

    def __init__(self, allow_outside: bool = False) -> None:
        self.allow_outside = allow_outside
        self._fingerprints: dict[str, str] = {}
        self._opened: dict[str, Data] = {}
        self._tables: dict[str, LoadedData] = {}
        self._columns: WeakValueDictionary[bytes, NDArray[Any]] = WeakValueDictionary()

    def allowing(self, outside: bool) -> DataSets:
        """Itself, with another `allow_outside`."""
        self.allow_outside = outside
        return self

    def files_digest(self, spec: DataSpec) -> str:
        """Content hash of the files and of what is asked of them: the part of `Data.digest` that needs no table.

        It covers the source and its version, the files' fingerprint, split, options, limit, corruption and decoder.
        The path itself and the data set's name do not count.
        """
        source = sources.get(spec.source)
        base = _base(spec, source)
        if base.digest() not in self._fingerprints:
            source.check(base)
            self._fingerprints[base.digest()] = source.fingerprint(base)
        fingerprint = self._fingerprints[base.digest()]
        generated = [spec.corruption, spec.severity, GENERATOR_VERSION] if source.corruptions is None else None
        if spec.corruption is None:
            generated = None
        fields = base.model_dump(mode="json", exclude={*_RESOLVED, *_UNSEEN, "path", "templates"})
        fields["options"] = options = {k: v for k, v in base.options if k not in source.places}
        if isinstance(subset := options.get("subset"), str):  # what is in a file counts, not its name
            options["subset"] = list(prompts.class_names(subset))
        return digest([source.version, fingerprint, fields, generated, LIMIT_VERSION, decode.DECODER_VERSION])

    def open(self, spec: DataSpec, name: str) -> Data:
        """Open a data set; corrupted versions share the rows of their base.

        Raises:
            UnknownNameError: no such source or corruption.
            DataError: names the data set and the file, index, column, label or class that does not fit.
        """
        if spec.corruptions is not None:
            raise DataError(f"data set '{name}' is a group of corrupted versions; expand it first")
        check_data(spec, name)
        source = sources.get(spec.source)
        base = _base(spec, source)
        with _named(name):
            files = self.files_digest(spec)
            if base.digest() not in self._opened:
                self._opened[base.digest()] = _open(base, source, self)
        found = self._opened[base.digest()]
        return replace(found, name=name, spec=spec, digest=digest([files, found.digest]))

    def load(self, spec: DataSpec, source: Source[Any], images: bool = True) -> LoadedData:
        """The source's table, from memory where it was among the last ones; without images a cheaper one may do."""
        spec = _loadable(spec, source)
        key = spec.digest()
        if not images and key not in self._tables and type(source).describe is not Source.describe:
            return source.describe(spec)
        self._tables[key] = loaded = self._tables.pop(key, None) or self._loaded(spec, source)
        if len(self._tables) > KEPT_TABLES:
            del self._tables[next(iter(self._tables))]
        return loaded

    def _loaded(self, spec: DataSpec, source: Source[Any]) -> LoadedData:
        loaded = _undecoded(source.load(spec))
        if not self.allow_outside:
            check_inside(loaded.dataset, source.roots(spec))
        return loaded

    def shared(self, column: NDArray[Any]) -> NDArray[Any]:
        """The same array for equal columns: the 75 versions of a data set have the same ids and labels."""
        key = hashlib.sha256(f"{column.dtype}{column.shape}".encode() + column.tobytes()).digest()
        return self._columns.setdefault(key, column)


@dataclass(frozen=True)
class Data:
    """One data set, undecoded. It holds no images: their table is opened again when it is needed.

    Attributes:
        name: its name in the suite.
        labels: (N,) int64, indices into `class_names`, -1 out of distribution.
        groups: (N,) int64 or None; `group_names` in the order of the groups, where the source knows them.
        sample_ids: (N,) str, unique; the pairing key. base_ids: (N,) str, the picture behind each sample: what the
            source says, else the sample ids.
        class_names: C names; empty for `text: none`; the first caption of each image for `text: captions`.
        templates: prompt templates with one `{}` each.
        templates_origin: `spec`, `data`, `captions`, `none`, or `simple` where there are none and "a photo of a {}."
            is used. classes_origin: `spec`, `data`, `captions` or `none`.
        captions: the captions of each image, where the data has some; () for an image without.
        empty_classes: names of the label space without an image in the whole data set, before any limit or subset.
        left_out: files that are not among the images, with the reason.
        origin: where it comes from, for data that are not this machine's (`ORG/NAME@COMMIT`).
        equal_prompts: classes with one prompt are accepted: the suite says so, or the names are a published list's.
        digest: content hash of everything that determines images, labels and ids: the files, what is asked of them, and
            the label of each image with the name of each label, however they met. The templates do not count.
    """

    name: str
    spec: DataSpec
    labels: NDArray[np.int64] = field(repr=False)
    sample_ids: NDArray[np.str_] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    templates: tuple[str, ...] = field(repr=False)
    templates_origin: str
    classes_origin: str
    digest: str
    groups: NDArray[np.int64] | None = field(default=None, repr=False)
    group_names: tuple[str, ...] | None = None
    captions: tuple[tuple[str, ...], ...] | None = field(default=None, repr=False)
    base_ids: NDArray[np.str_] | None = field(default=None, repr=False)
    empty_classes: tuple[str, ...] = field(default=(), repr=False)
    left_out: tuple[Aside, ...] = field(default=(), repr=False)
    equal_prompts: bool = False
    origin: str | None = None
    _rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    _of: int = 0
    _sets: DataSets = field(default_factory=DataSets, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dataset(self) -> datasets.Dataset:
        """Rows in the order of `labels`; columns as in `benchmark.data.sources.base.LoadedData`."""
        source = sources.get(self.spec.source)
        table = self._sets.load(_base(self.spec, source), source).dataset
        if len(table) != self._of:
            raise DataError(f"data set '{self.name}': had {self._of} images, has {len(table)} now")
        return table if len(self._rows) == self._of else table.select(self._rows)

    def encoded(self, rows: Sequence[int]) -> list[bytes]:
        """The encoded images of some rows, in their order; a source that computes its images makes no others."""
        source, at = sources.get(self.spec.source), list(rows)
        drawn = source.draw(_loadable(_base(self.spec, source), source), self._rows[at].tolist()) if at else []
        if drawn is not None:
            return drawn
        table = self.dataset
        table = table.select_columns([c for c in ("image", "offset", "size") if c in table.column_names])
        return [decode.read_bytes(row) for row in table.with_format("arrow")[at].to_pylist()]

    @property
    def generated(self) -> bool:
        """Whether the pixel store must corrupt the images (the source does not read released files)."""
        return self.spec.corruption is not None and sources.get(self.spec.source).corruptions is None

    @property
    def clean(self) -> Data:
        """The same images without the corruption."""
        return self._sets.open(self.spec.model_copy(update={"corruption": None, "severity": None}), self.name)

    def prompts(self) -> list[list[str]]:
        """All texts: for each class one text per template."""
        return [[prompts.fill(t, name) for t in self.templates] for name in self.class_names]

    def first_captions(self, rows: Iterable[int]) -> list[str]:
        """The first caption of each of these images that has one."""
        return [texts[0] for row in rows if (texts := self.captions[row])] if self.captions is not None else []

    @property
    def classes(self) -> int:
        """Number of classes of the label space."""
        return len(self.class_names)

    @property
    def text_digest(self) -> str:
        """Content hash of what determines the class weights."""
        return digest([list(self.class_names), list(self.templates)])

    @property
    def captions_digest(self) -> str:
        """Content hash of all captions of all images."""
        return digest([list(texts) for texts in self.captions or ()])


def check_data(spec: DataSpec, name: str) -> None:
    """Check a data set's specification before any work.

    Raises:
        UnknownNameError: source, corruption, or built-in class list.
        SpecError, DataError: an unknown option, a path that does not exist, an unusable class or template list.
    """
    with _named(name):
        source = sources.get(spec.source)
        source.check(_base(spec, source))
        if spec.corruption is not None and spec.corruption not in (known := source.corruptions or (*COMMON, *EXTRA)):
            raise UnknownNameError("corruption", spec.corruption, known)
        if spec.classes is not None and spec.text == "classes":
            prompts.class_names(spec.classes)
        if spec.templates is not None and spec.text == "classes":
            prompts.templates(spec.templates)


def open_data(spec: DataSpec, name: str, allow_outside: bool = False) -> Data:
    """`DataSets.open` for one data set alone."""
    return DataSets(allow_outside).open(spec, name)


def data_digest(spec: DataSpec) -> str:
    """`Data.digest` of one data set alone."""
    return DataSets().open(spec, "data").digest


def label_digest(labels: NDArray[np.int64], names: Sequence[str]) -> str:
    """Content hash of which image has which class name."""
    return digest([hashlib.sha256(np.ascontiguousarray(labels, "<i8").tobytes()).hexdigest(), list(names)])


def expand(name: str, spec: DataSpec) -> dict[str, DataSpec]:
    """A group of corrupted versions as single specifications, `name/<type>/<severity>`; anything else as it is.

    `all` is the 15 types of ImageNet-C, `extra` all 19.

    Raises:
        UnknownNameError: an unknown corruption.
    """
    if spec.corruptions is None:
        return {name: spec}
    known = sources.get(spec.source).corruptions or (*COMMON, *EXTRA)
    chosen = {"all": COMMON, "extra": (*COMMON, *EXTRA)}.get(str(spec.corruptions), spec.corruptions)
    for corruption in chosen:
        if corruption not in known:
            raise UnknownNameError(f"data set '{name}': corruption", corruption, known)
    return {
        f"{name}/{corruption}/{severity}": spec.model_copy(
            update={"corruptions": None, "severities": (1, 2, 3, 4, 5), "corruption": corruption, "severity": severity}
        )
        for corruption in chosen
        for severity in spec.severities
    }


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the data set's name before the message of an input error."""
    try:
        yield
    except InputError as error:
        if not str(error).startswith("data set '"):
            error.args = (f"data set '{name}': {error}",)
        raise


def _base(spec: DataSpec, source: Source[Any]) -> DataSpec:
    """The specification that the source sees: without a corruption that the pixel store generates."""
    if source.corruptions is not None or spec.corruption is None:
        return spec
    return spec.model_copy(update={"corruption": None, "severity": None})


def _limits_itself(spec: DataSpec, source: Source[Any]) -> bool:
    options = source.parse(spec)
    return source.limits_itself and options.subset is None and options.half is None


def _loadable(spec: DataSpec, source: Source[Any]) -> DataSpec:
    """The specification that the source is given: with a limit only where the source applies it itself."""
    return spec if _limits_itself(spec, source) else spec.model_copy(update={"limit": None})


def _undecoded(loaded: LoadedData) -> LoadedData:
    """With images that `datasets` does not decode on access: it would let Pillow try every format it has."""
    import datasets

    if "image" not in loaded.dataset.column_names:
        return loaded
    return replace(loaded, dataset=loaded.dataset.cast_column("image", datasets.Image(decode=False)))


def _open(spec: DataSpec, source: Source[Any], sets: DataSets) -> Data:
    loaded = sets.load(spec, source, images=False)
    columns = loaded.dataset.column_names
    quick = loaded.dataset if isinstance(loaded.dataset, Described) else loaded.dataset.with_format("numpy")
    labels = np.asarray(quick["label"][:], np.int64)
    ids = np.asarray(loaded.dataset["sample_id"][:], dtype=np.str_)
    if not len(labels):
        raise DataError("has no images")
    check_ids(ids)
    found = class_names(spec, loaded)
    if found.names:
        prompts.check_classes(found.names)
        check_labels(labels, ids, loaded.class_names or found.names)
    templates, templates_origin = _templates(spec, loaded)
    equal = spec.allow_equal_prompts or loaded.settled or spec.classes in prompts.BUILT_IN_CLASSES
    check_prompts(found, templates, equal)
    labels, names, origin = found.relabelled(labels), found.names, found.origin
    empty = () if spec.limit is not None and _limits_itself(spec, source) else _empty(found.names, labels)
    options = source.parse(spec)
    rows, labels, names = take_classes(options.subset, labels, names)
    rows, labels = take_half(options.half, rows, labels, ids)
    if spec.limit is not None and not _limits_itself(spec, source):
        rows, labels = take_limit(rows, labels, ids, spec.limit, names)
    dataset = loaded.dataset if len(rows) == len(ids) else loaded.dataset.select(rows)
    captions = tuple(map(_caption_lines, dataset["caption"][:])) if "caption" in columns else None
    if spec.text == "captions":
        check_captions(captions, ids[rows], columns)
    groups = np.asarray(dataset["group"][:], np.int64) if "group" in columns else None
    bases = sets.shared(np.asarray(dataset["base_id"][:], np.str_)) if "base_id" in columns else None
    if spec.text == "captions":
        names, labels = tuple(texts[0] for texts in captions or ()), np.arange(len(rows), dtype=np.int64)
        origin = "captions"
    elif spec.text == "none":
        labels = np.full(len(rows), -1, np.int64)
    return Data(
        name="", spec=spec, labels=sets.shared(labels), sample_ids=sets.shared(ids[rows]), class_names=names,
        templates=templates, templates_origin=templates_origin, classes_origin=origin,
        digest=label_digest(labels, () if spec.text == "captions" else names), groups=groups,
        group_names=loaded.group_names, captions=captions, base_ids=bases, empty_classes=empty,
        left_out=loaded.left_out, equal_prompts=equal, origin=source.origin(spec),
        _rows=sets.shared(rows), _of=len(ids), _sets=sets,
    )  # fmt: skip


def _caption_lines(text: str | None) -> tuple[str, ...]:
    """The captions of one image: one a line, as CLIP_benchmark reads them; blank lines are none."""
    return tuple(line for line in (text or "").splitlines() if line.strip())


def _empty(names: Sequence[str], labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Names of the label space that no image has."""
    there = set(labels.tolist())
    return tuple(name for label, name in enumerate(names) if label not in there)


def _templates(spec: DataSpec, loaded: LoadedData) -> tuple[tuple[str, ...], str]:
    if spec.text != "classes":
        return (("{}",) if spec.text == "captions" else ()), spec.text
    if spec.templates is not None:
        return prompts.templates(spec.templates), "spec"
    if loaded.templates is not None:
        return tuple(prompts.normalise(template) for template in loaded.templates), "data"
    return prompts.SIMPLE, "simple"
