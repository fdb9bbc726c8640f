"""Features that were made elsewhere: on a phone, by TensorRT, Core ML, LiteRT, or by a service.

An `.npz` file holds `image_id` (N,) and `image` (N, D), and for the text tower `text_id` (T,), the prompts, and `text`
(T, D). A parquet file has a column `image_id` or `text_id` and a column `feature` of lists.
`reliquant artifact inputs` writes the ids, the pixels and the prompts. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import ArtifactError
from benchmark.runtimes.base import Features, FeatureTable, checked

NPZ, PARQUET = ".npz", ".parquet"
KINDS = ("image", "text")
COLUMN = "feature"
"""The parquet column with the features."""
_FORM = "image_id (N,) with image (N, width), text_id (T,) with text (T, width)"


@dataclass(frozen=True)
class FeatureFiles(FeatureTable):
    """Features in `.npz` and parquet files."""

    def files(self, path: Path) -> tuple[Path, ...]:
        """The file alone."""
        return (checked(path),)

    def kinds(self, path: Path) -> tuple[str, ...]:
        """By the names of arrays or columns."""
        names = _names(checked(path))
        found = tuple(kind for kind in KINDS if f"{kind}_id" in names or kind in names)
        if not found:
            raise ArtifactError(f"{path}: it holds {', '.join(sorted(names)[:8]) or 'nothing'}; expected {_FORM}.")
        return found

    def read(self, path: Path) -> Mapping[str, Features]:
        """Features by kind, checked one by one: ids, shapes, types and values."""
        kinds = self.kinds(path)
        arrays = _npz(path) if path.suffix == NPZ else _parquet(path)
        found = {}
        for kind in kinds:
            for name, other in ((f"{kind}_id", kind), (kind, f"{kind}_id")):
                if name not in arrays:
                    raise ArtifactError(f"{path}: it has '{other}' but no '{name}'. Write both: {_FORM}.")
            found[kind] = _features(arrays[f"{kind}_id"], arrays[kind], f"{path}: {kind}", kind)
        return found


runtime = FeatureFiles(
    name="features",
    version=1,
    title="features made elsewhere, by id (.npz, parquet)",
    suffixes=(NPZ, PARQUET),
    runs_on=("cpu", "cuda"),
)


def _names(path: Path) -> set[str]:
    """Names of a file's arrays or columns."""
    if path.suffix != NPZ:
        return set(_open_parquet(path).schema_arrow.names)
    with _open_npz(path) as stored:
        return set(stored.files)


@contextmanager
def _open_npz(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not hasattr(stored, "files"):
                raise ArtifactError(f"{path}: it is a single array, not an .npz file; expected {_FORM}.")
            with stored:
                yield stored
    except (ValueError, OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise ArtifactError(
                f"{path}: it holds Python objects, which are never read. Write ids as text: np.array(ids, dtype=str)."
            ) from error
        raise ArtifactError(f"{path}: not an .npz file: {error}") from error


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    with _open_npz(path) as stored:
        return {name: stored[name] for name in stored.files}


def _open_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path}: not a parquet file: {error}") from error


def _parquet(path: Path) -> dict[str, NDArray[Any]]:
    import pyarrow as pa

    stored = _open_parquet(path)
    kinds = [kind for kind in KINDS if f"{kind}_id" in stored.schema_arrow.names]
    if len(kinds) != 1 or COLUMN not in stored.schema_arrow.names:
        raise ArtifactError(
            f"{path}: it has the columns {', '.join(stored.schema_arrow.names[:8])}; expected 'image_id' or 'text_id', "
            f"and '{COLUMN}' with lists of numbers."
        )
    name = f"{kinds[0]}_id"
    table = stored.read([name, COLUMN])
    rows, ids = table.column(COLUMN), table.column(name)
    if ids.null_count or rows.null_count:
        raise ArtifactError(f"{path}: {ids.null_count + rows.null_count} values are missing. Fill in every row.")
    lists = rows.type
    if not (pa.types.is_list(lists) or pa.types.is_large_list(lists) or pa.types.is_fixed_size_list(lists)):
        raise ArtifactError(f"{path}: column '{COLUMN}' is {lists}, expected lists of float32.")
    widths = sorted({len(row) for chunk in rows.chunks for row in chunk})
    if len(widths) != 1:
        raise ArtifactError(f"{path}: features have {widths or 'no'} numbers, expected one width.")
    values = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in rows.chunks])
    return {name: np.array(ids.to_pylist()), kinds[0]: values.reshape(-1, widths[0])}


def _features(ids: NDArray[Any], features: NDArray[Any], where: str, kind: str) -> Features:
    if ids.ndim != 1 or ids.dtype.kind not in "US":
        raise ArtifactError(f"{where}_id: {ids.dtype} {ids.shape}, expected texts (N,), as np.array(ids, dtype=str).")
    if features.ndim != 2 or features.dtype.kind != "f":
        raise ArtifactError(f"{where}: {features.dtype} {features.shape}, expected float32 (N, width).")
    if len(ids) != len(features):
        raise ArtifactError(f"{where}: {len(features)} features for {len(ids)} ids. Write one feature an id.")
    names = [name.decode("utf-8", "replace") for name in ids] if ids.dtype.kind == "S" else ids.tolist()
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) < len(names):
        twice = next(name for row, name in enumerate(names) if rows[name] != row)
        raise ArtifactError(
            f"{where}_id: {len(names) - len(rows)} ids stand twice, first '{twice}'. Write one feature an id."
        )
    with np.errstate(over="ignore"):
        single = np.asarray(features, np.float32)
    broken = np.flatnonzero(~np.isfinite(single).all(1))
    if len(broken):
        raise ArtifactError(
            f"{where}: {len(broken)} features hold NaN or infinity, first '{names[broken[0]]}'. Make them again."
        )
    zero = np.flatnonzero(~single.any(1))
    if len(zero):
        raise ArtifactError(f"{where}: {len(zero)} features are all zeros, first '{names[zero[0]]}'. Make them again.")
    half = f"{where} features are float16: their rounding is part of what is measured"
    return Features(single, rows, where, kind, (half,) if features.dtype == np.float16 else ())
