"""Ctrl-C and SIGTERM: neither gets lost, whichever moment they choose; the reader is told how to go on."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from benchmark.cli import main
from benchmark.utils.signals import Terminated

DROPPED = """
import signal, sys, time, weakref
from benchmark.utils.signals import Terminated, catch_stops

class Thing: pass

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
catch_stops()
thing = Thing()
{holder}
try:
    del thing  # Python drops what is raised in here
    print("went on", flush=True)
    time.sleep(20)
except Terminated:
    sys.exit(143)
except KeyboardInterrupt:
    sys.exit(130)
sys.exit(1)
"""
HEAVY = ("benchmark.cli.run", "benchmark.cli.scaffold", "search")
HOLDERS = {
    "weak reference": "held = weakref.ref(thing, lambda _: signal.raise_signal({number}))",
    "finalizer": "Thing.__del__ = lambda _: signal.raise_signal({number})",
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_that_python_drops_comes_again(holder: str, number: int, status: int) -> None:
    code = DROPPED.format(holder=holder.format(number=int(number)))
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "went on\n", "")


def test_other_dropped_exceptions_are_told() -> None:
    code = DROPPED.format(holder="held = weakref.ref(thing, lambda _: 1 / 0); time.sleep = lambda _: None")
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
@pytest.mark.parametrize("words", [["run", "demo"], ["search", "demo"]], ids=" ".join)
def test_a_stop_while_a_command_is_imported_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    stop: type[KeyboardInterrupt],
    status: int,
) -> None:
    class Importing:
        def find_spec(self, name: str, *rest: object) -> None:
            if name.startswith(HEAVY):
                raise stop

    for name in list(sys.modules):
        if name.startswith(HEAVY):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Importing(), *sys.meta_path])
    monkeypatch.setattr(sys, "argv", ["reliquant", *words])
    monkeypatch.setattr("benchmark.cli.app.catch_stops", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status
    expected = f"stopped; what is finished is kept. Go on with: {' '.join(sys.argv)}\n"
    assert capsys.readouterr().err == expected
