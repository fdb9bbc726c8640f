"""OpenOOD's image lists: a text file with `path label` a line, and the folder that the paths start from."""

from __future__ import annotations

from pathlib import Path

from benchmark.data.sources.base import LoadedData, Source, SourceOptions, paths_dataset
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.digests import stamp
from benchmark.utils.files import LARGEST_LIST, Entry, expand, fingerprint, numbered_lines


class ListOptions(SourceOptions):
    """Options of the image list.

    Attributes:
        root: folder that the paths are relative to; the list's own folder by default.
    """

    root: str | None = None


class ImageList(Source[ListOptions]):
    """`path` is the list. Labels are whole numbers, -1 for out of distribution; the path is the sample id."""

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
        folder = self.folder(spec)
        found = []
        for number, line in numbered_lines(path, LARGEST_LIST):
            name, _, label = line.rpartition(" ")
            try:
                value = int(label)
                status = (folder / name.strip()).stat()
            except ValueError:
                raise DataError(f"{path}: line {number}: expected 'path label', got '{line[:80]}'") from None
            except OSError as error:
                hint = "" if self.parse(spec).root else "; option root: names the folder of the images"
                raise DataError(
                    f"{path}: line {number}: {folder / name.strip()}: {error.strerror or error}{hint}"
                ) from None
            found.append((Entry(f"{name.strip()} {value}", folder / name.strip(), stamp(status)), value))
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
        folder, listed = self.folder(spec), self.listed(spec)
        names = [entry.path.rsplit(" ", 1)[0] for entry, _ in listed]
        return LoadedData(paths_dataset([str(folder / name) for name in names], [label for _, label in listed], names))


source = ImageList()
