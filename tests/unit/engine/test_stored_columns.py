"""What a run leaves in the ledger: columns that can be summarised again, and the identity of each evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark import Settings, SuiteSpec, make_plan, run
from benchmark.ledger.records import Ledger
from benchmark.results.identity import found, identities
from benchmark.results.summaries import outcome_of
from benchmark.spec.suite import load_suite, narrow


@pytest.fixture(scope="module")
def suite() -> SuiteSpec:
    return narrow(load_suite("demo"), quantizations=["rtn-w4a8-vision"], limit=16, tasks=TASKS)


TASKS = ("zero_shot", "calibration", "ood", "covariate_shift", "spurious", "selective")


@pytest.fixture(scope="module")
def ledger(suite: SuiteSpec, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    home: Path = tmp_path_factory.mktemp("home")
    assert not run(make_plan(suite, Settings(workers=1)), home).failed
    return Ledger(home)


def test_stored_columns_give_the_metrics_again(ledger: Ledger) -> None:
    """Bit for bit, and notes and tables with them; what only a comparison gives is the record's."""
    assert len(ledger.records) > 10
    for record in ledger.records.values():
        stored, again = ledger.outcome(record), outcome_of(ledger, record)
        assert dict(again.metrics) == dict(stored.metrics)
        assert dict(again.notes) == dict(stored.notes)
        assert not stored.tables
        assert bool(again.tables) == (record.task in ("calibration", "ood", "spurious", "selective"))


def test_records_are_found_by_identity(ledger: Ledger, suite: SuiteSpec) -> None:
    records = list(ledger.records.values())
    wanted = identities(suite)
    assert [found(records, one) for one in wanted] == [
        next(r for r in records if (r.quantization, r.name) == (one["quantization"], name))
        for one in wanted
        for name in [f"{one['task']['name']}/{one['task']['label']}"]
    ]
    assert not any(found(records, one) for one in identities(narrow(suite, limit=17)))


def test_common_and_counter_share_their_scenes(ledger: Ledger) -> None:
    record = next(r for r in ledger.records.values() if r.task == "spurious")
    columns = ledger.outcome(record).columns
    np.testing.assert_array_equal(columns["common"]["base_id"], columns["counter"]["base_id"])
    assert not set(columns["common"]["sample_id"]) & set(columns["counter"]["sample_id"])
