"""Stop cleanly: SIGTERM ends a command as Ctrl-C does, and neither gets lost."""

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
"""Seconds until a lost stop signal is raised again."""


class Interrupted(KeyboardInterrupt):
    """A real SIGINT, unlike a KeyboardInterrupt that code raised by itself."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: code that cleans up after Ctrl-C also cleans up after this."""


def catch_stops() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread, and a stop signal that Python drops is raised again.

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
    """Whether a signal stops this process, rather than code that raised a similar exception.

    Where nobody has called `catch_stops`, as in a notebook, every KeyboardInterrupt counts.
    """
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    return isinstance(error, Interrupted | Terminated)


@contextmanager
def no_way_out() -> Iterator[None]:
    """Within the block `os._exit` raises SystemExit in this process, so that no exit is silent; children may use it."""
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
    time.sleep(AGAIN)  # if raised at once, it would be dropped with the hook
    _thread.interrupt_main(number)
