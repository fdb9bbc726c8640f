"""ImageNet-1k validation in either of its layouts: `val/<wnid>/*.JPEG`, or CLIP_benchmark's shards `test/*.tar`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.data.sources import image_folder, webdataset
from benchmark.data.sources.base import LoadedData, Source, SourceOptions
from benchmark.errors import DataError
from benchmark.spec import DataSpec, digest

FOLDERS, SHARDS = "val", "test"
"""Where each layout lies below the path: class folders, or shards."""


class ImageNet(Source[SourceOptions]):
    """One copy of the images for every role that ImageNet has in a suite: equal specifications are embedded once.

    The class folders are read where they are there: their sample ids, `<wnid>/<file>`, are those of ImageNet-C. The
    shards' ids are numbers, which pair with nothing. Give it `classes: imagenet`, so that both have the same labels.
    """

    name = "imagenet"
    version = 1
    title = "ImageNet-1k validation: val/<wnid>/*.JPEG (ids pair with ImageNet-C), or CLIP_benchmark's test/*.tar"
    options = SourceOptions

    def check(self, spec: DataSpec) -> None:
        """One of the two layouts is there, and whole as far as names tell."""
        super().check(spec)
        source, own = self.layout(spec)
        source.check(own)

    def fingerprint(self, spec: DataSpec) -> str:
        """That of the layout, with the version of the source that reads it."""
        source, own = self.layout(spec)
        return digest([source.name, source.version, source.fingerprint(own)])

    def load(self, spec: DataSpec) -> LoadedData:
        """The images as the layout's own source lists them."""
        source, own = self.layout(spec)
        return source.load(own)

    def roots(self, spec: DataSpec) -> tuple[Path, ...]:
        """The folder of the layout."""
        source, own = self.layout(spec)
        return source.roots(own)

    def layout(self, spec: DataSpec) -> tuple[Source[Any], DataSpec]:
        """The source that reads what is there, and what it is asked.

        Raises:
            DataError: neither class folders nor shards.
        """
        root = self.root(spec)
        if (root / FOLDERS).is_dir():
            return image_folder.source, spec.model_copy(update={"split": FOLDERS})
        if (root / SHARDS).is_dir():
            return webdataset.source, spec.model_copy(update={"split": SHARDS})
        raise DataError(
            f"{root}: neither {FOLDERS}/<wnid>/ nor {SHARDS}/*.tar; `reliquant data fetch imagenet` gets the shards, "
            "`reliquant data prepare imagenet` makes the folders from the authors' tar"
        )


source = ImageNet()
