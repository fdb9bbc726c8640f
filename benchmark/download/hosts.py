"""At most two streams to one host, counted over all processes of this user on this machine: servers refuse more."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from benchmark.utils.digests import memo_folder
from benchmark.utils.processes import stopped_with
from benchmark.utils.progress import shown

STREAMS = 2
LOOK = 0.5
"""Seconds between looks for a free stream."""


@contextmanager
def stream(url: str, pause: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold one of the host's streams; waits for one, and says so.

    A holder that is suspended does not count, and where no lock can be made there is no limit.
    """
    host = urlsplit(url).hostname or "host"
    folder = memo_folder() / "hosts"
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _wait(host, folder, stack, pause)
        except OSError:  # a user without a cache that can be written
            pass
        yield


def _wait(host: str, folder: Path, stack: ExitStack, pause: Callable[[float], None]) -> None:
    locks = [folder / f"{re.sub(r'[^A-Za-z0-9.-]', '_', host)}-{number}.lock" for number in range(STREAMS)]
    said = False
    while True:
        for path in locks:
            try:
                stack.enter_context(FileLock(path).acquire(timeout=0))
                return
            except Timeout:
                if stopped_with(path) is not None:
                    return
        if not said:
            said = True
            shown().message(f"{host}: {STREAMS} other downloads from it are under way; waiting for one to end")
        pause(LOOK)
