"""CounterAnimal: `<class>/<common|counter>/*.jpg`, animals on usual and unusual backgrounds, ImageNet-1k labels."""

from __future__ import annotations

import re
from typing import Literal

from benchmark.data import prompts
from benchmark.data.sources.base import LoadedData, Source, SourceOptions, paths_dataset
from benchmark.errors import DataError, UnknownNameError
from benchmark.spec import DataSpec
from benchmark.utils.files import Aside, Entry, fingerprint, list_images

GROUPS = ("common", "counter")


class CounterAnimalOptions(SourceOptions):
    """Options of CounterAnimal.

    Attributes:
        group: `common`, `counter`, or `both`.
        label_space: `imagenet` (all 1,000 classes, as the authors evaluate) or `present` (only those that are there).
    """

    group: Literal["common", "counter", "both"] = "both"
    label_space: Literal["imagenet", "present"] = "imagenet"


class CounterAnimal(Source[CounterAnimalOptions]):
    """Class folders: an ImageNet label and a name ("80 black grouse"), a WordNet id, or an ImageNet class name.

    Group folders: `common` and `counter`, or names that begin so ("common-snow"). Column `group`: 0 common,
    1 counter.
    """

    name = "counteranimal"
    version = 2
    title = "CounterAnimal: <class>/<common|counter>/*.jpg, ImageNet-1k labels (option group: common, counter, both)"
    options = CounterAnimalOptions

    def fingerprint(self, spec: DataSpec) -> str:
        """Relative paths and bytes of all images."""
        return fingerprint(list_images(self.root(spec))[0])

    def load(self, spec: DataSpec) -> LoadedData:
        """List the images of the chosen group; none is opened."""
        root, options = self.root(spec), self.parse(spec)
        found, asides = list_images(root)
        entries = [e for e in found if _group(e) is not None]
        asides += [Aside(e.path, "image in no group folder") for e in found if _group(e) is None]
        if not entries:
            raise DataError(f"{root}: no images in <class>/common or <class>/counter")
        labels = {folder: _label(folder) for folder in sorted({e.path.split("/")[0] for e in entries})}
        names = prompts.imagenet_classes()
        if options.label_space == "present":
            kept = sorted(set(labels.values()))
            names = tuple(names[label] for label in kept)
            labels = {folder: kept.index(label) for folder, label in labels.items()}
        chosen = [e for e in entries if options.group in ("both", _group(e))]
        if not chosen:
            raise DataError(f"{root}: no images of the group '{options.group}'")
        return LoadedData(
            dataset=paths_dataset(
                [str(root / e.path) for e in chosen],
                [labels[e.path.split("/")[0]] for e in chosen],
                [e.path for e in chosen],
                group=[GROUPS.index(_group(e) or "") for e in chosen],
            ),
            class_names=names,
            group_names=GROUPS,
            settled=spec.classes in (None, "imagenet"),
            left_out=tuple(asides),
        )


def _group(entry: Entry) -> str | None:
    """`common` or `counter`, from the second part of the path; None for other files."""
    parts = entry.path.split("/")
    if len(parts) < 3:
        return None
    found = re.match(r"(common|counter)(?![a-z])", parts[1].lower())
    return found[1] if found else None


def _label(folder: str) -> int:
    """ImageNet-1k label of a class folder.

    Raises:
        UnknownNameError: neither a label, nor a WordNet id, nor a class name.
    """
    number = re.match(r"(\d{1,3})(?!\d)", folder)
    if number:
        return int(number[1])
    by_id = prompts.wnid_labels([folder])
    if by_id is not None:
        return by_id[folder]
    names = [_plain(name) for name in prompts.imagenet_classes()]
    if _plain(folder) not in names:
        raise UnknownNameError("ImageNet class folder", folder, prompts.imagenet_classes())
    return names.index(_plain(folder))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


source = CounterAnimal()
