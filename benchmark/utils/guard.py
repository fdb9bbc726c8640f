"""Call plugin code: whatever it raises, and any attempt to end the process, becomes an error with its reason.

A real Ctrl-C or SIGTERM still stops the command (`benchmark.utils.signals.is_stop`).
"""

from __future__ import annotations

import atexit
import contextvars
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeVar

from benchmark.errors import PluginError, ReliquantError, masked
from benchmark.utils.signals import is_stop

T = TypeVar("T")
ABANDONED = "abandoned: timed out"
"""Name of the thread of an abandoned call."""


def text_of(error: BaseException) -> str:
    """The text of an exception on one line and without passwords, also if its `__str__` fails."""
    try:
        return masked(" ".join(str(error).split()))
    except BaseException as another:  # a plugin's __str__ may raise anything
        if is_stop(another):
            raise
        return f"its __str__ raised {type(another).__name__}"


def described(error: BaseException) -> str:
    """Type and text of an exception: `ValueError: text`."""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def guarded(what: str, function: Callable[[], T]) -> T:
    """Call code of a plugin.

    Raises:
        Exception: as the plugin raised it.
        PluginError: it raised what would end the process (SystemExit, GeneratorExit, a KeyboardInterrupt of its own).
    """
    try:
        return function()
    except Exception:
        raise
    except BaseException as error:
        if is_stop(error):
            raise
        raise PluginError(f"{what} raised {described(error)}") from error


def within(seconds: float | None, what: str, function: Callable[[], T]) -> T:
    """Call code of a plugin and abandon it after so many seconds; None: no limit.

    With a limit it runs in a thread of its own, in the caller's context, because a signal reaches neither native code
    nor threads other than the main one, as in some workers. An abandoned call gets an exception, which ends a Python
    loop at once and native code when it returns; child processes that it waits for are killed. The limit does not
    change the result.

    Raises:
        PluginError: it took longer, or see `guarded`.
    """
    if seconds is None:
        return guarded(what, function)
    done: list[Callable[[], T]] = []

    def work() -> None:
        try:
            value = function()
            done.append(lambda: value)
        except BaseException as error:  # raised again in the caller's thread; no signal arrives in this one
            failure = _no_stop(what, error)

            def fail() -> NoReturn:
                raise failure

            done.append(fail)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    thread.join(min(seconds, threading.TIMEOUT_MAX))
    if thread.is_alive():
        _abandon(thread)
        raise PluginError(f"{what} timed out after {seconds:g} s (--task-timeout)")
    return guarded(what, done[0])


def _no_stop(what: str, error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    failure = PluginError(f"{what} raised {described(error)}")
    failure.__cause__ = error
    return failure


def _abandon(thread: threading.Thread) -> None:
    thread.name = ABANDONED
    if sys.platform == "linux":
        with suppress(OSError):  # a container without /proc, or a child that has just ended
            for child in Path(f"/proc/self/task/{thread.native_id}/children").read_text(encoding="ascii").split():
                os.kill(int(child), signal.SIGKILL)
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def leave(status: int) -> NoReturn:
    """End the process with a status, without waiting for abandoned calls."""
    if any(thread.name == ABANDONED for thread in threading.enumerate()):
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    sys.exit(status)


def refused(error: BaseException) -> ReliquantError:
    """An exception that ended a command unexpectedly, as an error with its reason."""
    return PluginError(f"a plugin tried to end the command ({described(error)}); what is finished is kept")
