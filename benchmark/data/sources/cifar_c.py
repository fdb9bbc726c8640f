"""CIFAR-10-C and CIFAR-100-C as released: one `<corruption>.npy` a type, five severities in blocks, `labels.npy`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.data.corruption_names import COMMON, EXTRA, SEVERITIES
from benchmark.data.sources.base import LoadedData, Source, SourceOptions, images_dataset
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.files import entry, fingerprint

LABELS = "labels.npy"


class CifarC(Source[SourceOptions]):
    """`corruption` and `severity` choose a block of rows: (severity - 1) n to severity n, n a fifth of the file.

    Sample ids are the positions in the CIFAR test set, the same for every type and severity. The released files
    are read as they are; class names come from `classes:`.
    """

    name = "cifar_c"
    version = 1
    title = "CIFAR-10-C / -100-C: <corruption>.npy (5n, 32, 32, 3) uint8, severities in blocks of n; labels.npy"
    options = SourceOptions
    corruptions = (*COMMON, *EXTRA)

    def check(self, spec: DataSpec) -> None:
        """Folder and files are there."""
        super().check(spec)
        self.files(spec)

    def fingerprint(self, spec: DataSpec) -> str:
        """Names and bytes of the two files."""
        return fingerprint([entry(path) for path in self.files(spec)])

    def files(self, spec: DataSpec) -> tuple[Path, Path]:
        """The images' file and the labels' file."""
        root = self.root(spec)
        if spec.corruption is None:
            raise DataError("source 'cifar_c' needs a corruption and a severity, or 'corruptions: all'")
        found = root / f"{spec.corruption}.npy", root / LABELS
        for path in found:
            if not path.is_file():
                raise DataError(f"{path}: no such file")
        return found

    def load(self, spec: DataSpec) -> LoadedData:
        """The block of one severity; BMP-encoded, which loses nothing."""
        images_file, labels_file = self.files(spec)
        images, labels = _read(images_file), _read(labels_file)
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or len(images) % len(SEVERITIES):
            raise DataError(f"{images_file}: expected uint8 (5n, H, W, 3), got {images.dtype} {images.shape}")
        count = len(images) // len(SEVERITIES)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) not in (count, len(images)):
            raise DataError(
                f"{labels_file}: expected {count} or {len(images)} whole numbers, got {labels.dtype} {labels.shape}"
            )
        start = (int(spec.severity or 1) - 1) * count
        chosen = labels[start : start + count] if len(labels) == len(images) else labels
        rows: dict[str, list[Any]] = {
            "image": [{"bytes": bmp(image), "path": None} for image in images[start : start + count]],
            "label": chosen.astype(np.int64).tolist(),
            "sample_id": [f"{index:05d}" for index in range(count)],
        }
        return LoadedData(images_dataset(rows))


def bmp(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 3) as the bytes of a BMP file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "BMP")
    return out.getvalue()


def _read(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a NumPy array file, or cut off ({error})") from None


source = CifarC()
