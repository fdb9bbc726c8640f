"""Identify the process that wrote something, and check whether it still runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

STOPPED = ("T", "t")
"""States of a process that was stopped, or is held by a debugger."""


def owner() -> str:
    """The identity of this process, `HOST ID BOOT:NAMESPACE:START`, by which others can check whether it still runs.

    Process ids are reused after a reboot and differ between containers, and two containers can share a host name: boot
    and namespace distinguish them.
    """
    return f"{socket.gethostname()} {os.getpid()} {_world()}:{_started(os.getpid())}"


def is_here(who: str) -> bool:
    """Whether a process belongs to this machine, boot and container, so that its id is valid here."""
    host, world, _, _ = _parts(who)
    return host == socket.gethostname() and world == _world()


def is_gone(who: str) -> bool:
    """Whether a process of this machine has ended; never for other machines and containers."""
    host, world, pid, start = _parts(who)
    if is_here(who):
        return pid.isdigit() and _started(int(pid)) != start
    return host == socket.gethostname() and _boot(world) != _boot(_world())


def is_stopped(who: str) -> bool:
    """Whether a process of this machine is stopped, by SIGSTOP, Ctrl-Z or a debugger, and not yet continued."""
    _, _, pid, start = _parts(who)
    return is_here(who) and pid.isdigit() and _started(int(pid)) == start and is_stopped_here(int(pid))


def is_stopped_here(pid: int) -> bool:
    """Whether the process with this id is stopped."""
    return _state(pid) in STOPPED


def stopped_with(path: Path) -> int | None:
    """The id of a stopped process of this machine that has a file open, as the holder of its lock has; else None.

    It reads /proc, so it finds nothing without /proc or among other users' processes.
    """
    try:
        wanted = path.stat()
        found = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return None
    for process in found:
        if not is_stopped_here(int(process.name)):
            continue
        with suppress(OSError):  # another user's process, or one that has just ended
            for handle in (process / "fd").iterdir():
                with suppress(OSError):
                    if os.path.samestat(handle.stat(), wanted):
                        return int(process.name)
    return None


def shown(who: str) -> str:
    """An owner in words: `process 12 on HOST`."""
    host, _, rest = who.partition(" ")
    pid = rest.partition(" ")[0]
    return f"process {pid} on {host}" if pid.isdigit() else who


def _parts(who: str) -> tuple[str, str, str, str]:
    """Host, boot and namespace, process id, start time."""
    host, _, rest = who.partition(" ")
    pid, _, life = rest.partition(" ")
    world, _, start = life.rpartition(":")
    return host, world, pid, start


@cache
def _world() -> str:
    """`BOOT:NAMESPACE` of this process; both are empty without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}"
    except OSError:
        return ":"


def _boot(world: str) -> str:
    return world.partition(":")[0]


def is_alive(pid: int) -> bool:
    """Whether a process with this id runs on this machine; sends it nothing (on Windows `os.kill` would end it)."""
    return _started(pid) != ""


def _started(pid: int) -> str:
    """Start time of a process, which distinguishes it from a later one with the same id; empty where there is none."""
    if fields := _stat(pid):
        return "" if fields[0] in "ZX" else fields[19]
    return "" if _has_proc() else _asked(pid, lambda process: f"{process.create_time():.2f}")


def _state(pid: int) -> str:
    """The state letter as in /proc; empty where there is no such process."""
    if fields := _stat(pid):
        return fields[0]
    return "" if _has_proc() else _asked(pid, lambda process: "T" if process.status() == "stopped" else "R")


@cache
def _has_proc() -> bool:
    return bool(_stat(os.getpid()))


def _asked(pid: int, what: Callable[[Any], str]) -> str:
    """What psutil says of a process, on systems without /proc; empty of one that is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else what(process)
    except psutil.AccessDenied:
        return "running"
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name; empty without /proc."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return content.rpartition(")")[2].split()
