"""Which process wrote something, and whether it still runs: host, process id and start time."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def owner() -> str:
    """This process, so that others on its machine can see whether it still runs: host, id and start time."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def is_here(who: str) -> bool:
    """Whether a process runs, or ran, on this machine."""
    return who.partition(" ")[0] == socket.gethostname()


def is_gone(who: str) -> bool:
    """Whether a process of this machine has ended; never for other machines."""
    pid, _, start = who.partition(" ")[2].partition(" ")
    return is_here(who) and pid.isdigit() and _started(int(pid)) != start


def shown(who: str) -> str:
    """An owner for the reader: `process 12 on HOST`."""
    host, _, rest = who.partition(" ")
    pid = rest.partition(" ")[0]
    return f"process {pid} on {host}" if pid.isdigit() else who


def _started(pid: int) -> str:
    """What tells a process from a later one with the same id; empty where there is none."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except PermissionError:
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:  # no /proc here: the id has to do
        return "running"
    return "" if fields[0] in "ZX" else fields[19]
