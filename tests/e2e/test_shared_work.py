"""Several processes on one sweep: each evaluation and each forward pass once, the same records as one process."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.runs import EVALUATIONS, leftovers, results, sweeps


def test_three_processes_share_a_sweep_and_do_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "shared").mkdir()
    [(computed, images)] = sweeps(tmp_path / "alone", 1)
    assert computed == EVALUATIONS
    shared = sweeps(tmp_path / "shared", 3)
    assert sum(some for some, _ in shared) == EVALUATIONS
    assert sum(some for _, some in shared) == images
    assert sum(some > 0 for some, _ in shared) >= 2
    alone = results(tmp_path / "alone" / "home")
    assert results(tmp_path / "shared" / "home") == alone
    rows = (tmp_path / "shared" / "home" / "records.jsonl").read_text().splitlines()
    assert sorted(json.loads(row)["key"] for row in rows) == sorted(alone)
    assert not leftovers(tmp_path / "shared" / "home")
