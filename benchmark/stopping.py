"""Stopping cleanly: SIGTERM ends a command as Ctrl-C does, and the reader is told how to go on."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from types import FrameType

from benchmark.errors import masked

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses of a command that was stopped: 128 and the signal's number."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever cleans up after Ctrl-C cleans up after this too."""


def stop_on_sigterm() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread; does nothing in another thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def stopped(stop: KeyboardInterrupt) -> int:
    """Say that what is finished is kept and how to go on; returns the exit status."""
    command = shlex.join(["reliquant", *map(masked, sys.argv[1:])])
    print(f"stopped; what is finished is kept. Go on with: {command}", file=sys.stderr)
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
