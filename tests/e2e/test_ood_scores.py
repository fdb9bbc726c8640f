"""GL-MCM and NegLabel through the engine: patch features and negative labels reach the task, and count in its hash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.engine.holding import ModelHolder
from benchmark.engine.plan import make_plan
from benchmark.engine.run import Sweep, run
from benchmark.errors import ReliquantError
from benchmark.spec import SuiteSpec

QUANT = "rtn-w4a8-channel-token-vision"


def suite(*quantizations: str, **options: Any) -> SuiteSpec:
    scores = {"scores": ["mcm", "gl_mcm", "neg_label"], "negatives": ["chair", "blue lamp", "river"], **options}
    return SuiteSpec.model_validate(
        {
            "name": "small",
            "version": 1,
            "models": ["demo"],
            "quantizations": ["fp32", *quantizations],
            "data": {
                "scenes": {"source": "demo", "split": "test", "limit": 12},
                "far": {"source": "demo", "split": "far_ood", "text": "none", "limit": 10},
            },
            "tasks": {"ood": {"far": {"id": "scenes", "ood": "far", "options": scores}}},
        }
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ood")


@pytest.fixture(scope="module")
def first(home: Path) -> Sweep:
    return run(make_plan(suite(QUANT)), home)


def test_both_scores_are_evaluated_and_compared(first: Sweep) -> None:
    assert not first.failed
    full, quantized = first.records
    for score in ("mcm", "gl_mcm", "neg_label"):
        assert 0.0 <= full.metrics[f"ood/far/{score}/auroc"] <= 1.0
        (change,) = [c for c in first.changes if c.key == f"ood/far/{score}/auroc"]
        assert change.value == quantized.metrics[change.key]
        assert change.low is not None
        assert change.p is not None
    assert first.uncompared == {}
    assert full.comparison_key == quantized.comparison_key
    assert full.comparison_key


def test_a_second_run_runs_no_model(first: Sweep, home: Path) -> None:
    again = run(make_plan(suite(QUANT)), home)
    assert (again.computed, again.forward_images) == (0, 0)
    assert again.changes == first.changes


def test_other_negatives_are_another_evaluation_on_the_same_features(first: Sweep, home: Path, tmp_path: Path) -> None:
    words = tmp_path / "negatives.txt"
    words.write_text("tree\ngreen door\n")
    other = run(make_plan(suite(QUANT, negatives=str(words))), home)
    assert (other.computed, other.forward_images) == (2, 0)
    words.write_text("tree\nyellow door\n")
    assert run(make_plan(suite(QUANT, negatives=str(words))), home).computed == 2
    key = "ood/far/gl_mcm/auroc"
    assert other.records[0].metrics[key] == first.records[0].metrics[key]


def test_a_missing_file_of_negatives_is_said_before_any_work() -> None:
    with pytest.raises(ReliquantError, match=r"none\.txt"):
        make_plan(suite(negatives="/no/such/none.txt"))


def test_a_model_without_patch_features_gets_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = property(lambda self: replace(self.resolved.load(self.device), taps={}))
    monkeypatch.setattr(ModelHolder, "model", bare)
    sweep = run(make_plan(suite()), tmp_path)
    (record,) = sweep.records
    assert record.status == "done"
    assert "no local (patch) features" in record.notes["ood/far/gl_mcm/auroc"]
    assert "ood/far/neg_label/auroc" in record.metrics
