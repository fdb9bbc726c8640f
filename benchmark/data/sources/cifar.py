"""CIFAR-10 and CIFAR-100 as released: the binary version, one record of labels and pixels an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.sources.base import LoadedData, Source, SourceOptions, images_dataset
from benchmark.data.sources.cifar_c import bmp
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.files import entry, fingerprint

PIXELS = 3 * 32 * 32
FILES = {"test_batch.bin": 1, "test.bin": 2}
"""File of the test images -> labels before the pixels: CIFAR-10's has one, CIFAR-100's the coarse and the fine one."""


class Cifar(Source[SourceOptions]):
    """The test images. Sample ids are their positions, as for CIFAR-10-C and -100-C, so that the two pair.

    A record is its labels, a byte each, then 3,072 bytes: the red, the green and the blue plane, row by row (the
    authors' page). Class names come from `classes:`.
    """

    name = "cifar"
    version = 1
    title = "CIFAR-10 / -100, binary version: test_batch.bin or test.bin; ids pair with CIFAR-10-C / -100-C"
    options = SourceOptions

    def check(self, spec: DataSpec) -> None:
        """The file is there."""
        super().check(spec)
        self.file(spec)

    def fingerprint(self, spec: DataSpec) -> str:
        """Name and bytes of the file."""
        return fingerprint([entry(self.file(spec))])

    def file(self, spec: DataSpec) -> Path:
        """The file of the test images."""
        root = self.root(spec)
        found = [root / name for name in FILES if (root / name).is_file()]
        if len(found) != 1:
            raise DataError(f"{root}: expected one of {' and '.join(FILES)}, found {len(found)}")
        return found[0]

    def load(self, spec: DataSpec) -> LoadedData:
        """All test images; BMP-encoded, which loses nothing."""
        path = self.file(spec)
        size, labels = path.stat().st_size, FILES[path.name]
        if not size or size % (labels + PIXELS):
            raise DataError(f"{path}: {size:,} bytes, not a number of records of {labels + PIXELS:,}; fetch it again")
        records = np.fromfile(path, np.uint8).reshape(-1, labels + PIXELS)
        images = records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        rows: dict[str, list[Any]] = {
            "image": [{"bytes": bmp(image), "path": None} for image in images],
            "label": records[:, labels - 1].astype(np.int64).tolist(),
            "sample_id": [f"{index:05d}" for index in range(len(images))],
        }
        return LoadedData(images_dataset(rows))


source = Cifar()
