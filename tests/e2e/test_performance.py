"""`make bench` in its quick form: its rows work and stand in the table. No seconds are asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.performance import load_page, page
from tests.performance.row_linear import fit

ROOT = Path(__file__).resolve().parent.parent.parent
LEFT_OUT = {
    "peer-vit": "needs a registry",
    "peer-small": "needs a registry",
    "commands": "tests/unit/cli/test_light_commands.py runs them",
    "suite": "`tracking` runs the same suite",
    "runtime-int8": "tests/e2e/test_suites.py::test_deploy runs the kernels",
}
"""Row -> why it is not tried here: together they would take as long as all others."""


def test_the_page_keeps_what_is_written_by_hand(tmp_path: Path) -> None:
    place = tmp_path / "page.md"
    place.write_text(f"# Title\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.put(place, "new")
    assert place.read_text() == f"# Title\n{page.BEGIN}\nnew\n{page.END}\nafter\n"
    place.write_text("no markers")
    with pytest.raises(SystemExit, match="has no lines"):
        page.put(place, "new")
    page.put(tmp_path / "other" / "page.md", "first")
    assert "first" in (tmp_path / "other" / "page.md").read_text()


def test_the_table_names_each_row_and_what_was_missed() -> None:
    about = {"machine": "m", "versions": "v", "date": "d"}
    rows = [
        {"name": name, "what": "a / b", "measured": "1", "limit": "0", "target": "2", "reached": ok, "details": ["so"]}
        | {"about": "m; v; d" if name != "two" else "another machine"}
        for name, ok in (("one", True), ("two", False), ("three", None))
    ]
    text = page.table(rows, about, "make bench")
    assert "| `one` | a / b | 1 | 0 | 2 | reached |" in text
    assert "| `two` | a / b | 1 | 0 | 2 | **missed** |" in text
    assert "**`two`.** so Measured on another machine." in text
    assert text.endswith("**`three`.** so")


def test_a_line_is_fitted() -> None:
    assert fit([(1, 3.0), (2, 5.0), (4, 9.0)]) == pytest.approx((2.0, 1.0, 1.0))


def test_projections_follow_the_measured_slope() -> None:
    steady = [(8 * i, 0.5 * 8 * i) for i in range(1, 101)]
    flat, grown = load_page.projected(steady, 7200)
    assert flat == pytest.approx(1.0)
    assert grown == pytest.approx(1.0, rel=1e-6)
    slowing = [(x, x**2 / 2) for x in range(10, 1001, 10)]
    flat, grown = load_page.projected(slowing, 10_000)
    assert grown == pytest.approx(10_000**2 / 2 / 3600, rel=1e-3)
    assert grown > flat
    assert load_page.rate(slowing, 0.75, 1.0) < load_page.rate(slowing, 0.0, 0.25)


@pytest.mark.slow
def test_rows_of_the_quick_benchmark(tmp_path: Path) -> None:
    from tests.performance.__main__ import ROWS

    names = [name for name in ROWS if name not in LEFT_OUT]
    output = tmp_path / "performance.md"
    command = [sys.executable, "-m", "tests.performance", "--quick", "--output", str(output), "--only", *names]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    text = output.read_text()
    for name in names:
        assert text.count(f"| `{name}` |") == 1
        assert text.count(f"**`{name}`.** ") == 1
    found = json.loads((ROOT / "build" / "performance" / "quick-cpu" / "results.json").read_text())
    assert found["added-task"]["values"]["forward_images"] == 0
    assert found["added-task"]["values"]["computed"] == 8
    assert found["again"]["values"]["computed"] == 0
    assert found["tracking"]["values"]["forward_images"] == 5 * 88  # towers, images
    assert found["memory"]["values"]["peaks"][0] > 100 * 2**20
