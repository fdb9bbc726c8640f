"""Parquet and arrow files, or a folder that `datasets` saved: any columns, named by options."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from benchmark.data.sources.base import LoadedData, Source, SourceOptions
from benchmark.data.sources.parts import check_whole, of_split
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.files import entry, fingerprint, nfc, walk

if TYPE_CHECKING:
    import datasets

IMAGE_CANDIDATES = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL_CANDIDATES = ("label", "labels", "cls")
SUFFIXES = (".parquet", ".arrow")
CAPTION_CANDIDATES = ("caption", "txt", "text")


class ColumnOptions(SourceOptions):
    """The column of each role. None: the first of the usual names that exists.

    Attributes:
        image: encoded bytes, a struct {bytes, path}, or a path (usual: image, img, jpg, jpeg, png, webp).
        label: whole numbers, a ClassLabel, or class names as text (usual: label, labels, cls); it may be missing, and
            a value null, where the data are used without classes (`text: none` or `captions`).
        group: whole numbers or names; none by default. With several columns each combination of their values is a
            group, the last column changing first (Waterbirds: `[label, place]`).
        caption: texts with one caption a line, or lists of texts (usual: caption, txt, text).
        id: unique texts or numbers; by default the position in the split.
        base: the picture behind each image (a digest, the id of the original); by default the id itself.
        shards: number of files, where their numbers do not run from 0 without a gap.
    """

    image: str | None = None
    label: str | None = None
    group: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    caption: str | None = None
    id: str | None = None
    base: str | None = None
    shards: Annotated[int, Field(ge=1)] | None = None


class Parquet(Source[ColumnOptions]):
    """`path` is a file, a folder of files, or a folder written by `save_to_disk`.

    `split` keeps the files in a folder of that name, or whose names begin with it (`test-00000-of-00001.parquet`); it
    must be given where there are several. Paths of images are relative to the file that holds them.
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
        """Names and bytes of the files."""
        root = self.root(spec)
        if root.is_file():
            return fingerprint([entry(root)])
        files = {*self.files(spec)}
        return fingerprint([e for e in walk(root, SUFFIXES) if root / e.path in files])

    def files(self, spec: DataSpec) -> list[Path]:
        """The data files in order."""
        root = self.root(spec)
        if root.is_file():
            return [root]
        names = [e.path for e in walk(root, SUFFIXES)]
        if not names:
            raise DataError(f"{root}: no *.parquet or *.arrow files")
        chosen = of_split(names, spec.split, str(root))
        check_whole(chosen, self.parse(spec).shards, str(root))
        return [root / name for name in chosen]

    def load(self, spec: DataSpec) -> LoadedData:
        """Open the files (parquet is converted once to arrow in the cache of `datasets`)."""
        paths = self.files(spec)
        with quiet_datasets():
            return from_columns(
                open_tables(paths), self.parse(spec), spec, list(dict.fromkeys(path.parent for path in paths))
            )


def open_tables(paths: Sequence[Path]) -> datasets.Dataset:
    """The rows of parquet files, or of arrow files, one after the other.

    Raises:
        DataError: names the file that cannot be read.
    """
    import datasets
    import pyarrow as pa

    kinds = {path.suffix.lower() for path in paths}
    if len(kinds) != 1:
        raise DataError(f"{paths[0].parent}: parquet and arrow files side by side; give 'split' or one file")
    try:
        if kinds == {".arrow"}:
            return datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in paths])
        # `datasets` knows a converted file by path and time; a name of its own for these bytes keeps it from an old one
        place = Path(datasets.config.HF_DATASETS_CACHE) / "reliquant" / fingerprint(map(entry, paths))[:32]
        return datasets.Dataset.from_parquet([str(path) for path in paths], cache_dir=str(place))
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


def from_columns(
    table: datasets.Dataset, options: ColumnOptions, spec: DataSpec, folders: Sequence[Path] = ()
) -> LoadedData:
    """The columns of any `datasets.Dataset` in this package's form.

    Args:
        folders: where the files lie, to which paths of images are relative.

    Raises:
        DataError: a column is missing (names those that are there), or a label (names its row).
    """
    import datasets

    have = table.column_names
    image = _column(have, "image", options.image, IMAGE_CANDIDATES)
    if image is None:
        raise DataError(f"no image column; its columns are {', '.join(have)} (option image: names one)")
    label = _column(have, "label", options.label, LABEL_CANDIDATES)
    if label is None and spec.text == "classes":
        raise DataError(
            f"no label column; its columns are {', '.join(have)} (option label: names one; data without classes say "
            "'text: none' or 'text: captions')"
        )
    caption = _column(have, "caption", options.caption, CAPTION_CANDIDATES)
    groups = (options.group,) if isinstance(options.group, str) else options.group or ()
    by = [found for name in groups if (found := _column(have, "group", name, ())) is not None]
    key = _column(have, "id", options.id, ())
    base = _column(have, "base", options.base, ())
    labels, names = _coded(table, label, complete=spec.text == "classes")
    ids = [str(v) for v in _values(table, key)] if key else [f"{row:08d}" for row in range(len(table))]
    columns: dict[str, list[Any]] = {"label": labels, "sample_id": ids}
    if base is not None:
        columns["base_id"] = [str(value) for value in table[base][:]]
    group_names = None
    if by:
        columns["group"], group_names = _combined([_coded(table, name) for name in by])
    if caption is not None:
        columns["caption"] = [_lines(value) for value in _values(table, caption)]
    images = table.select_columns([image])
    if image != "image":
        images = images.rename_column(image, "image")
    images = _beside(images.cast_column("image", datasets.Image(decode=False)), folders)
    features = datasets.Features(
        {name: datasets.Value("int64" if name in ("label", "group") else "string") for name in columns}
    )
    rest = datasets.Dataset.from_dict(columns, features=features)
    return LoadedData(datasets.concatenate_datasets([images, rest], axis=1), names, None, group_names)


