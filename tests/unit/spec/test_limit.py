"""A limit is for what is tested: what something is fitted on stays whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmark.cli.app import app
from benchmark.engine.plan import make_plan
from benchmark.engine.survey import survey
from benchmark.errors import SpecError
from benchmark.ledger.records import Ledger
from benchmark.spec import SuiteSpec
from benchmark.spec.suite import limit_of, load_suite, narrow, spared
from search.splits import suite_on_test, suite_on_validation

SETS = {
    "scenes": {"source": "demo", "split": "test"},
    "far": {"source": "demo", "split": "far_ood", "text": "none"},
    "pairs": {"source": "demo", "split": "calibration", "text": "captions", "limit": 60},
    "tuning": {"source": "demo", "split": "v2", "limit": 40},
}
TASKS = {
    "calibration": {"a": {"test": "scenes", "fit": "tuning"}},
    "ood": {"a": {"id": "scenes", "ood": "far"}},
}


def suite(**changes: Any) -> SuiteSpec:
    fields = {
        "name": "s", "version": 1, "models": ["demo"], "quantizations": ["rtn-w8a8-channel-tensor-vision"],
        "calibration": "pairs", "data": SETS, "tasks": TASKS, "limit": 12,
    }  # fmt: skip
    return SuiteSpec.model_validate({**fields, **changes})


def test_calibration_and_fit_sets_stay_whole() -> None:
    assert spared(suite()) == {"pairs", "tuning"}
    assert {name: limit_of(suite(), name) for name in SETS} == {"scenes": 12, "far": 12, "pairs": 60, "tuning": 40}
    assert limit_of(suite(limit=50), "scenes") == 50
    assert limit_of(suite(limit=None), "scenes") is None
    both = {"calibration": {"a": {"test": "scenes", "fit": "tuning"}, "b": {"test": "tuning"}}}
    assert limit_of(suite(tasks=both), "tuning") == 40, "tested on as well: what is fitted on it counts"


def test_a_limit_of_the_command_line_changes_no_quantized_model() -> None:
    """Keys of quantized models, and with them of their calibration, are the same; those of evaluations are not."""
    few, whole = (make_plan(narrow(suite(limit=None), limit=limit)) for limit in (12, None))
    assert [len(few.data[name]) for name in SETS] == [12, 12, 60, 40]
    assert [len(whole.data[name]) for name in SETS][2:] == [60, 40]
    for one, other in zip(few.configurations, whole.configurations, strict=True):
        assert one.quantized_key == other.quantized_key
        assert not {e.key for e in one.evaluations} & {e.key for e in other.evaluations}
    assert few.data["tuning"].digest == whole.data["tuning"].digest


@pytest.mark.parametrize("split", [suite_on_validation, suite_on_test])
def test_both_splits_of_a_search_fit_on_whole_sets(split: Any) -> None:
    divided = split(suite())
    fitted = divided.tasks["calibration"]["a"].data("fit")[0]
    assert {limit_of(divided, name) for name in spared(divided)} == {40, 60}
    assert fitted in spared(divided)


def test_validate_counts_them_whole() -> None:
    found = survey(suite(tasks={"calibration": TASKS["calibration"]}))
    assert found.images == 12 + 40, "no task looks at the calibration set"
    assert found.data["pairs"].startswith("60 images")


def test_validate_counts_the_captions_that_a_task_embeds() -> None:
    found = survey(suite(tasks={"retrieval": {"a": {"test": "pairs"}}}))
    assert (found.images, found.captions) == (60, 60)
    assert found.to_json()["captions"] == 60
    assert survey(suite(tasks={"calibration": TASKS["calibration"]})).captions == 0
    with pytest.raises(SpecError, match=r"tasks.retrieval.a: role 'test': data set 'scenes': has no captions"):
        survey(suite(tasks={"retrieval": {"a": {"test": "scenes"}}}))


def test_a_run_with_a_limit_tunes_on_the_whole_set(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(suite(limit=None, quantizations=["fp32"]).model_dump(mode="json", exclude_unset=True)))
    words = ["run", str(file), "--task", "calibration", "--no-speed", "--tracker", "jsonl", "--home", str(tmp_path)]
    scales = {}
    for limit in (8, 16):
        result = CliRunner().invoke(app, [*words, "--limit", str(limit)])
        assert result.exit_code == 0, result.output
        ledger = Ledger(tmp_path)
        columns = next(
            c for r in ledger.records.values() if len((c := ledger.outcome(r).columns)["test"]["correct"]) == limit
        )
        assert len(columns["fit"]["sample_id"]) == 40
        scales[limit] = float(columns.about["logit_scale_tuned"])
    assert scales[8] == scales[16]


def test_the_shipped_demo_calibrates_whole_whatever_the_limit() -> None:
    demo = narrow(load_suite("demo"), limit=20)
    assert spared(demo) == {"calibration"}
    assert limit_of(demo, "calibration") is None
