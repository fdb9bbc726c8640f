"""ImageNet's validation tar, which is flat, into `val/<wnid>/*.JPEG`: the folders that pair with ImageNet-C.

The images are written aside, and the folder gets its name when all are there: a `val` that exists is whole. Whatever
stops it, the same command goes on. The bytes of each image stay as they are in the tar.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from benchmark.download.schema import HIDDEN, Download, File
from benchmark.download.sums import Sums, problem
from benchmark.download.writing import check_room, size_of, storage, write_small
from benchmark.errors import DataError
from benchmark.utils.durable import sync_folder
from benchmark.utils.files import escaped, numbered_lines
from benchmark.utils.locking import exclusive
from benchmark.utils.progress import shown

ARCHIVES, TAR, DEVKIT = "imagenet-archives", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
"""The download whose sums count, and its two files."""
FOLDER, VALIDATION = "imagenet", "val"
TRUTH, META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
"""Members of the devkit: the number of each image's class, and the classes with their WordNet ids."""
LARGEST_MEMBER = 50_000_000
"""Bytes of a member of the devkit (meta.mat has 2 million)."""


@dataclass(frozen=True)
class Prepared:
    """What came of it: `folder` with so many images of so many classes. `made`: False where it was there before."""

    folder: Path
    images: int
    classes: int
    made: bool


def prepare(
    root: Path,
    tar: Path,
    labels: Path,
    known: Mapping[str, Download],
    images: int | None = None,
    classes: int | None = None,
) -> Prepared:
    """Make `imagenet/val` below the folder of all data, or find that it is there.

    Args:
        tar: the authors' `ILSVRC2012_img_val.tar`. labels: their devkit, or a text file with the WordNet id of each
            image, one a line, in the order of the images' numbers. known: the downloads, for size and sums of both.
        images, classes: numbers as published, from the data catalogue; None: not checked.

    Raises:
        DataError: a file is not the one that is meant, or damaged; an image is missing or has no label; wrong counts.
        StorageError: the disk is full or cannot be written.
    """
    target, aside = root / FOLDER / VALIDATION, root / HIDDEN / f"{FOLDER}-{VALIDATION}"
    with storage(aside):
        aside.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(aside.with_suffix(".lock")):
        if target.is_dir():
            found = _checked(target, images, classes, made=False)
        else:
            wnids = _wnids(labels, known)
            if images is not None and len(wnids) != images:
                raise DataError(f"{labels}: labels of {len(wnids):,} images, expected {images:,}")
            _check(tar, TAR, known)
            _extract(tar, wnids, aside)
            _checked(aside, images, classes, made=True)
            with storage(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                aside.replace(target)
                sync_folder(target.parent)
            found = _checked(target, images, classes, made=True)
        _mark(found, tar)
    return found


def _check(path: Path, name: str, known: Mapping[str, Download]) -> None:
    """Size, then sum, as the catalogue of downloads has them."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    about: File | None = known[ARCHIVES].files.get(name) if ARCHIVES in known else None
    if about is not None and (wrong := problem(path, Sums(about.bytes, about.sha256, about.md5), path.name)):
        raise DataError(f"{path}: {wrong}; it is not the {name} that is wanted. Fetch it again")


def _wnids(labels: Path, known: Mapping[str, Download]) -> dict[str, str]:
    """Name of each image in the tar -> WordNet id of its class."""
    if not labels.is_file():
        raise DataError(f"{labels}: no such file")
    if labels.suffix == ".txt":
        found = [line for _, line in numbered_lines(labels)]
    else:
        _check(labels, DEVKIT, known)
        found = _devkit(labels)
    for number, wnid in enumerate(found, 1):
        if not re.fullmatch(r"n[0-9]{8}", wnid):
            raise DataError(f"{labels}: image {number}: expected a WordNet id such as n01440764, got '{wnid[:40]}'")
    return {f"ILSVRC2012_val_{number:08d}.JPEG": wnid for number, wnid in enumerate(found, 1)}


def _devkit(path: Path) -> list[str]:
    """The WordNet ids of the images, by the devkit's two tables.

    Source: the devkit's readme.txt; `synsets` has ILSVRC2012_ID, WNID, words, gloss and num_children as its first
    fields, and the classes of the challenge are those without children.
    """
    from scipy.io import loadmat

    members = _members(path, (TRUTH, META))
    try:
        synsets = loadmat(io.BytesIO(members[META]), squeeze_me=True)["synsets"]
        wnid = {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets if not int(one["num_children"])}
        return [wnid[int(line)] for line in members[TRUTH].decode("ascii").split()]
    except (ValueError, KeyError, IndexError, TypeError, NotImplementedError, zlib.error) as error:
        told = f"class {error} is unknown" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: {META} and {TRUTH} cannot be read together ({told})") from None


def _members(path: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Content of the members whose paths end so."""
    found: dict[str, bytes] = {}
    with _readable(path), tarfile.open(path) as archive:
        for member in archive:
            ends = [name for name in wanted if member.isreg() and f"/{member.name}".endswith(f"/{name}")]
            if ends and member.size <= LARGEST_MEMBER and (content := archive.extractfile(member)) is not None:
                found[ends[0]] = content.read()
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(f"{path}: has no {missing[0]}; it is not the development kit of tasks 1 and 2")
    return found


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Within the block a damaged archive is one line."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged, or no tar archive ({error}); fetch it again") from None
    except OSError as error:
        if error.errno is None:  # of gzip, not of the system
            raise DataError(f"{path}: damaged ({error}); fetch it again") from None
        raise


