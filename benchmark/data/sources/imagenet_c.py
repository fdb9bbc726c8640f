"""ImageNet-C as released: `<corruption>/<severity>/<wnid>/*.JPEG`."""

from __future__ import annotations

from pathlib import Path

from benchmark.data.corruption_names import COMMON, EXTRA
from benchmark.data.sources.image_folder import ImageFolder
from benchmark.errors import DataError
from benchmark.spec import DataSpec


class ImageNetC(ImageFolder):
    """An image folder for each type and severity; the groups `noise/`, `blur/`, ... of the tars may stand above.

    Sample ids are `<wnid>/<file>`, the same as those of the clean validation folders.
    """

    name = "imagenet_c"
    version = 1
    title = "ImageNet-C: <corruption>/<severity>/<wnid>/*.JPEG as released (224 x 224)"
    corruptions = (*COMMON, *EXTRA)

    def check(self, spec: DataSpec) -> None:
        """The folder of this corruption and severity is there."""
        super().check(spec)
        self.folder(spec)

    def folder(self, spec: DataSpec) -> Path:
        """The folder that holds the class folders of one type and severity."""
        root = self.root(spec) if spec.split is None else self.root(spec) / spec.split
        if spec.corruption is None:
            raise DataError("source 'imagenet_c' needs a corruption and a severity, or 'corruptions: all'")
        below = Path(spec.corruption) / str(spec.severity)
        found = [folder for folder in (root / below, *(p / below for p in sorted(root.glob("*")))) if folder.is_dir()]
        if not found:
            raise DataError(f"{root / below}: no such folder")
        return found[0]


source = ImageNetC()
