"""A server for each test, a client that waits for nothing, and locks of hosts in the test's own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from benchmark.download.transfer import Network
from tests.unit.download.server import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    """A running web server."""
    with serving() as found:
        yield found


@pytest.fixture
def pauses() -> list[float]:
    """The seconds that were waited."""
    return []


@pytest.fixture
def network(pauses: list[float]) -> Iterator[Network]:
    """A client whose pauses take no time."""
    with requests.Session() as session:
        session.trust_env = False
        yield Network(session, pauses.append)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RELIQUANT_DOWNLOADS", raising=False)
    monkeypatch.delenv("RELIQUANT_DATA", raising=False)
