"""Parquet and arrow files, or a folder that `datasets` saved: any columns, named by options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.data.sources.base import LoadedData, Source, SourceOptions
from benchmark.errors import DataError, UnknownNameError
from benchmark.spec import DataSpec
from benchmark.utils.files import entry, fingerprint, walk

if TYPE_CHECKING:
    import datasets

IMAGE_CANDIDATES = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL_CANDIDATES = ("label", "labels", "cls")
CAPTION_CANDIDATES = ("caption", "txt", "text")


class ColumnOptions(SourceOptions):
    """The column of each role. None: the first of the usual names that exists.

    Attributes:
        image: encoded bytes, a struct {bytes, path}, or a path (usual: image, img, jpg, jpeg, png, webp).
        label: whole numbers, a ClassLabel, or class names as text (usual: label, labels, cls); no such column: -1.
        group: whole numbers or names; none by default.
        caption: texts (usual: caption, txt, text).
        id: unique texts or numbers; by default the position in the split.
        base: the picture behind each image (a digest, the id of the original); by default the id itself.
    """

    image: str | None = None
    label: str | None = None
    group: str | None = None
    caption: str | None = None
    id: str | None = None
    base: str | None = None


class Parquet(Source[ColumnOptions]):
    """`path` is a file, a folder of files, or a folder written by `save_to_disk`.

    Paths of images in a column are relative to that folder.

    `split` keeps the files in a folder of that name, or whose names begin with it (`test-00000-of-00001.parquet`).
    """

    name = "parquet"
    version = 2
    title = "parquet or arrow files; options image, label, group, caption, id name the columns"
    options = ColumnOptions

    def check(self, spec: DataSpec) -> None:
        """Path, files, and the columns that the options name."""
        super().check(spec)
        self.files(spec)

    def fingerprint(self, spec: DataSpec) -> str:
        """Names, sizes and times of change of the files."""
        root = self.root(spec)
        if root.is_file():
            return fingerprint([entry(root)])
        return fingerprint([e for e in walk(root, None) if root / e.path in self.files(spec)])

    def files(self, spec: DataSpec) -> list[Path]:
        """The data files in order."""
        root = self.root(spec)
        if root.is_file():
            return [root]
        names = [e.path for e in walk(root, (".parquet", ".arrow"))]
        if not names:
            raise DataError(f"{root}: no *.parquet or *.arrow files")
        chosen = [n for n in names if spec.split is None or _in_split(n, spec.split)]
        if not chosen:
            raise DataError(f"{root}: no file of split '{spec.split}' among {', '.join(names[:8])}")
        return [root / name for name in chosen]

    def load(self, spec: DataSpec) -> LoadedData:
        """Open the files (parquet is converted once to arrow in the cache of `datasets`)."""
        paths = self.files(spec)
        root = self.root(spec)
        with quiet_datasets():
            loaded = from_columns(_open(paths), self.parse(spec), spec)
            return replace(loaded, dataset=_anchored(loaded.dataset, root if root.is_dir() else root.parent))


def _anchored(table: datasets.Dataset, root: Path) -> datasets.Dataset:
    """The table with relative paths of images below `root`, wherever the command runs."""
    relative = False
    for chunk in table.data.column("image").chunks:
        held = chunk.field("bytes").is_valid().to_pylist()
        paths = chunk.field("path").to_pylist()
        relative = relative or any(path and not own and path[0] != "/" for path, own in zip(paths, held, strict=True))
    if not relative:
        return table
    images = table.select_columns(["image"]).with_format("arrow")[:]["image"].to_pylist()
    for image in images:
        if image is not None and image["bytes"] is None and image["path"]:
            image["path"] = str(root / image["path"])
    feature = table.features["image"]
    return table.remove_columns("image").add_column("image", images, feature=feature)


def _in_split(name: str, split: str) -> bool:
    parts = name.split("/")
    stem = parts[-1]
    return split in parts[:-1] or (stem.startswith(split) and not stem[len(split)].isalnum())


def _open(paths: Sequence[Path]) -> datasets.Dataset:
    import datasets
    import pyarrow as pa

    kinds = {path.suffix.lower() for path in paths}
    if len(kinds) != 1:
        raise DataError(f"{paths[0].parent}: parquet and arrow files side by side; give 'split' or one file")
    try:
        if kinds == {".arrow"}:
            return datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in paths])
        return datasets.Dataset.from_parquet([str(path) for path in paths])
    except (OSError, ValueError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        where = paths[0] if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} files)"
        raise DataError(f"{where}: cannot be read ({str(cause).splitlines()[0]})") from None


@contextlib.contextmanager
def quiet_datasets() -> Iterator[None]:
    """Without the progress bars of `datasets`: this package draws its own."""
    import datasets

    shown = datasets.utils.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def from_columns(table: datasets.Dataset, options: ColumnOptions, spec: DataSpec) -> LoadedData:
    """The columns of any `datasets.Dataset` in this package's form.

    Raises:
        DataError: a column is missing; names those that are there.
    """
    import datasets

    have = table.column_names
    image = _column(have, "image", options.image, IMAGE_CANDIDATES)
    if image is None:
        raise DataError(f"no image column; its columns are {', '.join(have)} (option image: names one)")
    label = _column(have, "label", options.label, LABEL_CANDIDATES)
    caption = _column(have, "caption", options.caption, CAPTION_CANDIDATES)
    group = _column(have, "group", options.group, ())
    key = _column(have, "id", options.id, ())
    base = _column(have, "base", options.base, ())
    labels, names = _coded(table, label, spec.classes if isinstance(spec.classes, tuple) else None)
    ids = [str(v) for v in _values(table, key)] if key else [f"{row:08d}" for row in range(len(table))]
    columns: dict[str, list[Any]] = {"label": labels, "sample_id": ids}
    if base is not None:
        columns["base_id"] = [str(value) for value in table[base][:]]
    group_names = None
    if group is not None:
        columns["group"], group_names = _coded(table, group, None)
    if caption is not None:
        columns["caption"] = [str(text) for text in _values(table, caption)]
    images = table.select_columns([image])
    if image != "image":
        images = images.rename_column(image, "image")
    images = images.cast_column("image", datasets.Image(decode=False))
    features = datasets.Features(
        {name: datasets.Value("int64" if name in ("label", "group") else "string") for name in columns}
    )
    rest = datasets.Dataset.from_dict(columns, features=features)
    return LoadedData(datasets.concatenate_datasets([images, rest], axis=1), names, None, group_names)


def _column(have: list[str], role: str, wanted: str | None, usual: tuple[str, ...]) -> str | None:
    if wanted is None:
        return next((name for name in usual if name in have), None)
    if wanted not in have:
        raise DataError(f"no column '{wanted}' (option {role}); its columns are {', '.join(have)}")
    return wanted


def _values(table: datasets.Dataset, column: str) -> list[Any]:
    """A column as it is stored: the file says what type it is, and `datasets` would decode images and sounds."""
    return list(table.select_columns([column]).with_format("arrow")[:][column].to_pylist())


def _coded(
    table: datasets.Dataset, column: str | None, classes: tuple[str, ...] | None
) -> tuple[list[int], tuple[str, ...] | None]:
    """A label or group column as whole numbers, with names where the data has them."""
    if column is None:
        return [-1] * len(table), None
    feature, values = table.features[column], _values(table, column)
    if hasattr(feature, "names"):
        return [int(v) if v is not None else -1 for v in values], tuple(feature.names)
    kind = np.asarray(values).dtype.kind
    if kind in "iub":
        return [int(v) for v in values], None
    if kind != "U":
        raise DataError(f"column '{column}': expected whole numbers or names, got {feature}")
    names = classes or tuple(sorted(set(values)))
    index = {name: number for number, name in enumerate(names)}
    for row, value in enumerate(values):
        if value not in index:
            raise UnknownNameError(f"class (column '{column}', row {row})", value, names)
    return [index[value] for value in values], names


source = Parquet()
