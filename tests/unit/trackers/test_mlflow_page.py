"""What a reader finds in MLflow: the saved view, descriptions, the run of a sweep; old stores brought up to date."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scipy.stats import norm

from benchmark.metrics.uncertainty import Estimate
from benchmark.results.compare import Change
from benchmark.results.tables import short_names
from benchmark.spec import FP32
from benchmark.tracking import FinishedConfiguration, sweeps
from tests.unit.trackers.test_trackers import QUANT, finished
from trackers.mlflow import LAYOUT, VIEW_TAG, MLflowTracker
from trackers.mlflow_view import renewed
from trackers.ui import addresses

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations
KEY = "zero_shot/scenes/accuracy"


def runs(tracker: MLflowTracker, suite: str) -> dict[str, Any]:
    """Runs of an experiment by name; of children with one name the last."""
    experiment = tracker._client.get_experiment_by_name(suite)
    return {run.info.run_name: run for run in tracker._client.search_runs([experiment.experiment_id], max_results=1000)}


def change(value: float, p: float) -> Change:
    estimate = Estimate(value, abs(value) / norm.isf(p / 2), math.inf, value)
    return Change("demo", QUANT.name, "c", KEY, "higher", 0.875 + value, 0.875, value, estimate, images=1000)


def pair(suite: str, *, p: float = 1e-5, tasks: tuple[str, ...] = ("zero_shot",)) -> list[FinishedConfiguration]:
    """Full precision and one quantization that is significantly worse, of one plan."""
    return [finished(suite, FP32, tasks), finished(suite, tasks=tasks, changes=(change(-0.125, p),))]


def view(tracker: MLflowTracker, suite: str) -> dict[str, Any]:
    envelope = json.loads(tracker._client.get_experiment_by_name(suite).tags[VIEW_TAG])
    assert envelope["name"] == "Quantizations"
    found: dict[str, Any] = json.loads(envelope["state"])
    return found


def test_short_names_are_short_and_never_shared() -> None:
    assert short_names(["zero_shot/a/accuracy", "ood/a.far/mcm/auroc", "ood/a.near/mcm/auroc"]) == {
        "zero_shot/a/accuracy": "zero_shot_accuracy",
        "ood/a.far/mcm/auroc": "ood_a.far_mcm_auroc",
        "ood/a.near/mcm/auroc": "ood_a.near_mcm_auroc",
    }


def test_the_saved_view_shows_what_is_logged_best_first(opened: Callable[[], MLflowTracker]) -> None:
    tracker = opened()
    for each in pair("view"):
        tracker.log(each)
    state = view(tracker, "view")
    wanted = ["effective_bits", "zero_shot_accuracy", "zero_shot_accuracy_change"]
    assert state["selectedColumns"] == [f"metrics.`{name}`" for name in wanted]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`zero_shot_accuracy`", False)
    metrics = runs(tracker, "view")[QUANT.name].data.metrics
    assert [metrics[name] for name in wanted] == [18.125, 0.75, -0.125]
    experiment = tracker._client.get_experiment_by_name("view").experiment_id
    shown = tracker._client.search_runs([experiment], state["searchFilter"])
    assert {run.data.tags["kind"] for run in shown} == {"configuration"}


def test_the_view_of_a_reader_and_of_more_tasks_is_kept() -> None:
    each = finished("kept", tasks=("zero_shot", "ood"))
    suite = each.suite.model_copy(update={"headline": (KEY, "ood/scenes/accuracy")})
    whole = replace(each, suite=suite)
    part = finished("kept")
    part = replace(part, suite=suite.model_copy(update={"version": 4}))
    made = renewed(None, whole)
    assert made is not None
    assert renewed(made, whole) is None
    assert renewed(made, part) is None
    envelope = json.loads(made)
    old = json.dumps({**envelope, "state": "{}"})
    assert renewed(old, whole) is not None
    assert renewed(old, part) is None
    assert renewed(json.dumps({**json.loads(old), "updatedAt": envelope["createdAt"] + 1}), whole) is None
    assert renewed("deflate;something", whole) is None


def test_descriptions_say_what_changed_and_what_to_look_at(opened: Callable[[], MLflowTracker]) -> None:
    tracker = opened()
    for each in pair("notes"):
        tracker.log(each)
    found = runs(tracker, "notes")
    note = found[QUANT.name].data.tags["mlflow.note.content"]
    assert f"- worse: `{KEY}` -0.125\\*\\*\\*" in note
    assert "better:" not in note
    assert "Full precision" in found["fp32"].data.tags["mlflow.note.content"]
    assert "Artifacts" in found["zero_shot/scenes"].data.tags["mlflow.note.content"]
    assert "Views > Quantizations" in tracker._client.get_experiment_by_name("notes").tags["mlflow.note.content"]
    child = found["zero_shot/scenes"].data.tags
    assert {"suite", "model", "scope", "method", "task", "dataset"} <= set(child)


def test_a_sweep_has_a_run_with_its_table_and_figures(opened: Callable[[], MLflowTracker], tmp_path: Path) -> None:
    for p in (1e-5, 1e-5, 0.9):
        tracker = opened()
        for each in (found := pair("sweep", p=p)):
            tracker.log(each)
        [sweep] = sweeps(found)
        tracker.log_sweep(sweep)
    [run] = [run for name, run in runs(tracker, "sweep").items() if name.startswith("sweep ")]
    assert (run.info.run_name, run.info.status) == ("sweep demo, 2 quantizations", "FINISHED")
    files = {item.path for item in tracker._client.list_artifacts(run.info.run_id)}
    assert files == {"summary.csv", "comparison.csv", "changes.png", "bits.png"}
    for name in ("changes.png", "bits.png"):
        with Image.open(tracker._client.download_artifacts(run.info.run_id, name, str(tmp_path))) as image:
            assert image.size[0] > 400
    text = Path(tracker._client.download_artifacts(run.info.run_id, "summary.csv", str(tmp_path))).read_text()
    full, quantized = csv.DictReader(io.StringIO(text))
    assert (full["quantization"], full["zero_shot_accuracy_change"]) == ("fp32", "")
    assert float(quantized["zero_shot_accuracy_change"]) == -0.125
    assert float(quantized["zero_shot_accuracy_q"]) == pytest.approx(1e-5)


def test_a_sweep_with_nothing_to_compare_has_no_run() -> None:
    assert sweeps([finished("alone", FP32)]) == []


def test_a_sweep_that_is_there_is_not_written_again(
    opened: Callable[[], MLflowTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    [sweep] = sweeps(pair("once"))
    opened().log_sweep(sweep)
    again = opened()
    again.log_sweep(sweep)
    assert "_client" not in again.__dict__
    failed = replace(sweep, records=tuple(replace(record, status="failed") for record in sweep.records))
    assert failed.key == sweep.key
    again.log_sweep(failed)
    assert len(runs(again, "once")) == 1


def test_a_run_of_an_older_layout_is_completed_in_place(opened: Callable[[], MLflowTracker]) -> None:
    tracker = opened()
    tracker.log(finished("older"))
    before = runs(tracker, "older")
    parent = before[QUANT.name]
    tracker._client.set_tag(
        parent.info.run_id, "eval.content", parent.data.tags["eval.content"].removeprefix(f"{LAYOUT},")
    )
    tracker._client.delete_tag(parent.info.run_id, "mlflow.note.content")
    opened().log(finished("older"))
    after = runs(tracker, "older")
    assert {name: run.info.run_id for name, run in after.items()} == {n: run.info.run_id for n, run in before.items()}
    assert after[QUANT.name].data.tags["eval.content"].startswith(f"{LAYOUT},")
    assert after[QUANT.name].data.tags["mlflow.note.content"]


def test_the_printed_address_opens_the_view_or_filters_and_sorts(opened: Callable[[], MLflowTracker]) -> None:
    tracker = opened()
    tracker.log(finished("addressed"))
    tracker._client.create_experiment("from elsewhere")
    found = addresses(tracker._uri, "::1", 5000)
    assert "Default" not in found
    assert found["addressed"].startswith("http://[::1]:5000/#/experiments/")
    assert found["addressed"].endswith("viewStateShareKey=reliquant")
    for part in ("searchFilter=tags.kind", "orderByKey=attributes.start_time", "orderByAsc=true"):
        assert part in found["from elsewhere"]
        assert part not in found["addressed"]


def test_the_verdict_is_a_tag_and_the_first_words_of_the_description(opened: Callable[[], MLflowTracker]) -> None:
    tracker = opened()
    for each in pair("verdicts"):
        tracker.log(each)
    found = runs(tracker, "verdicts")
    tags = found[QUANT.name].data.tags
    assert tags["verdict"] == "inferior"
    assert tags["verdict.why"].startswith(f"inferior: `{KEY}` -0.1250 [-0.1")
    assert tags["verdict.why"].endswith("margin 0.02")
    assert tags["mlflow.note.content"].startswith(f"**{tags['verdict.why']}** (margins: 0.02)")
    assert "verdict" not in found["fp32"].data.tags
    assert found[QUANT.name].data.metrics["reliability"] == pytest.approx(-12.5)  # points
    assert "reliability" not in found["fp32"].data.metrics
