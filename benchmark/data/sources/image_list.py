"""OpenOOD's image lists: a text file with `path label` a line, and the folder that the paths start from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmark.data.sources.base import LoadedData, Source, SourceOptions, paths_dataset
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.digests import stamp
from benchmark.utils.files import LARGEST_LIST, Entry, expand, fingerprint, numbered_lines


class ListOptions(SourceOptions):
    """Options of the image list.

    Attributes:
        root: folder that the paths are relative to, or that of the set itself; the list's own folder by default.
    """

    root: str | None = None


class ImageList(Source[ListOptions]):
    """`path` is the list. Labels are whole numbers, -1 for out of distribution; the path is the sample id.

    A path may hold blanks: the label follows the last one. Lists and archives of one set spell paths in several ways;
    `spellings` says which are tried, the list's own first.
    """

    name = "image_list"
    version = 1
    title = "OpenOOD image lists: a file with 'path label' a line, option root: the folder of the images"
    options = ListOptions
    places = ("root",)

    def fingerprint(self, spec: DataSpec) -> str:
        """Paths, labels and bytes of all listed images."""
        return fingerprint([entry for entry, _ in self.listed(spec)])

    def listed(self, spec: DataSpec) -> list[tuple[Entry, int]]:
        """All images with their labels; the label is part of the entry's path, so that it counts in the digest.

        Raises:
            DataError: a line without a label, or an image that is not there; names list and line.
        """
        path = self.root(spec)
        if not path.is_file():
            raise DataError(f"{path}: expected a text file with 'path label' a line")
        folder, found = self.folder(spec), []
        for number, line in numbered_lines(path, LARGEST_LIST):
            name, _, label = line.rpartition(" ")
            try:
                value = int(label)
                file, status = _find(folder, name.strip())
            except ValueError:
                raise DataError(f"{path}: line {number}: expected 'path label', got '{line[:80]}'") from None
            except OSError as error:
                hint = "" if self.parse(spec).root else "; option root: names the folder of the images"
                raise DataError(f"{path}: line {number}: {error.filename}: {error.strerror or error}{hint}") from None
            found.append((Entry(f"{name.strip()} {value}", file, stamp(status)), value))
        return found

    def roots(self, spec: DataSpec) -> tuple[Path, ...]:
        """The folder that the paths start from."""
        return (self.folder(spec),)

    def folder(self, spec: DataSpec) -> Path:
        """The folder that the paths start from."""
        root = self.parse(spec).root
        return expand(root) if root is not None else self.root(spec).parent

    def load(self, spec: DataSpec) -> LoadedData:
        """List the images; none is opened."""
        listed = self.listed(spec)
        names = [entry.path.rsplit(" ", 1)[0] for entry, _ in listed]
        return LoadedData(paths_dataset([str(e.file) for e, _ in listed], [label for _, label in listed], names))


def spellings(name: str, folder: str) -> Iterator[str]:
    """The paths below a set's folder that a listed path may mean, the path itself first.

    OpenOOD's lists begin with the set's folder, `ninco/...`; the same lists on the hub do not. The lists of NINCO have
    its release's folder `NINCO_OOD_classes` and blanks in names; OpenOOD's archive has neither. The archive of
    OpenImage-O has a folder `images` that one of its lists lacks.

    >>> list(spellings("ninco/a/1.jpg", "ninco"))
    ['ninco/a/1.jpg', 'images/ninco/a/1.jpg', 'a/1.jpg', 'images/a/1.jpg']
    """
    shorter = name.removeprefix(f"{folder}/")
    paths = dict.fromkeys([name, shorter, shorter.removeprefix("NINCO_OOD_classes/")])
    for spelling in dict.fromkeys(text for path in paths for text in (path, path.replace(" ", "_"))):
        yield spelling
        yield f"images/{spelling}"


def _find(folder: Path, name: str) -> tuple[Path, os.stat_result]:
    """The file that a listed path means.

    Raises:
        OSError: of the path as it is listed, where none of its spellings is there.
    """
    for spelling in spellings(name, folder.name):
        with suppress(OSError):
            return folder / spelling, (folder / spelling).stat()
    return folder / name, (folder / name).stat()


source = ImageList()
