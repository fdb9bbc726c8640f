"""The hub's own client, made to wait a bounded time, to say what it waits for, and to resume what breaks off.

By itself the client repeats a request that fails for half a minute in silence, waits as long as a server asks (minutes,
several times), has no timeout for listings, and takes a broken connection as final where it could go on. Within one
process it resumes a file where the connection broke; what a stopped process had of a file it throws away.
"""

from __future__ import annotations

import importlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from unittest import mock

from benchmark.utils.progress import count, duration, shown
from benchmark.utils.transport import is_transport, reason

TRIES = 3
"""Of a request that fails, or that the server refuses for now."""

PAUSES = (1.0, 3.0)
"""Seconds before the second and the third try."""

LONGEST_WAIT = 30.0
"""Seconds that a server may ask to wait (`Retry-After`); for longer it is the user who waits."""

TIMEOUT = 10.0
"""Seconds for the connection and for each answer, where the client sets none."""

PROBE = 5.0
"""Seconds after which a hub that does not answer counts as unreachable."""

CHUNK = 1 << 20
"""Bytes that the client writes at once, and so the most that a broken connection costs."""

FOR_NOW = (408, 429, 500, 502, 503, 504)
"""Statuses of a server that may answer later."""


class Unavailable(Exception):
    """The hub does not answer, or not now; after the last try.

    Attributes:
        status: what it answered; None where nothing came. wait: seconds that it asks to wait.
    """

    def __init__(self, text: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(text)
        self.status, self.wait = status, wait


@contextmanager
def patient(title: str, tries: int = TRIES, timeout: float = TIMEOUT) -> Iterator[None]:
    """Run calls of `huggingface_hub` with bounded, visible retries.

    Args:
        title: what is fetched, for the lines that tell of a retry. tries: of each request.
        timeout: seconds for each answer of the API.

    Raises:
        Unavailable: after the last try, whatever the client would have done.
    """
    from huggingface_hub import constants, get_session

    session, log = get_session(), logging.getLogger("huggingface_hub")
    send, level = session.send, log.level

    def bounded(request: Any, **options: Any) -> Any:
        return _send(lambda: send(request, **options), request, title, tries, timeout)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(session, "send", bounded))
        stack.enter_context(mock.patch.object(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK))
        log.setLevel(logging.CRITICAL)  # what it warns about is said here
        try:
            yield
        finally:
            log.setLevel(level)


def _send(send: Callable[[], Any], request: Any, title: str, tries: int, timeout: float) -> Any:
    """Send one request until it is answered for good."""
    limits = getattr(request, "extensions", {}).get("timeout")
    if limits is not None and not any(limits.values()):
        request.extensions["timeout"] = dict.fromkeys(limits, timeout)
    for number in range(1, tries + 1):
        status, wait = None, None
        try:
            answer = send()
        except Exception as error:
            if not is_transport(error) or isinstance(error, _offline()):
                raise
            told = reason(error)
        else:
            if answer.status_code not in FOR_NOW:
                return _resumable(answer, title)
            status, wait = int(answer.status_code), _asked(answer.headers.get("Retry-After"))
            told = _words(status)
            answer.close()
        pause = wait if wait is not None else PAUSES[min(number, len(PAUSES)) - 1]
        if number == tries or pause > LONGEST_WAIT:
            raise Unavailable(told, status, wait)
        shown().message(f"{title}: {told}; trying again in {duration(pause)} (try {number + 1} of {tries})")
        time.sleep(pause)
    raise AssertionError(tries)


def _offline() -> type[Exception]:
    from huggingface_hub.errors import OfflineModeIsEnabled

    found: type[Exception] = OfflineModeIsEnabled
    return found


def _words(status: int) -> str:
    if status == 429:
        return "the hub answers 429 (too many requests)"
    return f"the hub answers {status}" + (" (its own fault)" if status >= 500 else "")


def _asked(header: str | None) -> float | None:
    """Seconds of `Retry-After`; None for a date, which nobody sends here."""
    return float(header) if header is not None and header.strip().isdigit() else None


class _Resumable:
    """The body of an answer; where it breaks off, the client takes it for an end that it resumes from."""

    def __init__(self, stream: Any, title: str, protocol: type[Exception]) -> None:
        self._stream, self._title, self._protocol = stream, title, protocol

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except Exception as error:
            if not is_transport(error):
                raise
            shown().message(f"{self._title}: the connection broke ({_received(error)}); resuming")
            raise self._protocol(str(error)) from error

    def close(self) -> None:
        self._stream.close()


def _received(error: Exception) -> str:
    """`1.2 MB of 6.8 MB received`, where the client tells."""
    found = re.search(r"received (\d+) bytes, expected (\d+)", str(error))
    return f"{count(int(found[1]), 'B')} of {count(int(found[2]), 'B')} received" if found else reason(error)


def _resumable(answer: Any, title: str) -> Any:
    """An answer whose body the client resumes, whatever broke it; those of other clients stay as they are."""
    module = importlib.import_module(type(answer).__module__.partition(".")[0])
    protocol, kind = getattr(module, "RemoteProtocolError", None), getattr(module, "SyncByteStream", None)
    if protocol is not None and kind is not None and isinstance(answer.stream, kind):
        answer.stream = type("Resumable", (_Resumable, kind), {})(answer.stream, title, protocol)
    return answer


def unreachable(endpoint: str) -> str | None:
    """Why a hub cannot be reached; None where it answers. Asked once a minute, for at most `PROBE` seconds."""
    return _probe(endpoint, int(time.monotonic() // 60))


@lru_cache(maxsize=4)
def _probe(endpoint: str, minute: int) -> str | None:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=PROBE)
    except Exception as error:  # of whatever client; a wrong address has its own
        return reason(error)
    return None


def download_bar(title: str) -> Any:
    """A replacement for tqdm in the hub's client that reports received bytes to our progress and draws nothing."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})
            self._open = ExitStack()
            self._advance = self._open.enter_context(shown().phase(f"download {title}", int(self.total or 0), "B"))
            self._advance(int(self.n))

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            self._advance(int(n or 0))

        def close(self) -> None:
            self._open.close()

    return Bar