def _beside(images: datasets.Dataset, folders: Sequence[Path]) -> datasets.Dataset:
    """Images that are relative paths with the folder that has them: the first, where none has."""
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc

    if not folders:
        return images
    chunks, moved = [], False
    for chunk in images.data.column("image").chunks:
        encoded = pc.struct_field(chunk, "bytes")
        if encoded.null_count == 0:
            chunks.append(chunk)
            continue
        paths = pc.struct_field(chunk, "path").to_pylist()
        lies = pc.is_valid(encoded).to_pylist()
        found = [p if p is None or inside else _place(p, folders) for p, inside in zip(paths, lies, strict=True)]
        moved = moved or found != paths
        parts = [encoded, pa.array(found, pa.string())]
        chunks.append(pa.StructArray.from_arrays(parts, ["bytes", "path"], mask=chunk.is_null()))
    if not moved:
        return images
    return datasets.Dataset(pa.table({"image": pa.chunked_array(chunks)})).cast(images.features)


def _place(path: str, folders: Sequence[Path]) -> str:
    """A path as it is where it is absolute or an address, else beside the first folder that has it."""
    tried = [folder / path for folder in folders]
    return path if "://" in path else str(next((place for place in tried if place.exists()), tried[0]))


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
    table: datasets.Dataset, column: str | None, complete: bool = False
) -> tuple[list[int], tuple[str, ...] | None]:
    """A label or group column as whole numbers, with names where the data has them.

    Args:
        complete: a null is an error; otherwise it becomes -1.
    """
    if column is None:
        return [-1] * len(table), None
    feature, values = table.features[column], [None if _is_nan(v) else v for v in _values(table, column)]
    gone = [row for row, value in enumerate(values) if value is None]
    if complete and gone:
        raise DataError(
            f"column '{column}', row {gone[0]}: no label (null; {len(gone)} of {len(values)}); remove the row, or "
            "write -1 for out of distribution"
        )
    if hasattr(feature, "names"):
        return [-1 if value is None else int(value) for value in values], _listed(feature.names)
    if all(isinstance(value, str | None) for value in values) and len(gone) < len(values):
        texts = [None if value is None else nfc(value) for value in values]
        names = tuple(sorted({text for text in texts if text is not None}))
        index = {name: number for number, name in enumerate(names)}
        return [-1 if text is None else index[text] for text in texts], names
    for row, value in enumerate(values):
        if value is not None and not (isinstance(value, int | float) and value == int(value)):
            raise DataError(f"column '{column}', row {row}: expected a whole number or a name, got {value!r}")
    return [-1 if value is None else int(value) for value in values], None


def _combined(columns: list[tuple[list[int], tuple[str, ...] | None]]) -> tuple[list[int], tuple[str, ...] | None]:
    """Groups and their names from the numbers and names of one or several columns; -1 where one of them has none."""
    numbers, names = columns[0]
    for more, others in columns[1:]:
        count = len(others) if others is not None else max(more, default=0) + 1
        numbers = [-1 if -1 in (a, b) else a * count + b for a, b in zip(numbers, more, strict=True)]
        names = tuple(f"{a}, {b}" for a in names for b in others) if names is not None and others is not None else None
    return numbers, names


def _lines(value: Any) -> str:
    """Captions of one image, one a line; "" for null."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else [value]
    one_line = isinstance(value, list)
    known = [str(text) for text in texts if text is not None and not _is_nan(text)]
    return "\n".join(" ".join(text.splitlines()) if one_line else text for text in known)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _listed(names: Sequence[str]) -> tuple[str, ...] | None:
    """Names of a ClassLabel; None for those that are its own numbers, which name nothing."""
    return None if tuple(names) == tuple(map(str, range(len(names)))) else tuple(names)


source = Parquet()
