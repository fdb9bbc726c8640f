"""Trackers: what is written of a finished configuration, once, and only below the results folder."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import StorageError
from benchmark.plugins import Summary
from benchmark.spec import FP32, QuantSpec
from benchmark.testing import make_finished
from benchmark.testing.trackers import REPORT
from benchmark.tracking import FinishedConfiguration
from benchmark.utils.processes import owner
from trackers.jsonl import JsonlTracker, StreamTracker
from trackers.mlflow import MLflowTracker

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations
QUANT = QuantSpec(method="rtn", weight_bits=4, activation_bits=8, skip=("head*",), options=(("alpha", 0.5),))


def draw(summary: Summary, reference: Summary | None) -> dict[str, Any]:
    """A figure, as a task draws it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    return {"curve": figure}


def finished(suite: str, quant: QuantSpec = QUANT, drawing: Any = draw, **fields: Any) -> FinishedConfiguration:
    """A finished configuration with a figure, under a quantization with options and a skip."""
    return make_finished(suite, quant, drawing=drawing, **fields)


# --- MLflow ------------------------------------------------------------------------------------------------------


def runs(tracker: MLflowTracker, suite: str) -> dict[str, Any]:
    """Runs of an experiment by name; names are unique here."""
    experiment = tracker._client.get_experiment_by_name(suite)
    found = tracker._client.search_runs([experiment.experiment_id], max_results=1000)
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names), names
    return {run.info.run_name: run for run in found}


