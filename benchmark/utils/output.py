"""Keep stdout for the output of commands that programs read; everything else goes to stderr.

The file descriptor is redirected, so that native code, child processes and threads that outlive a task write to
stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TextIO

_OUT: ContextVar[TextIO] = ContextVar("out")
STDOUT, STDERR = 1, 2


def out() -> TextIO:
    """The stream for a command's own output."""
    return _OUT.get(sys.stdout)


@contextmanager
def own_stdout(wanted: bool) -> Iterator[None]:
    """Within the block, if `wanted`, only output written to `out()` reaches stdout."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    before, real = sys.stdout, _on_stdout(sys.stdout)
    saved = os.dup(STDOUT) if real else -1
    stream = os.fdopen(os.dup(saved), "w", encoding=before.encoding, buffering=1) if real else before
    token = _OUT.set(stream)
    if real:
        os.dup2(STDERR, STDOUT)
    sys.stdout = sys.stderr
    try:
        yield
        stream.flush()
    finally:
        sys.stdout = before
        _OUT.reset(token)
        if real:
            with suppress(OSError, ValueError):  # a reader that has gone was handled above
                before.flush()
            os.dup2(saved, STDOUT)
            os.close(saved)
            with suppress(OSError):
                stream.close()


def _on_stdout(stream: TextIO) -> bool:
    """Whether a stream writes to the process's stdout; one that a test or a notebook put there does not."""
    try:
        return stream.fileno() == STDOUT
    except (OSError, ValueError, AttributeError):
        return False
