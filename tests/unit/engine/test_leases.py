"""Leases: one owner at a time; a dead one loses them, also on another machine; a living one never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from benchmark.engine.leases import Leases, write_once
from benchmark.errors import StorageError
from benchmark.utils.processes import is_gone, is_here, owner, shown

HOLD = """
import sys, time
from pathlib import Path
from benchmark.engine.leases import Leases
with Leases(Path(sys.argv[1])) as leases:
    print(leases.take("k"), flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that leases `k` and keeps it until its input ends."""
    command = [sys.executable, "-c", HOLD, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "None\n"
        yield process
        process.kill()


def test_a_claim_has_one_owner_who_is_named(tmp_path: Path) -> None:
    with Leases(tmp_path) as mine, holding(tmp_path) as other:
        who = mine.take("k")
        assert who is not None
        assert shown(who).startswith(f"process {other.pid} on ")
        assert not is_gone(who)
        assert mine.take("another") is None


def test_the_folder_of_the_leases_is_made(tmp_path: Path) -> None:
    with Leases(tmp_path / "not yet" / "there") as mine:
        assert mine.take("k") is None
        assert mine.ours("k")


def test_a_claim_given_up_is_free(tmp_path: Path) -> None:
    with Leases(tmp_path) as mine, Leases(tmp_path) as other:
        with mine.lease("k") as holder:
            assert holder is None
            with other.lease("k") as second:
                assert second == owner()
        with other.lease("k") as holder:
            assert holder is None
    with Leases(tmp_path) as last:
        assert last.take("k") is None


def test_a_killed_owner_loses_its_claims_at_once(tmp_path: Path) -> None:
    with Leases(tmp_path) as mine, holding(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (tmp_path / "leases" / "k.owner").is_file()
        assert mine.take("k") is None
        assert (tmp_path / "leases" / "k.owner").read_text() == owner()


@pytest.mark.parametrize("silence", [0.0, 119.0, 121.0, 10_000.0])
def test_an_owner_elsewhere_is_dead_after_a_long_silence(tmp_path: Path, silence: float) -> None:
    """Its lock is not seen here: a file system whose locks are local."""
    with Leases(tmp_path) as mine:
        assert mine.take("other") is None
        signed = tmp_path / "leases" / "k.owner"
        signed.write_text("another-machine 7 1")
        then = time.time() - silence
        os.utime(signed, (then, then))
        assert mine.take("k") == ("another-machine 7 1" if silence < 120 else None)
        assert mine.take("other") == owner()


def test_a_living_owner_is_heard(tmp_path: Path) -> None:
    with Leases(tmp_path, beat=0.01) as mine:
        assert mine.take("k") is None
        signed = tmp_path / "leases" / "k.owner"
        os.utime(signed, (0, 0))
        deadline = time.monotonic() + 20
        while signed.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert signed.stat().st_mtime > 0


@pytest.mark.parametrize("who", ["dead here", "alive here", "unsigned, long ago"])
def test_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    def acquire(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with Leases(tmp_path) as mine, Leases(tmp_path) as other:
        assert mine.take("taken") is None
        assert other.take("taken") == owner()
        signed = tmp_path / "leases" / "k.owner"
        signed.write_text({"dead here": owner() + "1", "alive here": owner(), "unsigned, long ago": ""}[who])
        os.utime(signed, (0, 0))
        assert mine.take("k") == (owner() if who == "alive here" else None)


def test_a_folder_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("")
    with Leases(tmp_path) as mine, pytest.raises(StorageError, match="leases folder"):
        mine.take("k")


def _take_many(home: Path, gate: Callable[[], object], taken: list[str]) -> None:
    with Leases(home) as leases:
        gate()
        taken += [str(i) for i in range(200) if leases.take(str(i)) is None]
        gate()


def test_of_many_claimants_each_claim_has_one(tmp_path: Path) -> None:
    import threading

    gate, taken = threading.Barrier(4), [[] for _ in range(4)]  # type: list[list[str]]
    threads = [threading.Thread(target=_take_many, args=(tmp_path, gate.wait, some)) for some in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key for some in taken for key in some) == sorted(map(str, range(200)))


ELSEWHERE = "another-machine 7 boot:1:1"


def test_a_claim_that_was_taken_over_is_not_given_up_nor_refreshed(tmp_path: Path) -> None:
    """A process that was suspended for long wakes up: its lease is somebody else's by now."""
    signed = tmp_path / "leases" / "k.owner"
    with Leases(tmp_path, beat=0.01) as woken:
        assert woken.take("k") is None
        assert woken.take("beating") is None
        signed.write_text(ELSEWHERE)
        os.utime(signed, (0, 0))
        beating = tmp_path / "leases" / "beating.owner"
        for _ in range(2):  # whole rounds of the heart
            os.utime(beating, (0, 0))
            while beating.stat().st_mtime == 0:
                time.sleep(0.01)
        assert signed.stat().st_mtime == 0
    assert signed.read_text() == ELSEWHERE
    assert not beating.exists()


def test_a_dead_owner_who_is_replaced_while_we_look_keeps_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our look at a dead owner's name and its removal a living one signs: his name stays."""
    with Leases(tmp_path) as mine:
        assert mine.take("other") is None
        signed = tmp_path / "leases" / "k.owner"
        signed.write_text("another-machine 6 boot:1:1")
        os.utime(signed, (0, 0))
        rename = Path.rename

        def late(path: Path, target: Path) -> Path:
            if path == signed:
                signed.write_text(ELSEWHERE)
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", late)
        assert mine.take("k") == ELSEWHERE
        assert signed.read_text() == ELSEWHERE


@pytest.mark.parametrize("silence", [0.0, 119.0, 121.0])
def test_the_lock_of_a_machine_that_is_gone_does_not_hold_for_ever(tmp_path: Path, silence: float) -> None:
    """A file server can keep the locks of a host that went down: the heartbeat decides."""
    with holding(tmp_path), Leases(tmp_path) as mine:
        signed = tmp_path / "leases" / "k.owner"
        signed.write_text(ELSEWHERE)
        then = time.time() - silence
        os.utime(signed, (then, then))
        assert mine.take("k") == (ELSEWHERE if silence < 120 else None)


def test_a_recycled_id_and_another_container_are_not_taken_for_alive() -> None:
    host, pid, life = owner().split()
    boot, space, start = life.split(":")
    assert is_here(owner())
    assert not is_gone(owner())
    rebooted, contained = f"{host} {pid} x{boot}:{space}:{start}", f"{host} {pid} {boot}:1{space}:{start}"
    assert not is_here(rebooted)
    assert is_gone(rebooted)
    assert not is_here(contained)
    assert not is_gone(contained)  # nobody here can say
    assert is_gone(f"{host} {pid} {boot}:{space}:1{start}")


@pytest.mark.parametrize("world", ["x{}:{}", "{}:1{}"])
def test_a_claim_of_another_boot_or_container_ends_by_its_silence(tmp_path: Path, world: str) -> None:
    host, pid, life = owner().split()
    boot, space, start = life.split(":")
    with Leases(tmp_path) as mine:
        assert mine.take("other") is None
        signed = tmp_path / "leases" / "k.owner"
        signed.write_text(who := f"{host} {pid} {world.format(boot, space)}:{start}")
        assert mine.take("k") == who
        os.utime(signed, (0, 0))
        assert mine.take("k") is None


@pytest.mark.parametrize("links", [True, False])
def test_a_mark_is_whole_and_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", link)
    assert write_once(tmp_path / "mark", "one")
    assert not write_once(tmp_path / "mark", "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mark", "one")]
