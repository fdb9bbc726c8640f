"""An image folder: `<class>/*.jpg`, or `<split>/<class>/*.jpg`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.data import prompts
from benchmark.data.labels import matched, split_names
from benchmark.data.sources.base import LoadedData, Source, SourceOptions, paths_dataset
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.files import (
    JUNK,
    Aside,
    Entry,
    entry,
    fingerprint,
    list_images,
    natural,
    nfc,
    read_lines,
    read_names,
)

CLASS_FILE = "classnames.txt"
TEMPLATE_FILE = "zeroshot_classification_templates.txt"


class FolderOptions(SourceOptions):
    """Options of the image folder.

    Attributes:
        label_space: for folders named by WordNet id, `present` numbers the classes that are there (ImageNet-A and
            -R: 200); `imagenet` keeps ImageNet-1k's own 1,000 labels, and takes folders named by label (0 to 999) too.
            By default `imagenet` where the suite says `classes: imagenet`, otherwise `present`.
    """

    label_space: Literal["present", "imagenet"] | None = None


class ImageFolder(Source[FolderOptions]):
    """Classes are the folders, sorted (names that are whole numbers by value, as ImageNet-V2 needs).

    A folder's name with `_` as blank is its class name; of folders named by WordNet ids, ImageNet's. A list, in
    `classes:` or in a file `classnames.txt` beside the folders, meets them by name; it is then the label space, also
    where a folder is missing. Templates: `templates:`, or a file `zeroshot_classification_templates.txt`.
    With `text: none` or `captions` images may lie anywhere below the folder.
    """

    name = "image_folder"
    version = 2
    title = "<class>/* or <split>/<class>/*: jpg, png, webp, bmp, gif, tiff, avif, recognised by content"
    options = FolderOptions

    def fingerprint(self, spec: DataSpec) -> str:
        """Relative paths and bytes of all images and of the text files beside them."""
        root = self.folder(spec)
        return fingerprint([*list_images(root)[0], *walk_texts(root)])

    def folder(self, spec: DataSpec) -> Path:
        """The folder that holds the class folders."""
        root = self.root(spec)
        if spec.split is not None:
            root = root / spec.split
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
        return root

    def load(self, spec: DataSpec) -> LoadedData:
        """List the images.

        Raises:
            DataError: there are none; the folders are splits; a class folder has lost all its images.
        """
        root = self.folder(spec)
        entries, asides = list_images(root)
        asides = [aside for aside in asides if aside.path not in (CLASS_FILE, TEMPLATE_FILE)]
        check_splits(root, entries, spec)
        listed = optional_names(root, CLASS_FILE)
        entries, beside = by_class(root, entries, asides, spec.text)
        asides += [Aside(e.path, "image in no class folder") for e in beside]
        folders = self.class_folders(spec, root, entries, asides, listed)
        space = self.label_space(spec, folders)
        return LoadedData(
            dataset=paths_dataset(
                [str(root / e.path) for e in entries],
                [space.labels.get(class_of(e.path), -1) for e in entries],
                [e.path for e in entries],
            ),
            class_names=space.names,
            class_keys=space.keys,
            listed=listed,
            settled=space.published and (spec.classes == "imagenet" or (spec.classes is None and listed is None)),
            templates=optional_lines(root, TEMPLATE_FILE),
            left_out=tuple(asides),
        )

    def class_folders(
        self, spec: DataSpec, root: Path, entries: list[Entry], asides: list[Aside], listed: tuple[str, ...] | None
    ) -> list[str]:
        """Names of the class folders in the order of their labels.

        Raises:
            DataError: one has no image, or all of its files are left out, and the suite does not allow that.
        """
        present = {class_of(e.path) for e in entries if "/" in e.path}
        if spec.text != "classes":
            return sorted(present, key=natural)
        given = prompts.class_names(spec.classes) if spec.classes is not None else listed
        kept = set(present)
        for folder in sorted(set(map(nfc, subfolders(root))) - present):
            lost = [aside for aside in asides if class_of(aside.path) == folder and "/" in aside.path]
            named = given is not None and matched([folder], given) is not None
            if spec.allow_empty_classes or (named and not lost) or (given is not None and not named):
                kept |= set() if given is not None else {folder}
                continue
            why = f"files of it: {len(lost)}, images: 0 ({lost[0].path}: {lost[0].why})" if lost else "no files"
            raise DataError(
                f"{root / folder}: class '{folder}' has no image: {why}. Remove the folder if it is no class, or set "
                "'allow_empty_classes: true'"
            )
        return sorted(kept, key=natural)

    def label_space(self, spec: DataSpec, folders: list[str]) -> Space:
        """Label of each folder, and the names of all labels; without names for `text: none` and `captions`."""
        present = {folder: label for label, folder in enumerate(folders)}
        if spec.text != "classes":
            return Space(present, None, None)
        wnids = _wnids(spec, folders)
        wanted = self.parse(spec).label_space or ("imagenet" if wnids and spec.classes == "imagenet" else "present")
        if wanted == "imagenet":
            labels = wnids or _numbered(folders)
            return Space(labels, prompts.imagenet_classes(), prompts.imagenet_wnids(), published=True)
        if wnids is None:
            return Space(present, tuple(folder.replace("_", " ") for folder in folders), tuple(folders))
        names = tuple(prompts.imagenet_classes()[wnids[folder]] for folder in folders)
        return Space(present, names, tuple(folders), published=True)


@dataclass(frozen=True)
class Space:
    """Label of each folder; `names` of all labels and `keys` that mark them; `published`: they are ImageNet's."""

    labels: dict[str, int]
    names: tuple[str, ...] | None
    keys: tuple[str, ...] | None
    published: bool = False


