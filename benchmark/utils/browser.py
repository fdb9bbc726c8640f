"""Servers on this machine: a free port, and a browser on it once it answers (`python -m benchmark.utils.browser`)."""

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
    """Open `url` when `host:port` answers; returns at once, so that this process may become the server.

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


def check_port(host: str, port: int) -> None:
    """Refuse a port that is in use, before a server is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port N"
            ) from None


def answers(host: str, port: int, seconds: float) -> bool:
    """Whether a server accepts connections there within so many seconds."""
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
    """Wait for the server, then open the browser; 1 when it never answers or there is no browser."""
    return 0 if answers(host, int(port), PATIENCE) and webbrowser.open(url) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
