"""Data in several files: which split each file belongs to, and whether one of them is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from benchmark.data.labels import SPLITS
from benchmark.errors import DataError

_NUMBERED = re.compile(r"(?P<name>.*?)[-_.]?(?P<number>\d{1,9})(?:[-_.]of[-_.](?P<total>\d{1,9}))?")


def family(path: str) -> str:
    """What stands before the number in a file's name: `test` of `test-00000-of-00002.parquet` and of `test.tar`.

    >>> family("data/test-00000-of-00002.parquet"), family("0003.tar")
    ('test', '')
    """
    stem = PurePosixPath(path).stem
    found = _NUMBERED.fullmatch(stem)
    return found["name"] if found else stem


def split_of(path: str) -> str | None:
    """The split that a file belongs to by its folder or its name; None where neither tells one."""
    *folders, name = path.split("/")
    inside = next((folder for folder in folders if folder.lower() in SPLITS), None)
    if inside is not None:
        return inside
    found = _NUMBERED.fullmatch(PurePosixPath(name).stem)
    told = family(path).lower() in SPLITS or (found is not None and found["total"] and found["name"])
    return family(path) if told else None


def of_split(paths: Sequence[str], split: str | None, where: str) -> list[str]:
    """The files of one split, in order.

    Raises:
        DataError: there is none; or no split is asked for, and the files are of several.
    """
    if split is not None:
        chosen = [p for p in paths if split in p.split("/")[:-1] or family(p) == split]
        chosen = chosen or [
            p for p in paths if PurePosixPath(p).name.startswith((f"{split}-", f"{split}_", f"{split}."))
        ]
        if not chosen:
            raise DataError(f"{where}: no file of split '{split}' among {', '.join(paths[:8])}")
        return chosen
    told = {path: split_of(path) for path in paths}
    names = sorted({name for name in told.values() if name is not None})
    if names and len(set(told.values())) > 1:
        others = " and other files" if None in told.values() else ""
        raise DataError(
            f"{where}: files of several splits ({', '.join(names)}{others}); choose one with 'split: {names[0]}'"
        )
    return list(paths)


def check_whole(paths: Sequence[str], count: int | None, where: str) -> None:
    """Numbered files run from 0 without a gap, or up to the total in their names.

    Args:
        count: how many files there are by the option `shards`, whatever their numbers; None: not given.

    Raises:
        DataError: names the first that is missing.
    """
    if count is not None:
        if len(paths) != count:
            raise DataError(f"{where}: {len(paths)} files, option shards says {count}")
        return
    groups: dict[tuple[str, str, str | None], set[int]] = {}
    for path in paths:
        found = _NUMBERED.fullmatch(PurePosixPath(path).stem)
        if found is not None:
            key = (path.rpartition("/")[0], found["name"], found["total"])
            groups.setdefault(key, set()).add(int(found["number"]))
    for (folder, name, total), numbers in groups.items():
        first = 0 if total or not name else min(numbers)
        last = max(numbers)
        if total is not None:
            first = 1 if 0 not in numbers and int(total) in numbers else 0
            last = max(last, int(total) - 1 + first)
        gap = next((number for number in range(first, last + 1) if number not in numbers), None)
        if gap is not None:
            whole = "/".join(part for part in (folder, name) if part)
            raise DataError(
                f"{where}: number {gap} of '{whole or '*'}' is missing ({len(numbers)} files, {min(numbers)} to "
                f"{max(numbers)}{f' of {total}' if total else ''}); fetch it, or, if these are all, say "
                f"'options: {{shards: {len(paths)}}}'"
            )