def _wnids(spec: DataSpec, folders: list[str]) -> dict[str, int] | None:
    """ImageNet's labels of folders named by WordNet id; with the suite's own names the ids may be any."""
    try:
        return prompts.wnid_labels(folders)
    except DataError:
        if spec.classes in (None, "imagenet"):
            raise
        return None


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


def optional_names(root: Path, name: str) -> tuple[str, ...] | None:
    """Class names of a text file that need not be there."""
    return read_names(root / name) if (root / name).is_file() else None


def class_of(path: str) -> str:
    """Name of the class folder that a path lies in."""
    return nfc(path.partition("/")[0])


def subfolders(root: Path) -> list[str]:
    """Names of the folders in a folder that are not hidden."""
    return [
        place.name for place in root.iterdir() if place.is_dir() and place.name[0] != "." and place.name not in JUNK
    ]


def check_splits(root: Path, entries: list[Entry], spec: DataSpec) -> None:
    """Folders that are splits of a data set are no classes, and are not read together.

    Raises:
        DataError: names them, and asks for one.
    """
    found = split_names(subfolders(root))
    deep = {e.path.split("/")[0] for e in entries if e.path.count("/") > 1}
    if spec.split is None and found and (deep & {*found} or len(found) == len(subfolders(root))):
        names = sorted(found)
        raise DataError(
            f"{root}: the folders {', '.join(names)} look like splits, not classes; choose one with "
            f"'split: {names[0]}' (or 'split: .' if they are classes)"
        )


def by_class(root: Path, entries: list[Entry], asides: list[Aside], text: str) -> tuple[list[Entry], list[Entry]]:
    """The images that lie within class folders, and those beside them; without classes all are within.

    Raises:
        DataError: there are none; says where images were found, or what was found instead.
    """
    inside = [e for e in entries if "/" in e.path or text != "classes"]
    if inside:
        return inside, [e for e in entries if "/" not in e.path and text == "classes"]
    if entries:
        raise DataError(
            f"{root}: {len(entries)} images, but none in a class folder (<class>/image.jpg); "
            "data without classes say 'text: none'"
        )
    found = f" ({len(asides)} other files: {asides[0].path}: {asides[0].why})" if asides else ""
    raise DataError(f"{root}: no images{found}")


source = ImageFolder()
