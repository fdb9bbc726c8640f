"""Every download, from a small copy of it on the loopback hub, is read by the data sets that it provides."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.data import expand, open_data
from benchmark.download.catalogue import catalogue as downloads
from benchmark.download.catalogue import in_order
from benchmark.download.fetch import fetch
from benchmark.download.state import state
from benchmark.spec.catalogue import catalogue
from tests.hub import Hub
from tests.published_hub import publish, published, the_rest

BY_HAND = {"imagenet-archives"}
"""Prepared, not read: tests/unit/download/test_prepare.py."""


@pytest.mark.slow
def test_what_is_fetched_can_be_read(loopback_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = published(tmp_path / "suites") | the_rest(tmp_path / "rest")
    assert set(contents) == set(downloads()) - BY_HAND
    publish(loopback_hub, contents, tmp_path / "downloads.yaml")
    known, root = downloads([tmp_path / "downloads.yaml"]), tmp_path / "data"
    monkeypatch.setenv("RELIQUANT_DATA", str(root))
    with loopback_hub.asked_here(tmp_path):
        for name in in_order(contents, known):
            assert fetch(name, root, known).missing == (), name
            assert state(name, root, known).complete, name
    for name, entry in catalogue().items():
        single = next(spec for key, spec in expand(name, entry.spec).items() if key == name or "/fog/" in key)
        data = open_data(single, name)
        assert len(data) > 0
        assert data.left_out == () or name.startswith(("imagenet-a-", "imagenet-r-", "counteranimal")), data.left_out
        assert len(data.encoded([0])) == 1
