"""One file over HTTP into a `.part` file, resumed by Range, until it is whole or the source is given up.

Why not a library: `pooch` (1.9) has no Range, keeps nothing of a broken download and knows no size; `huggingface_hub`
(2.4) writes each try to a new file and deletes it when the process ends, so that it resumes a connection but no
command. Both would leave to us all but a hash, so the hub is asked for names, sizes, sums and errors
(`benchmark.download.hub`), and the bytes of hub and other files come here, over `requests`, which drops the token when
a redirect leads to another host.

What is promised: a `.part` file is always a beginning of what the server sent, under the note beside it; a server whose
file has changed in between (ETag, date or size), or that answers a Range with the whole file, starts it again; a web
page is never taken for the file; the size is compared before a byte is written.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

import requests
import urllib3

from benchmark.download.hosts import stream
from benchmark.download.refusals import SourceError, refusal
from benchmark.download.writing import append, size_of, storage, truncate, write_small
from benchmark.utils.progress import count, duration, shown
from benchmark.utils.transport import reason

CHUNK = 1 << 18
TIMEOUT = (10.0, 60.0)
"""Seconds for a connection, and for the next bytes."""

TRIES = 5
"""Of a request after which nothing new has arrived."""

TRIES_IF_FORBIDDEN = 3
"""Where the server does not say that it is for now."""

PAUSES = (1.0, 4.0, 15.0, 30.0)
"""Seconds before the second and each further try."""

LONGEST_WAIT = 120.0
"""Seconds that a server may ask to wait; for longer the next source is asked."""

RESTARTS = 3
"""How often a file may change under us, or have to be begun again for another reason, in one call."""

FOR_NOW = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
"""Statuses that may pass: some archives answer 403 to those that ask too often."""

_PAGE = re.compile(rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head|body|script)\b", re.IGNORECASE | re.DOTALL)
_HEAD = 512
"""Bytes that tell a web page."""


class _Later(Exception):
    """Not now: try again after `wait` seconds, or after the usual pause, `tries` times in all."""

    def __init__(self, text: str, wait: float | None = None, tries: int = TRIES) -> None:
        super().__init__(text)
        self.wait, self.tries = wait, tries


class _Again(Exception):
    """The part was thrown away; ask for all of it."""


@dataclass(frozen=True)
class Target:
    """What is asked for.

    Attributes:
        name: for progress and messages. url: where. headers: further ones, e.g. a token.
        source: the source in one line, by which a part is known again.
        bytes: its size, if known. summed: whether a sum will be compared, so that any source may go on with a part.
    """

    name: str
    url: str
    source: str
    headers: Mapping[str, str] = field(default_factory=dict)
    bytes: int | None = None
    summed: bool = True


class Note(NamedTuple):
    """What is known about a part: source, strong ETag or date of the file, its size."""

    source: str = ""
    validator: str = ""
    total: int | None = None


@dataclass(frozen=True)
class Network:
    """A client with its clock."""

    session: requests.Session
    pause: Callable[[float], None] = time.sleep


@contextmanager
def connected() -> Iterator[Network]:
    """A client, whose connections are closed at the end."""
    with requests.Session() as session:
        yield Network(session)


def receive(target: Target, part: Path, network: Network) -> bool:
    """Make `part` the whole file; returns whether bytes of an earlier command or connection are in it.

    Raises:
        SourceError: the source does not have the file, refuses it, or does not answer after `TRIES`.
        StorageError: the disk is full, or cannot be written; what is there stays.
    """
    with stream(target.url, network.pause):
        most, tries, restarts, resumed = size_of(part), 0, 0, False
        while True:
            resumed = resumed or size_of(part) > 0
            try:
                _attempt(target, part, network)
                return resumed
            except _Again as again:
                most, restarts, resumed = 0, restarts + 1, False
                if restarts > RESTARTS:
                    raise SourceError(f"{target.source}: {again}, {restarts} times") from None
                shown().message(f"{target.name}: {again}; beginning again")
            except _Later as later:
                here = size_of(part)
                tries = 1 if here > most else tries + 1
                most = max(most, here)
                _wait(target, later, tries, network)


def _wait(target: Target, later: _Later, tries: int, network: Network) -> None:
    """Pause before the next try.

    Raises:
        SourceError: this was the last, or the server asks for too long a pause.
    """
    if tries >= later.tries:
        raise SourceError(f"{target.source}: {later}, {tries} times") from None
    wait = PAUSES[min(tries, len(PAUSES)) - 1] if later.wait is None else later.wait
    if wait > LONGEST_WAIT:
        raise SourceError(f"{target.source}: {later}, and asks to wait {duration(wait)}") from None
    shown().message(f"{target.name}: {later}; trying again in {duration(wait)} (try {tries + 1} of {later.tries})")
    network.pause(wait)


def _attempt(target: Target, part: Path, network: Network) -> None:
    """One request, and its body to the end of `part`."""
    note = _fitting(target, part)
    start = size_of(part)
    if start and start == (target.bytes or note.total):
        return
    asked = {"Accept-Encoding": "identity", **target.headers}
    if start:
        asked["Range"] = f"bytes={start}-"
        if note.source == target.source and note.validator:
            asked["If-Range"] = note.validator
    try:
        answer = network.session.get(target.url, headers=asked, stream=True, timeout=TIMEOUT)
    except (requests.TooManyRedirects, requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise SourceError(f"{target.source}: {error}") from None
    except requests.RequestException as error:
        raise _Later(reason(error)) from None
    with answer:
        total = _checked(answer, target, part, start, note)
        if start and total == size_of(part):
            return
        _write_note(part, Note(target.source, _validator(answer.headers), total))
        _save(answer, target, part, total)


def _fitting(target: Target, part: Path) -> Note:
    """The note of a part that may be continued; any other part is emptied."""
    note, here = read_note(part), size_of(part)
    same = note.source == target.source and bool(note.validator)
    too_long = here > next((size for size in (target.bytes, note.total) if size is not None), here)
    if here and (too_long or not (same or target.summed)):
        truncate(part)
        return Note()
    return note


def _checked(answer: requests.Response, target: Target, part: Path, start: int, note: Note) -> int | None:
    """The whole file's size as the answer to our request tells it, after a look at all that could be wrong with it."""
    status, headers = answer.status_code, answer.headers
    if status == 416 and start:
        whole = _whole(headers)
        if whole == start and whole == (target.bytes or whole):
            return start
        truncate(part)
        raise _Again(f"the file has {whole} bytes and not the {start} that are here" if whole else "status 416")
    if told := refusal(headers):
        raise SourceError(f"{target.source}: {told}")
    if status in FOR_NOW:
        wait = asked_wait(headers.get("Retry-After"))
        final = status == 403 and wait is None  # usually
        raise _Later(f"the server answers {status}", wait, TRIES_IF_FORBIDDEN if final else TRIES)
    if status not in (200, 206):
        raise SourceError(f"{target.source}: the server answers {status} {answer.reason or ''}".rstrip())
    if "html" in headers.get("Content-Type", "").lower() and not target.name.endswith((".html", ".htm")):
        raise SourceError(f"{target.source}: a web page came in the place of the file")
    if status == 206:
        total = _continues(headers, target, part, start, note)
    else:
        length = headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
    total = target.bytes if total is None else total
    if target.bytes is not None and total != target.bytes:
        raise SourceError(f"{target.source}: has {total:,} bytes, expected {target.bytes:,}")
    if status == 200 and start:
        shown().message(f"{target.name}: the server begins again (no ranges, or its file has changed)")
        truncate(part)
    return total


