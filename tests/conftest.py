"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmark.utils.digests import CACHE_VARIABLE
from tests.hub import Hub


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests of files are remembered below the tests' own folder, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def loopback_hub() -> Iterator[Hub]:
    """A hub of the test's own, empty and running."""
    with Hub() as hub:
        yield hub
