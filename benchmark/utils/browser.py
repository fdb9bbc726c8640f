"""Opening the user's browser on a server of ours, once it answers: `python -m benchmark.utils.browser HOST PORT URL`."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import webbrowser

from benchmark.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PATIENCE = 120.0
"""Seconds that a server may take to start."""


def open_later(host: str, port: int, url: str) -> subprocess.Popen[bytes]:
    """Open `url` when `host:port` answers; returns at once, the server may take this process's place.

    Returns:
        the process that waits for the server.

    Raises:
        InputError: `host` is not this machine: a browser is opened on loopback addresses only.
    """
    if host not in LOOPBACK:
        raise InputError(f"--open works with --host 127.0.0.1 only, not with {host}: open the printed address yourself")
    command = [sys.executable, "-m", "benchmark.utils.browser", host, str(port), url]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def answers(host: str, port: int, seconds: float) -> bool:
    """Whether somebody listens there within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return True
    return False


def main(host: str, port: str, url: str) -> int:
    """Wait, then open; 1 when the server never came or there is no browser."""
    return 0 if answers(host, int(port), PATIENCE) and webbrowser.open(url) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
