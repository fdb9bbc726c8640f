"""Every known hostile input is tried again by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.replay_holes import replay
from tests.e2e.vectors import Try


@pytest.mark.slow
@pytest.mark.parametrize("module", ["vectors_code", "vectors_images", "vectors_ends", "vectors_exact"])
def test_no_hole_is_open(module: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert replay(tmp_path, [module]) == 0, capfd.readouterr().out


def test_an_open_hole_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def harm() -> str:
        raise AssertionError("harm")

    tried = [Try("ends", "good", lambda: "inert"), Try("ends", "bad", harm)]
    monkeypatch.setattr("tests.e2e.replay_holes.collect", lambda folder, modules: tried)
    assert replay(tmp_path) == 1
