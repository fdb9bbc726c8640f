"""A local webdataset in CLIP_benchmark's layout: `test/0.tar ...` with `KEY.jpg` + `KEY.cls`, or pairs `KEY.txt`."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from benchmark.data.labels import split_names
from benchmark.data.sources.base import LoadedData, Source, SourceOptions, images_dataset
from benchmark.data.sources.image_folder import (
    CLASS_FILE,
    TEMPLATE_FILE,
    optional_lines,
    optional_names,
    subfolders,
    walk_texts,
)
from benchmark.data.sources.parts import check_whole, of_split
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.files import Aside, entry, fingerprint, natural, read_lines
from benchmark.utils.image_formats import HEAD, IMAGE_SUFFIXES, image_format

COUNT_FILE = "nshards.txt"


class WebdatasetOptions(SourceOptions):
    """Options of the webdataset source.

    Attributes:
        label: suffix of the members that hold the label, a whole number as text.
        caption: suffix of the members that hold the captions, UTF-8 text, one a line.
        image: suffix of the members that hold the image, where a key has several; by default the one that is an image.
        shards: number of shards, where their numbers do not run from 0 without a gap.
    """

    label: str = "cls"
    caption: str = "txt"
    image: str | None = None
    shards: Annotated[int, Field(ge=1)] | None = None


@dataclass
class Sample:
    """One key of a shard: where its image lies, its texts, and its other members by suffix (offset and size)."""

    member: str | None = None
    offset: int = 0
    size: int = 0
    label: str | None = None
    caption: str | None = None
    others: dict[str, tuple[str, int, int]] = field(default_factory=dict)


class Webdataset(Source[WebdatasetOptions]):
    """Shards are read by their headers only; images are read from the tar file when they are decoded.

    `path` is the folder with `classnames.txt` and `zeroshot_classification_templates.txt`; the shards lie in
    `<path>/<split>` (default `test` where it exists), 0.tar to N-1.tar with N in `nshards.txt`, or all *.tar without
    that file, whose numbers have no gap; or `<path>/<split>-*.tar`. Sample ids are the keys, and the images are in the
    order of their ids: how they are spread over shards does not matter. Where two shards use the same key, all ids are
    `<shard>/<key>`, in the order of the shards' numbers and of the members in them. Images are recognised by suffix or
    content. With `text: none` or `captions` the label members need not be there.
    """

    name = "webdataset"
    version = 3
    title = "CLIP_benchmark's layout: <split>/0.tar ... with KEY.jpg + KEY.cls (or KEY.txt), classnames.txt"
    options = WebdatasetOptions

    def check(self, spec: DataSpec) -> None:
        """The path and all shards exist."""
        super().check(spec)
        self.shards(spec)

    def fingerprint(self, spec: DataSpec) -> str:
        """Names and bytes of the shards and of the text files."""
        return fingerprint([entry(p) for p in self.shards(spec)] + walk_texts(self.root(spec)))

    def shards(self, spec: DataSpec) -> list[Path]:
        """The tar files in order.

        Raises:
            DataError: no shard; one that `nshards.txt` counts, or that the numbers tell of, is missing; several splits.
        """
        root, count = self.root(spec), self.parse(spec).shards
        if root.is_file():
            return [root]
        folder = root / spec.split if spec.split is not None else root / "test"
        named = None if folder.is_dir() else spec.split  # then by the shards' own names
        if not folder.is_dir():
            folder = root
        found = sorted(folder.glob("*.tar"), key=lambda p: natural(p.stem))
        if named is not None and not found:
            raise DataError(f"{root / named}: no such folder")
        counted = (folder / COUNT_FILE).is_file()
        if not found and not counted:
            splits = sorted(split_names(subfolders(folder)))
            hint = f", but folders {', '.join(splits)}; choose one with 'split: {splits[0]}'" if splits else ""
            raise DataError(f"{folder}: no *.tar shards{hint}")
        if not counted:
            chosen = of_split([path.name for path in found], named, str(folder))
            check_whole(chosen, count, str(folder))
            return [folder / name for name in chosen]
        return _counted(folder, found)

    def load(self, spec: DataSpec) -> LoadedData:
        """Index the shards.

        Raises:
            DataError: a broken shard, a key without image or label, a label that is no number.
        """
        options, asides = self.parse(spec), list[Aside]()
        indexed = [(shard, key, s) for shard in self.shards(spec) for key, s in _index(shard, options, asides).items()]
        listed = _ordered(indexed)
        for shard, key, sample in listed.values():
            if sample.member is None:
                raise DataError(f"{shard}: key '{key}' has no image member (.jpg, .png, .webp, ...){_members(sample)}")
        found = [f"{shard}: key '{key}'" for shard, key, _ in listed.values()]
        samples = [sample for _, _, sample in listed.values()]
        if spec.text == "classes" and samples and all(sample.label is None for sample in samples):
            raise DataError(
                f"{found[0]} has no member .{options.label} with the label{_members(samples[0])}; option label: "
                "names their suffix ('options: {label: SUFFIX}'), data without classes say 'text: none', and "
                "image-caption pairs 'text: captions'"
            )
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
            class_names=optional_names(folder, CLASS_FILE),
            templates=optional_lines(folder, TEMPLATE_FILE),
            left_out=tuple(asides),
        )


def _counted(folder: Path, found: Sequence[Path]) -> list[Path]:
    """0.tar to N-1.tar, as `nshards.txt` counts them; no other shard lies there.

    Raises:
        DataError: the file holds no number, a shard is missing, or there are more.
    """
    lines = read_lines(folder / COUNT_FILE)
    if len(lines) != 1 or not re.fullmatch(r"[0-9]{1,12}", lines[0]) or int(lines[0]) < 1:
        raise DataError(f"{folder / COUNT_FILE}: expected the number of shards, got '{lines[0][:40]}'")
    count, shards = int(lines[0]), list[Path]()
    for index in range(count):  # ends at the first that is missing, whatever number stands there
        shards.append(folder / f"{index}.tar")
        if not shards[-1].is_file():
            raise DataError(f"{shards[-1]}: missing; {COUNT_FILE} counts {count} shards")
    more = sorted({path.name for path in found} - {shard.name for shard in shards})
    if more:
        raise DataError(f"{folder / more[0]}: {COUNT_FILE} counts {count} shards, there are {len(found)}; correct it")
    return shards


def _members(sample: Sample) -> str:
    """Suffixes of the other members of a key, for a message."""
    return f"; it has {', '.join(f'.{suffix}' for suffix in sorted(sample.others))}" if sample.others else ""


def _ordered(found: list[tuple[Path, str, Sample]]) -> dict[str, tuple[Path, str, Sample]]:
    """Sample id -> (shard, key, sample), in the order in which the data set has them."""
    by_key = {key: (shard, key, sample) for shard, key, sample in found}
    if len(by_key) == len(found):
        return dict(sorted(by_key.items()))
    return {f"{shard.stem}/{key}": (shard, key, sample) for shard, key, sample in found}


def _index(shard: Path, options: WebdatasetOptions, asides: list[Aside]) -> dict[str, Sample]:
    """The samples of a shard by key, in the order of their first members; what is no member of a key goes aside."""
    samples: dict[str, Sample] = {}
    length = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:", errors="backslashreplace") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isfile():
                    asides.append(Aside(f"{shard.name}: {member.name}", "link" if member.issym() else "no file"))
                    continue
                if member.offset_data + member.size > length:
                    raise DataError(f"{shard}: broken shard, cut off within '{member.name}'")
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if not stem:
                    asides.append(Aside(f"{shard.name}: {member.name}", "hidden"))
                    continue
                key = f"{folder}/{stem}" if folder else stem
                _take(archive, member, suffix, samples.setdefault(key, Sample()), options, f"{shard}: key '{key}'")
            for sample in samples.values():
                _by_content(archive, sample, options)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{shard}: broken shard ({error})") from None
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror or error})") from None
    return samples


def _take(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    suffix: str,
    sample: Sample,
    options: WebdatasetOptions,
    where: str,
) -> None:
    """Put a member into its sample: as image, label, caption, or among the others."""
    image = f".{suffix.lower()}" in IMAGE_SUFFIXES if options.image is None else suffix == options.image
    if suffix in (options.label, options.caption):
        name = "label" if suffix == options.label else "caption"
        if getattr(sample, name) is not None:
            raise DataError(f"{where} has the member .{suffix} twice")
        setattr(sample, name, _text(archive, member, where.partition(": key")[0]))
    elif image and sample.member is not None:
        way = "pack the shard again" if sample.member == member.name else "option image: names the suffix of one"
        raise DataError(f"{where} has two images, {sample.member} and {member.name}; {way}")
    elif image:
        sample.member, sample.offset, sample.size = member.name, member.offset_data, member.size
    else:
        sample.others[suffix] = member.name, member.offset_data, member.size


def _by_content(archive: tarfile.TarFile, sample: Sample, options: WebdatasetOptions) -> None:
    """For a key without an image by suffix: the member whose first bytes are those of an image."""
    if sample.member is not None or options.image is not None or archive.fileobj is None:
        return
    for member, offset, size in sample.others.values():
        archive.fileobj.seek(offset)
        if image_format(archive.fileobj.read(min(HEAD, size))) is not None:
            sample.member, sample.offset, sample.size = member, offset, size
            return


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: str) -> str:
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
