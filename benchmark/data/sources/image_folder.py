"""An image folder: `<class>/*.jpg`, or `<split>/<class>/*.jpg`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from benchmark.data import prompts
from benchmark.data.sources.base import LoadedData, Source, SourceOptions, paths_dataset
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.files import Entry, entry, fingerprint, natural, read_lines, walk

CLASS_FILE = "classnames.txt"
TEMPLATE_FILE = "zeroshot_classification_templates.txt"


class FolderOptions(SourceOptions):
    """Options of the image folder.

    Attributes:
        label_space: for folders named by WordNet id, `present` numbers the classes that are there (ImageNet-A and
            -R: 200); `imagenet` keeps ImageNet-1k's own 1,000 labels, and takes folders named by label (0 to 999) too.
    """

    label_space: Literal["present", "imagenet"] = "present"


class ImageFolder(Source[FolderOptions]):
    """Classes are the folders, sorted (names that are whole numbers by value, as ImageNet-V2 needs).

    Class names, first match: `classes:`; a file `classnames.txt` beside the folders, one name a line; for folders
    named by WordNet ids, ImageNet's names; the folders' names with `_` as blank. Templates: `templates:`, or a file
    `zeroshot_classification_templates.txt`.
    """

    name = "image_folder"
    version = 1
    title = "<class>/*.jpg or <split>/<class>/*.jpg (png, webp, bmp, tiff, ...)"
    options = FolderOptions

    def fingerprint(self, spec: DataSpec) -> str:
        """Relative paths, sizes and times of change of all images and of the text files beside them."""
        root = self.folder(spec)
        return fingerprint([*walk(root), *walk_texts(root)])

    def folder(self, spec: DataSpec) -> Path:
        """The folder that holds the class folders."""
        root = self.root(spec)
        if spec.split is not None:
            root = root / spec.split
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
        return root

    def load(self, spec: DataSpec) -> LoadedData:
        """List the images; none is opened."""
        root = self.folder(spec)
        entries = by_class(root, walk(root))
        folders = sorted({e.path.split("/")[0] for e in entries}, key=natural)
        labels, names = self.label_space(spec, folders)
        listed = optional_lines(root, CLASS_FILE)
        return LoadedData(
            dataset=paths_dataset(
                [str(root / e.path) for e in entries],
                [labels[e.path.split("/")[0]] for e in entries],
                [e.path for e in entries],
            ),
            class_names=listed or names,
            templates=optional_lines(root, TEMPLATE_FILE),
        )

    def label_space(self, spec: DataSpec, folders: list[str]) -> tuple[dict[str, int], tuple[str, ...]]:
        """Label of each folder, and the names of all labels."""
        present = {folder: label for label, folder in enumerate(folders)}
        wnids = None if isinstance(spec.classes, tuple) else prompts.wnid_labels(folders)
        if self.parse(spec).label_space == "imagenet":
            return wnids or _numbered(folders), prompts.imagenet_classes()
        if wnids is None:
            return present, tuple(folder.replace("_", " ") for folder in folders)
        return present, tuple(prompts.imagenet_classes()[wnids[folder]] for folder in folders)


def _numbered(folders: list[str]) -> dict[str, int]:
    for folder in folders:
        if not (folder.isascii() and folder.isdigit() and int(folder) < 1000):
            raise DataError(
                f"option label_space: imagenet needs folders named by WordNet id or by label 0 to 999, got '{folder}'"
            )
    return {folder: int(folder) for folder in folders}


def walk_texts(root: Path) -> list[Entry]:
    """The text files beside the class folders that this package reads."""
    return [entry(root / name) for name in (CLASS_FILE, TEMPLATE_FILE) if (root / name).is_file()]


def optional_lines(root: Path, name: str) -> tuple[str, ...] | None:
    """Lines of a text file that need not be there."""
    return read_lines(root / name) if (root / name).is_file() else None


def by_class(root: Path, entries: list[Entry]) -> list[Entry]:
    """The images that lie within class folders.

    Raises:
        DataError: there are none; says where images were found instead.
    """
    inside = [e for e in entries if "/" in e.path]
    if inside:
        return inside
    if entries:
        raise DataError(f"{root}: {len(entries)} images, but none in a class folder (<class>/image.jpg)")
    raise DataError(f"{root}: no images")


source = ImageFolder()