def test_a_parent_per_configuration_and_a_child_per_task(opened: Callable[[], MLflowTracker], home: Path) -> None:
    tracker = opened()
    tracker.log(finished("layout", tasks=("zero_shot", "ood"), tags={"optuna.trial": "7"}))
    found = runs(tracker, "layout")
    assert set(found) == {QUANT.name, "zero_shot/scenes", "ood/scenes"}
    parent, child = found[QUANT.name], found["zero_shot/scenes"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.metrics == {"scenes/accuracy": 0.75, "scenes/deep/ece_15": 0.125}
    assert child.data.tags["note.zero_shot_scenes_x"] == "undefined"
    assert parent.data.metrics["zero_shot/scenes/accuracy"] == 0.75
    assert parent.data.metrics["change/zero_shot/scenes/accuracy"] == -0.125
    assert parent.data.metrics["quantization/quantized_bits"] == 4.25
    assert parent.data.metrics["quantization/effective_bits"] == parent.data.metrics["effective_bits"] == 18.125
    assert parent.data.tags["optuna.trial"] == "7"
    assert parent.data.tags["suite.version"] == "3"
    assert parent.data.tags["kind"] == "configuration"
    assert parent.data.tags["eval.key"].startswith("layout-")


def test_params_are_bare_numbers(opened: Callable[[], MLflowTracker]) -> None:
    tracker = opened()
    tracker.log(finished("params"))
    params = runs(tracker, "params")[QUANT.name].data.params
    assert params["quant.weight_bits"] == "4"
    assert params["quant.activation_bits"] == "8"
    assert params["quant.alpha"] == "0.5"
    assert params["quant.skip"] == "head*"
    assert "quant.group_size" not in params
    assert params["model"] == "demo"


def test_efficiency_becomes_metrics_and_the_kernel_a_tag(opened: Callable[[], MLflowTracker]) -> None:
    tracker = opened()
    tracker.log(finished("timed"))
    before = runs(tracker, "timed")
    speed = {"images_per_second": 512.0, "latency_ms_p50": 2.5, "latency_ms_p95": 3.5}
    speed |= {"latency_ratio": 2.0, "latency_ratio_low": 1.9, "latency_ratio_high": 2.1}
    noisy = {**speed, "latency_ratio_high": 9.0}
    states = []
    for timed in (None, noisy, speed):  # measured later, and again: the run there is completed, not doubled
        about = {"packed_bytes": 4_000_000, "kernel": "simulated" if timed is None else "real", "error": None}
        told = None if timed is None else {**timed, "noisy": timed is noisy}
        tracker.log(finished("timed", efficiency={**about, "speed": told}))
        states.append(runs(opened(), "timed")[QUANT.name].data.tags["timing"])
    assert before[QUANT.name].data.tags["timing"] == "not measured"
    assert states == ["simulated", "noisy", "measured"]
    after = runs(opened(), "timed")
    assert len(after) == len(before)
    parent = after[QUANT.name]
    numbers = {k: v for k, v in parent.data.metrics.items() if k.startswith("efficiency/")}
    assert numbers == {"efficiency/packed_mb": 4.0, **{f"efficiency/{name}": value for name, value in speed.items()}}
    assert parent.data.tags["kernel"] == "real"


def test_artifacts_lie_below_home(opened: Callable[[], MLflowTracker], home: Path) -> None:
    tracker = opened()
    tracker.log(finished("artifacts"))
    found = runs(tracker, "artifacts")
    for run, names in (
        (found[QUANT.name], {"quantization_report.json"}),
        (found["zero_shot/scenes"], {"samples.csv", "curve.png"}),
    ):
        assert run.info.artifact_uri.startswith((home / "artifacts").resolve().as_uri())
        assert {item.path for item in tracker._client.list_artifacts(run.info.run_id)} == names
    [report] = (home / "artifacts").rglob(f"{found[QUANT.name].info.run_id}/artifacts/quantization_report.json")
    assert json.loads(report.read_text()) == REPORT
    inputs = found[QUANT.name].inputs.dataset_inputs
    assert [item.dataset.name for item in inputs] == ["scenes"]


def test_logging_twice_writes_once(opened: Callable[[], MLflowTracker]) -> None:
    for tracker in (opened(), opened()):
        tracker.log(finished("twice"))
        tracker.log(finished("twice"))
    assert len(runs(tracker, "twice")) == 2


def test_a_task_added_later_adds_one_child(opened: Callable[[], MLflowTracker]) -> None:
    opened().log(finished("later"))
    tracker = opened()
    before = runs(tracker, "later")
    tracker.log(finished("later", tasks=("zero_shot", "ood")))
    found = runs(tracker, "later")
    assert set(found) - set(before) == {"ood/scenes"}
    assert found["ood/scenes"].data.tags["mlflow.parentRunId"] == before[QUANT.name].info.run_id
    assert found[QUANT.name].data.metrics["ood/scenes/accuracy"] == 0.75


def test_a_failure_shows_and_is_mended_by_the_next_run(opened: Callable[[], MLflowTracker]) -> None:
    opened().log(finished("failing", tasks=("zero_shot", "ood"), failing=("ood",)))
    tracker = opened()
    parent = runs(tracker, "failing")[QUANT.name]
    assert parent.info.status == "FAILED"
    assert parent.data.tags["error.ood"] == "NaN in layer 'visual.a'"
    assert set(runs(tracker, "failing")) == {QUANT.name, "zero_shot/scenes"}
    tracker.log(finished("failing", tasks=("zero_shot", "ood")))
    found = runs(tracker, "failing")
    assert set(found) == {QUANT.name, "zero_shot/scenes", "ood/scenes"}
    assert found[QUANT.name].info.status == "FINISHED"


def dead_process() -> str:
    """A process of this machine that has just ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"{socket.gethostname()} {process.pid} 1"


def test_runs_of_killed_processes_end_failed_and_are_completed(opened: Callable[[], MLflowTracker]) -> None:
    """Killed between two children: the parent is taken up again, nothing stands twice."""
    tracker = opened()
    tracker.log(finished("killed"))
    parent = runs(tracker, "killed")[QUANT.name].info.run_id
    client = tracker._client
    client.update_run(parent, status="RUNNING")
    client.delete_tag(parent, "eval.content")
    client.set_tag(parent, "reliquant.owner", dead_process())
    child = client.create_run(
        runs(tracker, "killed")[QUANT.name].info.experiment_id,
        tags={"reliquant.owner": dead_process(), "eval.key": "x"},
        run_name="half a child",
    )
    again = opened()
    again.log(finished("killed", tasks=("zero_shot", "ood")))
    found = runs(again, "killed")
    assert set(found) == {QUANT.name, "zero_shot/scenes", "ood/scenes", "half a child"}
    assert found["half a child"].info.status == "FAILED"
    assert "killed" in found["half a child"].data.tags["error"]
    assert found[QUANT.name].info.run_id == parent
    assert found[QUANT.name].info.status == "FINISHED"
    assert child.info.run_id != parent


def test_a_child_killed_in_the_middle_is_completed_not_doubled(opened: Callable[[], MLflowTracker]) -> None:
    tracker = opened()
    tracker.log(finished("half"))
    before = runs(tracker, "half")
    for run in before.values():
        tracker._client.update_run(run.info.run_id, status="RUNNING")
        tracker._client.set_tag(run.info.run_id, "reliquant.owner", dead_process())
    again = opened()
    again.log(finished("half"))
    found = runs(again, "half")
    assert {name: run.info.run_id for name, run in found.items()} == {n: r.info.run_id for n, r in before.items()}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert not any(tag.startswith("error") for run in found.values() for tag in run.data.tags)


def test_two_processes_log_one_configuration_once(opened: Callable[[], MLflowTracker]) -> None:
    """Both have read the store before either has written the configuration, one of them only a part of it."""
    one, two = opened(), opened()
    for tracker in (one, two):
        tracker.log(finished("shared", tasks=("first",)))
    one.log(finished("shared", quant=FP32, tasks=("zero_shot",)))
    two.log(finished("shared", quant=FP32, tasks=("zero_shot", "ood")))
    one.log(finished("shared", quant=FP32, tasks=("zero_shot", "ood")))
    assert set(runs(one, "shared")) == {QUANT.name, "first/scenes", "fp32", "zero_shot/scenes", "ood/scenes"}


def test_the_error_of_a_task_goes_when_it_is_mended(opened: Callable[[], MLflowTracker]) -> None:
    opened().log(finished("mended", tasks=("zero_shot", "ood"), failing=("ood",)))
    assert "error.ood" in runs(opened(), "mended")[QUANT.name].data.tags
    for tracker in (opened(), opened()):
        tracker.log(finished("mended", tasks=("zero_shot", "ood")))
    parent = runs(opened(), "mended")[QUANT.name]
    assert "error.ood" not in parent.data.tags
    assert parent.info.status == "FINISHED"


def test_runs_of_living_and_of_distant_processes_are_left_alone(opened: Callable[[], MLflowTracker]) -> None:
    tracker = opened()
    tracker.log(finished("alive"))
    experiment = tracker._client.get_experiment_by_name("alive").experiment_id
    for who in (owner(), "another-machine 1 1", ""):
        tracker._client.create_run(experiment, tags={"reliquant.owner": who}, run_name=f"of {who}")
    again = opened()
    again.log(finished("alive"))
    assert sum(run.info.status == "RUNNING" for run in runs(again, "alive").values()) == 3


def test_an_error_while_logging_leaves_nothing_running(
    opened: Callable[[], MLflowTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = opened()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(tracker._client, "log_batch", fail)
        with pytest.raises(OSError, match="disk full"):
            tracker.log(finished("broken"))
    assert {run.info.status for run in runs(tracker, "broken").values()} == {"FAILED"}


def test_a_figure_that_cannot_be_drawn_costs_only_itself(opened: Callable[[], MLflowTracker]) -> None:
    def fail(summary: Summary, reference: Summary | None) -> dict[str, Any]:
        raise RuntimeError("no such colour")

    tracker = opened()
    tracker.log(finished("undrawn", drawing=fail))
    child = runs(tracker, "undrawn")["zero_shot/scenes"]
    assert child.info.status == "FINISHED"
    assert "no such colour" in child.data.tags["error.figures"]
    assert child.data.metrics["scenes/accuracy"] == 0.75


def test_the_database_is_in_wal_mode(home: Path) -> None:
    with sqlite3.connect(home / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_nothing_is_written_elsewhere(
    home: Path, opened: Callable[[], MLflowTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened().log(finished("elsewhere"))
    assert list(tmp_path.iterdir()) == []
    assert {path.name for path in home.iterdir()} <= {
        "mlflow.db",
        "mlflow.db-wal",
        "mlflow.db-shm",
        "artifacts",
        "mlflow.db.lock",
    }


def test_a_store_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be reached"):
        MLflowTracker().open(tmp_path, f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")


# --- JSONL -------------------------------------------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_writes_each_record_once(tmp_path: Path) -> None:
    for _ in range(2):
        tracker = JsonlTracker().open(tmp_path)
        tracker.log(finished("a", tasks=("zero_shot", "ood"), failing=("ood",)))
        tracker.log(finished("a", tasks=("zero_shot", "ood"), failing=("ood",)))
    assert [row["task"] for row in lines(tmp_path / "records.jsonl")] == ["zero_shot"]
    tracker.log(finished("a", tasks=("zero_shot", "ood")))
    rows = lines(tmp_path / "records.jsonl")
    assert [row["task"] for row in rows] == ["zero_shot", "ood"]
    assert rows[0]["metrics"]["zero_shot/scenes/accuracy"] == 0.75
    assert rows[0]["change"] == {"zero_shot/scenes/accuracy": -0.125}


def test_jsonl_of_two_processes_has_each_record_once(tmp_path: Path) -> None:
    one, two = JsonlTracker().open(tmp_path), JsonlTracker().open(tmp_path)
    for tracker in (one, two, one):
        tracker.log(finished("shared"))
    two.log(finished("shared", tasks=("zero_shot", "ood")))
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("damage", ['{"kind": "rec', "not json\n", "5\n", "{}\n"])
def test_jsonl_survives_a_damaged_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(damage)
    JsonlTracker().open(tmp_path).log(finished("a"))
    last = path.read_text().splitlines()[-1]
    assert json.loads(last)["task"] == "zero_shot"


def test_the_stream_prints_every_record() -> None:
    printed: list[str] = []
    tracker = StreamTracker(printed.append).open(Path())
    tracker.log(finished("a", tasks=("zero_shot", "ood"), failing=("ood",)))
    rows = [json.loads(line) for line in printed]
    assert [(row["task"], row["status"], row["error"]) for row in rows] == [
        ("zero_shot", "done", None),
        ("ood", "failed", "NaN in layer 'visual.a'"),
    ]
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in printed)
