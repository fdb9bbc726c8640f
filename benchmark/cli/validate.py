"""`reliquant validate`: the work of a suite, what this machine lacks for it, and its rough cost."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.cli.requests import ValidateRequest
from benchmark.download.catalogue import catalogue as published_downloads
from benchmark.download.catalogue import in_order, own_files
from benchmark.engine.include import include_files
from benchmark.engine.plan import unavailable_lines
from benchmark.engine.requested import check_device
from benchmark.engine.run import PIXEL_BUDGET
from benchmark.engine.survey import Survey, survey
from benchmark.spec.catalogue import catalogue as data_sets
from benchmark.spec.suite import load_suite, narrow
from benchmark.utils.output import out
from benchmark.utils.progress import open_progress

HOUR, DAY = 3600.0, 24 * 3600.0
YEAR = 365.25 * DAY
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
NUMBERS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def validate_suite(request: ValidateRequest) -> None:
    """Check a suite and print its work and what is missing here."""
    include_files(request.include)
    suite = narrow(
        load_suite(request.suite, request.data, request.catalogues),
        models=request.models,
        quantizations=request.quantizations,
        tasks=request.tasks,
        limit=request.limit,
    )
    with open_progress(request.quiet):
        found = survey(suite, request.allow_outside, devices_of(request.device))
    if request.json:
        print(json.dumps(found.to_json()), file=out())
    elif not request.quiet:
        print(report(found, to_fetch(found, request.catalogues, own_files())))
    if not request.quiet:
        for line in unavailable_lines(found.unavailable):
            print(line, file=sys.stderr)
        for line in found.warnings:
            print(f"warning: {line}", file=sys.stderr)


def devices_of(asked: str) -> tuple[str, ...]:
    """The devices to say a time for: the asked one, and beside the CPU the GPU of this machine.

    Raises:
        InputError: the asked device is misspelt or not here.
    """
    import torch

    check_device(asked)
    return (asked, "cuda") if asked == "cpu" and torch.cuda.is_available() else (asked,)


def to_fetch(found: Survey, catalogues: Sequence[Path], downloads: Sequence[Path] = ()) -> tuple[int, bool]:
    """Bytes that `reliquant data fetch` has to get for the data sets that are not here, and whether that is all.

    Sizes as published, of downloads that state one; nothing is looked up elsewhere.
    """
    absent = {(spec.source, spec.path) for n, spec in found.suite.data.items() if spec.path and n not in found.data}
    entries = {name: (entry.spec.source, entry.spec.path) for name, entry in data_sets(catalogues).items()}
    names = {name for name, place in entries.items() if place in absent}
    known = published_downloads(downloads)
    chosen = in_order([name for name, each in known.items() if names & set(each.provides)], known)
    files = [file for name in chosen for file in known[name].files.values() if not file.optional]
    fetched = {place for name in chosen for place in map(entries.get, known[name].provides)}
    return sum(file.bytes or 0 for file in files), absent <= fetched and all(file.bytes is not None for file in files)


def report(found: Survey, fetch: tuple[int, bool] = (0, True)) -> str:
    """The survey in words. Args: fetch: as `to_fetch` gives it."""
    lines = [
        f"suite '{found.suite.name}' is valid: {found.models} models x {found.quantizations} quantizations"
        f"{f' + {found.artifacts} artifacts' if found.artifacts else ''} = "
        f"{found.configurations:,} configurations",
        f"{found.evaluations:,} evaluations",
        f"{found.image_towers} different image towers of each model, {found.images:,} images for each"
        + (f" (size unknown: {', '.join(found.unknown)})" if found.unknown else ""),
        f"{found.text_towers} different text towers of each model, {_texts(found)} for each",
        f"{number(found.image_passes)} images and {number(found.text_passes)} texts in all",
        *_times(found),
        *_disk(found, *fetch),
    ]
    lines += [f"  {name}: {text}" for name, text in found.data.items()]
    if found.missing:
        lines += [f"missing here ({len(found.missing)}):", *(f"  {line}" for line in _by_reason(found.missing))]
    else:
        lines.append("all its models and data are on this machine")
    return "\n".join(lines)


def _texts(found: Survey) -> str:
    return f"{found.prompts:,} prompts" + (f" and {found.captions:,} captions" if found.captions else "")


def _times(found: Survey) -> list[str]:
    """One line a device."""
    names = {"cpu": "this CPU", "cuda": "this GPU"}
    return [
        f"roughly {duration(time.seconds)} of forward passes on {names.get(time.device, f'a {time.device}')} "
        f"({time.how})"
        for time in found.times
    ]


def _disk(found: Survey, fetch: int, whole: bool) -> list[str]:
    """What it takes on disk."""
    more = f" and {'' if whole else 'at least '}{size(fetch)} to fetch" if fetch or not whole else ""
    lines = [
        f"disk: {size(found.data_bytes)} of data here{more}, {size(found.pixel_bytes)} of pixels, "
        f"{size(found.bank_bytes)} of features"
    ]
    if found.pixel_bytes > PIXEL_BUDGET:
        lines.append(
            f"  pixels beyond {size(PIXEL_BUDGET)} are decoded again for each tower; "
            f"`--pixel-cache {math.ceil(found.pixel_bytes / 1e9)}GB` keeps all"
        )
    return lines


def duration(seconds: float) -> str:
    """A rough time in words.

    >>> [duration(s) for s in (20, 100, 7200, 4e6, 5.4e9)]
    ['1 minute', '2 minutes', '2.0 hours', '46 days', '171 years']
    """
    if seconds >= YEAR:
        return f"{seconds / YEAR:,.1f} years" if seconds < 10 * YEAR else f"{seconds / YEAR:,.0f} years"
    if seconds >= 10 * DAY:
        return f"{seconds / DAY:,.0f} days"
    if seconds >= HOUR:
        return f"{seconds / HOUR:,.1f} hours"
    minutes = max(1, math.ceil(seconds / 60))
    return f"{minutes} minute{'s' * (minutes > 1)}"


def size(count: float) -> str:
    """Bytes in decimal units.

    >>> size(0), size(2_500), size(12_641_600_000_000)
    ('0 B', '2.5 kB', '12.6 TB')
    """
    return next((f"{count / unit:,.1f} {name}" for unit, name in UNITS if count >= unit), f"{count:.0f} B")


def number(count: int) -> str:
    """A large number in words.

    >>> number(81_000), number(2_493_034_440)
    ('81,000', '2.5 billion')
    """
    return next((f"{count / unit:,.1f} {name}" for unit, name in NUMBERS if count >= unit), f"{count:,}")


def _by_reason(missing: Sequence[str]) -> list[str]:
    """One line per reason that several models share; data sets keep their own lines, which name a path."""
    names: dict[str, list[str]] = {}
    for line in missing:
        name, _, reason = line.partition(": ")
        common = reason.partition(": ")[2] if name.startswith("model ") else ""
        names.setdefault(common or reason, []).append(name)
    return [f"{', '.join(found)}: {reason}" for reason, found in names.items()]