def _extract(tar: Path, wnids: Mapping[str, str], aside: Path) -> None:
    """Write the images that are not there yet, each in its class folder; nothing but the images that `wnids` names.

    Raises:
        DataError: a member that is none of them, is there twice, or is no file; an image is missing.
    """
    with storage(aside):
        done = _done(wnids, aside)
    check_room(aside.parent, size_of(tar) - sum(done.values()), TAR)
    seen: set[str] = set()
    title = f"{FOLDER}/{VALIDATION}"
    with (
        storage(aside),
        _readable(tar),
        tarfile.open(tar, "r:") as archive,
        shown().phase(title, len(wnids)) as advance,
    ):
        for member in archive:
            if member.isdir():
                continue
            name = member.name.rpartition("/")[2]
            if name not in wnids or name in seen or not member.isreg():
                why = "is there twice" if name in seen else "is no image that the labels name"
                raise DataError(f"{tar}: {escaped(member.name)} {why}")
            seen.add(name)
            if done.get(name) != member.size and (content := archive.extractfile(member)) is not None:
                _write(content, member.size, aside / wnids[name] / name, tar)
            advance(1)
    if missing := next((name for name in wnids if name not in seen), None):
        raise DataError(f"{tar}: has {len(seen):,} of {len(wnids):,} images, {missing} is missing; fetch it again")


def _done(wnids: Mapping[str, str], aside: Path) -> dict[str, int]:
    """Images of an earlier command that was stopped, with their sizes; those under other labels are removed."""
    done = {}
    for path in aside.glob("*/*.JPEG"):
        if wnids.get(path.name) == path.parent.name:
            done[path.name] = size_of(path)
        else:
            path.unlink()
    return done


def _write(content: IO[bytes], size: int, path: Path, tar: Path) -> None:
    """An image, whole or not at all: its name comes last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        shutil.copyfileobj(content, file)
    if size_of(unfinished) != size:
        raise DataError(f"{tar}: ends within {path.name}; fetch it again")
    unfinished.replace(path)


def _checked(folder: Path, images: int | None, classes: int | None, made: bool) -> Prepared:
    """Count what is there.

    Raises:
        DataError: other numbers than those published; names the way out.
    """
    with storage(folder):
        counts = Counter(path.parent.name for path in folder.glob("*/*.JPEG"))
    found = Prepared(folder, counts.total(), len(counts), made)
    for what, number, expected in (("images", found.images, images), ("classes", found.classes, classes)):
        if expected is not None and number != expected:
            way = "the labels are not those of this tar" if made else "move it away and run the same command again"
            raise DataError(f"{folder}: {number:,} {what}, expected {expected:,}; {way}")
    return found


def _mark(found: Prepared, tar: Path) -> None:
    """Write down what it was made of, if nobody has."""
    marker = found.folder.parent / HIDDEN / f"{VALIDATION}.made.json"
    if not marker.is_file():
        about = {"images": found.images, "classes": found.classes, "from": tar.name}
        write_small(marker, json.dumps({**about, "time": datetime.now(UTC).isoformat(timespec="seconds")}, indent=1))
