"""Stopping cleanly: SIGTERM ends a command as Ctrl-C does, neither gets lost, and the reader is told how to go on."""

from __future__ import annotations

import _thread
import shlex
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from typer.core import TyperGroup

from benchmark.errors import INTERRUPTED, TERMINATED, masked

AGAIN = 0.02
"""Seconds until a stop that was lost comes again."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever cleans up after Ctrl-C cleans up after this too."""


class Stoppable(TyperGroup):
    """Commands that end with a sentence and the signal's exit status when they are stopped, imports included."""

    def invoke(self, ctx: Any) -> Any:
        """The command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise SystemExit(stopped(stop)) from None


def catch_stops() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread, and a stop that Python would drop comes again.

    Python drops exceptions in weak references' callbacks and in finalizers, and a signal may arrive in one. Does
    nothing in another thread.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
        sys.unraisablehook = _dropped


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _dropped(what: sys.UnraisableHookArgs) -> None:
    if isinstance(what.exc_value, KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(what.exc_value, Terminated) else signal.SIGINT
        _thread.start_new_thread(_again, (number,))  # `threading` takes locks, and this may be inside of them
    else:
        sys.__unraisablehook__(what)


def _again(number: signal.Signals) -> None:
    time.sleep(AGAIN)  # raised at once it would be dropped with the hook
    _thread.interrupt_main(number)


def stopped(stop: KeyboardInterrupt) -> int:
    """Say that what is finished is kept and how to go on; returns the exit status."""
    command = shlex.join(["reliquant", *map(masked, sys.argv[1:])])
    print(f"stopped; what is finished is kept. Go on with: {command}", file=sys.stderr)
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
