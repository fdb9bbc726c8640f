"""A local webdataset in CLIP_benchmark's layout: `test/0.tar ...` with `KEY.jpg` + `KEY.cls`, or pairs `KEY.txt`."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.data.sources.base import LoadedData, Source, SourceOptions, images_dataset
from benchmark.data.sources.image_folder import CLASS_FILE, TEMPLATE_FILE, optional_lines, walk_texts
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.files import IMAGE_SUFFIXES, entry, fingerprint, natural, read_lines

COUNT_FILE = "nshards.txt"


class WebdatasetOptions(SourceOptions):
    """Options of the webdataset source.

    Attributes:
        label: suffix of the members that hold the label, a whole number as text.
        caption: suffix of the members that hold the caption, UTF-8 text.
    """

    label: str = "cls"
    caption: str = "txt"


@dataclass
class Sample:
    """One key of a shard: where its image lies, and its texts."""

    member: str | None = None
    offset: int = 0
    size: int = 0
    label: str | None = None
    caption: str | None = None


class Webdataset(Source[WebdatasetOptions]):
    """Shards are read by their headers only; images are read from the tar file when they are decoded.

    `path` is the folder with `classnames.txt` and `zeroshot_classification_templates.txt`; the shards lie in
    `<path>/<split>` (default `test` where it exists), 0.tar to N-1.tar with N in `nshards.txt`, or any *.tar without
    that file. Sample ids are the keys, and the images are in the order of their ids: how they are spread over shards
    does not matter. Where two shards use the same key, all ids are `<shard>/<key>`, in the order of the shards'
    numbers and of the members in them. Without any label members the labels are -1.
    """

    name = "webdataset"
    version = 2
    title = "CLIP_benchmark's layout: <split>/0.tar ... with KEY.jpg + KEY.cls (or KEY.txt), classnames.txt"
    options = WebdatasetOptions

    def check(self, spec: DataSpec) -> None:
        """The path and all shards exist."""
        super().check(spec)
        self.shards(spec)

    def fingerprint(self, spec: DataSpec) -> str:
        """Names, sizes and times of change of the shards and of the text files."""
        return fingerprint([entry(p) for p in self.shards(spec)] + walk_texts(self.root(spec)))

    def shards(self, spec: DataSpec) -> list[Path]:
        """The tar files in order.

        Raises:
            DataError: no shard, or one that `nshards.txt` counts is missing.
        """
        root = self.root(spec)
        if root.is_file():
            return [root]
        folder = root / spec.split if spec.split is not None else root / "test"
        if spec.split is None and not folder.is_dir():
            folder = root
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
        if not (folder / COUNT_FILE).is_file():
            found = sorted(folder.glob("*.tar"), key=lambda p: natural(p.stem))
            if not found:
                raise DataError(f"{folder}: no *.tar shards")
            return found
        text = read_lines(folder / COUNT_FILE)[0]
        if not re.fullmatch(r"0*[1-9][0-9]{0,11}", text):
            raise DataError(f"{folder / COUNT_FILE}: expected the number of shards, got '{text[:40]}'")
        shards = []
        for index in range(int(text)):  # ends at the first that is missing, whatever number stands there
            shards.append(folder / f"{index}.tar")
            if not shards[-1].is_file():
                raise DataError(f"{shards[-1]}: missing; {COUNT_FILE} counts {text} shards")
        return shards

    def load(self, spec: DataSpec) -> LoadedData:
        """Index the shards.

        Raises:
            DataError: a broken shard, a key without image or label, a label that is no number.
        """
        options = self.parse(spec)
        listed = _ordered([(shard, key, s) for shard in self.shards(spec) for key, s in _index(shard, options).items()])
        for shard, key, sample in listed.values():
            if sample.member is None:
                raise DataError(f"{shard}: key '{key}' has no image member (.jpg, .png, .webp, ...)")
        found = [f"{shard}: key '{key}'" for shard, key, _ in listed.values()]
        samples = [sample for _, _, sample in listed.values()]
        rows: dict[str, list[object]] = {
            "image": [{"bytes": None, "path": f"tar://{s.member}::{shard}"} for shard, _, s in listed.values()],
            "label": list(_labels([sample.label for sample in samples], found, options.label)),
            "sample_id": list(listed),
            "offset": [sample.offset for sample in samples],
            "size": [sample.size for sample in samples],
        }
        if any(sample.caption is not None for sample in samples):
            rows["caption"] = list(_complete([sample.caption for sample in samples], found, options.caption))
        root = self.root(spec)
        folder = root if root.is_dir() else root.parent
        return LoadedData(
            dataset=images_dataset(rows),
            class_names=optional_lines(folder, CLASS_FILE),
            templates=optional_lines(folder, TEMPLATE_FILE),
        )


def _ordered(found: list[tuple[Path, str, Sample]]) -> dict[str, tuple[Path, str, Sample]]:
    """Sample id -> (shard, key, sample), in the order in which the data set has them."""
    by_key = {key: (shard, key, sample) for shard, key, sample in found}
    if len(by_key) == len(found):
        return dict(sorted(by_key.items()))
    return {f"{shard.stem}/{key}": (shard, key, sample) for shard, key, sample in found}


def _index(shard: Path, options: WebdatasetOptions) -> dict[str, Sample]:
    """The samples of a shard by key, in the order of their first members."""
    samples: dict[str, Sample] = {}
    length = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > length:
                    raise DataError(f"{shard}: broken shard, cut off within '{member.name}'")
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if not stem:
                    continue
                sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, Sample())
                if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                    sample.member, sample.offset, sample.size = member.name, member.offset_data, member.size
                elif suffix in (options.label, options.caption):
                    text = _text(archive, member, shard)
                    setattr(sample, "label" if suffix == options.label else "caption", text)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{shard}: broken shard ({error})") from None
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror or error})") from None
    return samples


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> str:
    file = archive.extractfile(member)
    try:
        return file.read().decode("utf-8").strip() if file is not None else ""
    except UnicodeDecodeError:
        raise DataError(f"{shard}: '{member.name}' is not UTF-8 text") from None


def _labels(labels: list[str | None], found: list[str], suffix: str) -> Iterator[int]:
    if all(label is None for label in labels):
        yield from [-1] * len(labels)
        return
    for text, where in zip(_complete(labels, found, suffix), found, strict=True):
        try:
            yield int(text)
        except ValueError:
            raise DataError(f"{where}: label '{text}' in .{suffix} is not a whole number") from None


def _complete(texts: list[str | None], found: list[str], suffix: str) -> Iterator[str]:
    for text, where in zip(texts, found, strict=True):
        if text is None:
            raise DataError(f"{where} has no member .{suffix}, other keys have")
        yield text


source = Webdataset()
