"""The contract of a data source: from a DataSpec to a `datasets.Dataset`, and a fingerprint that costs no decoding.

A package adds a source with an entry point in the group `reliquant.sources` that names a `Source` object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from benchmark.errors import DataError, UnknownNameError
from benchmark.spec import ClassList, DataSpec, Frozen, parse_spec
from benchmark.utils.files import Aside, escaped, resolve

if TYPE_CHECKING:
    import datasets

IMAGE_COLUMNS = ("image", "label", "sample_id")
"""Columns that every loaded data set has; `base_id`, `group`, `caption`, `offset` and `size` may come with them."""


class SourceOptions(Frozen):
    """Options that every source takes.

    Attributes:
        subset: keep only the images of these classes, by name, and renumber the labels in this order; a list of
            names or a text file with one name a line.
        half: keep half `a` or `b`, divided by a hash of the sample id alone; a search uses `a` for validation and `b`
            for the test.
    """

    subset: ClassList | None = None
    half: Literal["a", "b"] | None = None


@dataclass(frozen=True)
class Described:
    """A table without images that stands for a `datasets.Dataset`, whose import costs a second.

    Args:
        columns: name -> one value a row, all of one length; the names are those of `LoadedData.dataset`.
    """

    columns: Mapping[str, Sequence[Any]]

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Sequence[Any]:
        return self.columns[name]

    def select(self, rows: Sequence[int]) -> Described:
        """Some rows, in their order."""
        return Described({name: [values[row] for row in rows] for name, values in self.columns.items()})


@dataclass(frozen=True)
class LoadedData:
    """The data that a source loaded.

    Attributes:
        dataset: columns `image` (feature `datasets.Image`: encoded bytes or a path, which only
            `benchmark.data.decode` decodes), `label` int64 (-1: out of
            distribution), `sample_id` str (unique), perhaps `base_id` str (the picture behind a sample: equal for all
            its versions and wherever it appears again, so a content digest where the source has one cheaply),
            `group` int64 and `caption` str (one caption a line, "" for an image without). Images that lie inside
            a tar archive also have `offset` and `size` (int64, bytes within the file that the image's path names).
        class_names: names in the order of the labels; None where the data brings none.
        class_keys: what marks each class in the data where that is another text than its name (a folder `bee_fly`, a
            WordNet id), in the same order.
        listed: names that come with the data in a list (`classnames.txt`) and meet `class_names` by name; where a
            suite gives `classes:`, those do instead.
        settled: the names are a published list that the suite did not replace: they may repeat ("missile" is twice
            in ImageNet's), and `classes:` is already in them.
        left_out: files that are not among the images, with the reason; they are counted and said.
        templates: prompt templates with one `{}` each; None where the data brings none.
        group_names: names in the order of the groups.
    """

    dataset: datasets.Dataset
    class_names: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None
    group_names: tuple[str, ...] | None = None
    class_keys: tuple[str, ...] | None = None
    listed: tuple[str, ...] | None = None
    settled: bool = False
    left_out: tuple[Aside, ...] = ()


Options = TypeVar("Options", bound=SourceOptions)


class Source(ABC, Generic[Options]):
    """A kind of data source. Subclass it, make one object, and name that object in the entry point.

    Attributes:
        name: the `source:` of a DataSpec; equals the name of the entry point.
        version: raise it when images, labels, ids or their order can change; part of every data digest.
        title: one line for `list data`.
        options: pydantic model of the source's own fields under `options:`.
        corruptions: names of the corruptions that the source reads from released files; None: the pixel store
            generates them.
        limits_itself: `load` applies `spec.limit` (the prefix of a longer data set must be the same images).
        needs_path: `spec.path` must be given and exist.
        places: options that only say where files lie; like the path they do not count in the data digest.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    title: ClassVar[str] = ""
    options: type[Options]
    corruptions: ClassVar[tuple[str, ...] | None] = None
    limits_itself: ClassVar[bool] = False
    needs_path: ClassVar[bool] = True
    places: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def load(self, spec: DataSpec) -> LoadedData:
        """The images, undecoded.

        Raises:
            DataError: names the file, index or column that does not fit.
        """

    def describe(self, spec: DataSpec) -> LoadedData:
        """Like `load`, but a source that computes its images may leave out the column `image`, or give `Described`."""
        return self.load(spec)

    def draw(self, spec: DataSpec, rows: Sequence[int]) -> list[bytes] | None:
        """The encoded images of some rows of `load(spec)`, for a source that computes its images.

        None: they are read from the table.
        """
        return None

    @abstractmethod
    def fingerprint(self, spec: DataSpec) -> str:
        """Content fingerprint without decoding: changes when a file is added, removed, renamed or its bytes change."""

    def origin(self, spec: DataSpec) -> str | None:
        """Where the data come from as the records name it (`ORG/NAME@COMMIT`), for data that are not this machine's."""
        return None

    def check(self, spec: DataSpec) -> None:
        """Check before any work that the options are valid and the path exists.

        Raises:
            SpecError: an unknown or wrong option.
            DataError: no path, or nothing there.
        """
        self.parse(spec)
        if self.needs_path:
            self.root(spec)
        if self.corruptions is not None and spec.corruption is not None and spec.corruption not in self.corruptions:
            raise UnknownNameError("corruption", spec.corruption, self.corruptions)

    def parse(self, spec: DataSpec) -> Options:
        """The source's options, validated."""
        return parse_spec(self.options, dict(spec.options), f"source '{self.name}': options")

    def roots(self, spec: DataSpec) -> tuple[Path, ...]:
        """The folders below which the data's files lie; none: they lie anywhere."""
        if spec.path is None or not self.needs_path:
            return ()
        root = self.root(spec)
        return (root if root.is_dir() else root.parent,)

    def root(self, spec: DataSpec) -> Path:
        """The existing path of a specification, with `~` and `$VARIABLES` expanded."""
        if spec.path is None:
            raise DataError(f"source '{self.name}': 'path' is missing")
        return resolve(spec.path)


def paths_dataset(paths: list[str], labels: list[int], ids: list[str], **columns: list[Any]) -> datasets.Dataset:
    """A data set of image files, by absolute path; nothing is read. Names that are not UTF-8 are `escaped`.

    Args:
        columns: `base_id` (texts), `group` (ints), `caption` (texts), `offset` and `size` (ints).
    """
    rows: dict[str, list[Any]] = {
        "image": [{"bytes": None, "path": escaped(path)} for path in paths],
        "label": labels,
        "sample_id": [escaped(name) for name in ids],
        **columns,
    }
    return images_dataset(rows)


def images_dataset(rows: dict[str, list[Any]]) -> datasets.Dataset:
    """A data set from columns; `image` holds `{"bytes": ..., "path": ...}`."""
    import datasets

    kinds = {"label": "int64", "sample_id": "string", "base_id": "string", "group": "int64", "caption": "string"}
    features: dict[str, Any] = {"image": datasets.Image(decode=False)}
    for name in rows:
        if name != "image":
            features[name] = datasets.Value(kinds.get(name, "int64"))
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))
