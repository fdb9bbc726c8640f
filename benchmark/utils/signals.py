"""Stopping cleanly: SIGTERM ends a command as Ctrl-C does, neither gets lost, and the reader is told how to go on."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

AGAIN = 0.02
"""Seconds until a stop that was lost comes again."""


class Interrupted(KeyboardInterrupt):
    """SIGINT, a real one: a KeyboardInterrupt that some code raised by itself is none."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever cleans up after Ctrl-C cleans up after this too."""


def catch_stops() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread, and a stop that Python would drop comes again.

    Python drops exceptions in weak references' callbacks and in finalizers, and a signal may arrive in one. SIGINT,
    unless it is ignored, raises `Interrupted`. Does nothing in another thread.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
        catch_interrupts()
        sys.unraisablehook = _dropped


def catch_interrupts() -> None:
    """From now on SIGINT, unless it is ignored, raises `Interrupted` in the main thread."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def is_stop(error: BaseException) -> bool:
    """Whether a signal stops this process, and not code that raised something like it.

    Where nobody has called `catch_stops`, as in a notebook, every KeyboardInterrupt counts.
    """
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    return isinstance(error, Interrupted | Terminated)


@contextmanager
def no_way_out() -> Iterator[None]:
    """Within, `os._exit` raises SystemExit in this process, so that nobody leaves without a word; children may."""
    leave, here = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() == here:
            raise SystemExit(f"os._exit({status})")
        leave(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _dropped(what: sys.UnraisableHookArgs) -> None:
    if isinstance(what.exc_value, KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(what.exc_value, Terminated) else signal.SIGINT
        _thread.start_new_thread(_again, (number,))  # `threading` takes locks, and this may be inside of them
    else:
        sys.__unraisablehook__(what)


def _again(number: signal.Signals) -> None:
    time.sleep(AGAIN)  # raised at once it would be dropped with the hook
    _thread.interrupt_main(number)
