"""Code of plugins: whatever it raises or does, an error with its reason comes out; a real stop passes."""

from __future__ import annotations

import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmark.errors import PluginError
from benchmark.utils.guard import described, guarded, within
from benchmark.utils.signals import Interrupted, Terminated, no_way_out


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def throw(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), BaseException("x")], ids=repr)
@pytest.mark.parametrize("seconds", [None, 20.0])
def test_what_would_end_the_process_is_an_error(error: BaseException, seconds: float | None) -> None:
    with pytest.raises(PluginError, match=f"task 'x' raised {type(error).__name__}"):
        within(seconds, "task 'x'", lambda: throw(error))


@pytest.mark.parametrize("error", [ValueError("v"), MemoryError(), PluginError("p")], ids=repr)
@pytest.mark.parametrize("seconds", [None, 20.0])
def test_other_errors_stay_what_they_are(error: Exception, seconds: float | None) -> None:
    with pytest.raises(type(error)) as caught:
        within(seconds, "x", lambda: throw(error))
    assert caught.value is error


@pytest.mark.parametrize("stop", [Interrupted, Terminated])
def test_a_stop_passes(stop: type[BaseException]) -> None:
    with pytest.raises(stop):
        guarded("x", lambda: throw(stop()))


def test_a_plugin_cannot_interrupt_where_stops_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with pytest.raises(PluginError, match="KeyboardInterrupt"):
        guarded("x", lambda: throw(KeyboardInterrupt()))
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):  # nobody could tell them apart
        guarded("x", lambda: throw(KeyboardInterrupt()))


def test_a_text_that_cannot_be_made() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise SystemExit(0)

    assert described(Odd()) == "Odd: its __str__ raised SystemExit"


def test_a_call_is_given_up_and_its_thread_ends() -> None:
    before = set(threading.enumerate())
    with pytest.raises(PluginError, match=r"task 'x' timed out after 0.2 s"):
        within(0.2, "task 'x'", lambda: [time.sleep(0.01) for _ in iter(int, 1)])
    deadline = time.monotonic() + 20
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_children_of_a_call_that_is_given_up_end() -> None:
    found: list[subprocess.Popen[bytes]] = []

    def wait() -> None:
        found.append(subprocess.Popen(["sleep", "1000"]))
        found[0].wait()

    with pytest.raises(PluginError, match="timed out"):
        within(0.5, "x", wait)
    deadline = time.monotonic() + 20
    while is_running(found[0].pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(found[0].pid)
    found[0].wait(20)


def test_a_limit_changes_nothing_else() -> None:
    place = contextvars.ContextVar("place", default="")
    place.set("mine")
    assert within(20.0, "x", place.get) == within(None, "x", place.get) == "mine"


def test_nobody_leaves_but_children() -> None:
    with no_way_out():
        with pytest.raises(SystemExit, match=r"os._exit\(0\)"):
            os._exit(0)
        child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


OUTPUT = """
import os, subprocess, sys
from benchmark.utils.output import out, own_stdout
print("before")
with own_stdout(True):
    print("printed"); os.write(1, b"written\\n"); subprocess.run(["echo", "child"]); sys.__stdout__.write("kept\\n")
    print("{}", file=out())
print("after")
"""


def test_only_own_output_reaches_stdout() -> None:
    done = subprocess.run([sys.executable, "-c", OUTPUT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["before", "{}", "after"]
    assert sorted(done.stderr.splitlines()) == ["child", "kept", "printed", "written"]
