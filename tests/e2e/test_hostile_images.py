"""`reliquant run` on folders with one hostile image; the rest of `vectors_images` takes the same path."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.vectors_images import tries

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["EPS named .png", "PNG of 5,000,000 x 1", "WebP that claims 16,384 x 16,384"])
@pytest.mark.parametrize(("how", "outcome"), [("refused", "refused"), ("--skip-broken", "skipped")])
def test_a_hostile_image_is_one_line_or_one_skip(name: str, how: str, outcome: str, tmp_path: Path) -> None:
    [found] = [one for one in tries(tmp_path) if one.name == f"{name}, {how}"]
    assert found.attempt().startswith(f"{outcome}: ")
