"""Whether a process lives or is stopped, with /proc and, as on macOS and Windows, without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmark.utils import processes
from benchmark.utils.processes import is_alive, is_gone, is_stopped, is_stopped_here, owner


@pytest.fixture(params=["with /proc", "without"], autouse=True)
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "without":
        monkeypatch.setattr(processes, "_stat", lambda pid: [])
    processes._has_proc.cache_clear()
    yield
    processes._has_proc.cache_clear()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_process_lives_until_it_has_ended(child: subprocess.Popen[bytes]) -> None:
    assert is_alive(os.getpid())
    assert is_alive(child.pid)
    who = owner().split(" ")
    who[1] = str(child.pid)
    world, _, _ = who[2].rpartition(":")
    known = f"{who[0]} {child.pid} {world}:{processes._started(child.pid)}"
    assert not is_gone(known)
    assert is_gone(f"{known}1")  # another one with the same id
    child.kill()
    child.wait()
    assert not is_alive(child.pid)
    assert is_gone(known)


def test_asking_ends_no_process(child: subprocess.Popen[bytes]) -> None:
    assert is_alive(child.pid)
    assert child.poll() is None


def test_one_that_is_stopped_is_told_from_one_that_runs(child: subprocess.Popen[bytes]) -> None:
    assert not is_stopped_here(child.pid)
    assert not is_stopped(owner())
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert is_stopped_here(child.pid)
    child.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("pid", [2**22 + 5, 2**40])
def test_ids_that_no_process_has(pid: int) -> None:
    assert not is_alive(pid)
    assert not is_stopped_here(pid)