def _continues(headers: Mapping[str, str], target: Target, part: Path, start: int, note: Note) -> int | None:
    """The whole size that a 206 tells, where it goes on from exactly our end of the same file."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", "").strip())
    total = int(found[3]) if found and found[3] != "*" else note.total
    other = note.source == target.source and note.validator and _validator(headers) not in ("", note.validator)
    moved = None not in (total, note.total) and total != note.total
    if found is None or int(found[1]) != start or other or moved:
        truncate(part)
        raise _Again("the file has changed, or another part of it came than was asked for")
    return total


def _whole(headers: Mapping[str, str]) -> int | None:
    found = re.fullmatch(r"bytes \*/(\d+)", headers.get("Content-Range", "").strip())
    return int(found[1]) if found else None


def _save(answer: requests.Response, target: Target, part: Path, total: int | None) -> None:
    """The body, appended as it comes."""
    here = size_of(part)
    head = b"" if here == 0 else None
    title = f"fetch {target.name}" + (f" from {count(here, 'B')} on" if here else "")
    with shown().phase(title, max((total or 0) - here, 0), "B") as advance, storage(part), part.open("ab", 0) as file:
        while True:
            try:
                chunk = answer.raw.read1(CHUNK, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                _refuse_page(head or b"", target)
                append(file, head or b"")
                raise _Later(f"the connection broke ({reason(error)})") from None
            if head is not None:
                head += chunk
                if chunk and len(head) < _HEAD:
                    continue
                _refuse_page(head, target)
                chunk, head, ended = head, None, not chunk
            else:
                ended = not chunk
            if total is not None and here + len(chunk) > total:
                truncate(part)
                raise _Again(f"more than the announced {total:,} bytes came")
            append(file, chunk)
            here += len(chunk)
            advance(len(chunk))
            if ended:
                break
        os.fsync(file.fileno())
    if total is not None and here < total:
        raise _Later(f"the connection ended after {here:,} of {total:,} bytes")


def _refuse_page(head: bytes, target: Target) -> None:
    if _PAGE.match(head.removeprefix(b"\xef\xbb\xbf")) and not target.name.endswith((".html", ".htm")):
        raise SourceError(f"{target.source}: a web page came in the place of the file")


def _validator(headers: Mapping[str, str]) -> str:
    """What `If-Range` takes: a strong ETag, otherwise the date of the last change; empty without both."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def asked_wait(header: str | None) -> float | None:
    """Seconds that `Retry-After` asks for, a number or a date; None where it says nothing that can be read."""
    text = (header or "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def note_path(part: Path) -> Path:
    """The file beside a part that says what it is a part of."""
    return part.with_name(f"{part.name}.json")


def read_note(part: Path) -> Note:
    """The note of a part; an empty one where there is none that can be read."""
    try:
        read: Any = json.loads(note_path(part).read_bytes())
        total = read["total"]
        return Note(str(read["source"]), str(read["validator"]), total if isinstance(total, int) else None)
    except (OSError, ValueError, KeyError, TypeError):
        return Note()


def _write_note(part: Path, note: Note) -> None:
    if note != read_note(part):
        write_small(note_path(part), json.dumps(note._asdict()))
