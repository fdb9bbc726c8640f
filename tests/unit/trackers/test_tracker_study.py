"""A spectral study in MLflow: a run of its own with numbers and files, once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from benchmark.spec import SuiteSpec
from benchmark.tracking import FinishedStudy
from trackers.jsonl import JsonlTracker
from trackers.mlflow import MLflowTracker

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations


def study(folder: Path, key: str = "k" * 64) -> FinishedStudy:
    folder.mkdir(exist_ok=True)
    (folder / "spectrum.json").write_text("{}\n")
    suite = SuiteSpec.model_validate(
        {"name": "s", "version": 1, "models": ["demo"], "quantizations": ["fp32"], "data": {"d": {"source": "demo"}},
         "tasks": {"zero_shot": {"d": {"test": "d"}}}}
    )  # fmt: skip
    metrics = {"rtn-w4-vision+text/clean/image/sqnr_db_64+": 3.5}
    return FinishedStudy(suite, "spectrum", "spectrum/d", key, {"dataset": "d"}, metrics, folder)


def test_a_study_is_a_run_with_numbers_and_files_once(tmp_path: Path) -> None:
    for _ in range(2):  # a new process finds what is there
        tracker = MLflowTracker().open(tmp_path)
        tracker.log_study(study(tmp_path / "files"))
        tracker.log_study(study(tmp_path / "files"))
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select name, status from runs").fetchall() == [("spectrum/d", "FINISHED")]
        tags = dict(database.execute("select key, value from tags").fetchall())
        metrics = database.execute("select key, value from metrics").fetchall()
    assert (tags["kind"], tags["dataset"], tags["eval.key"]) == ("spectrum", "d", "k" * 64)
    assert metrics == [("rtn-w4-vision_text/clean/image/sqnr_db_64_", 3.5)]
    assert len(list((tmp_path / "artifacts").rglob("spectrum.json"))) == 1


def test_a_tracker_of_evaluations_leaves_studies_out(tmp_path: Path) -> None:
    JsonlTracker().open(tmp_path).log_study(study(tmp_path / "files"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["spectrum.json"]


def test_a_study_that_is_there_needs_no_mlflow(tmp_path: Path) -> None:
    MLflowTracker().open(tmp_path).log_study(study(tmp_path / "files"))
    tracker = MLflowTracker().open(tmp_path)
    tracker.log_study(study(tmp_path / "files"))
    assert "_client" not in tracker.__dict__
    tracker.log_study(study(tmp_path / "files", key="l" * 64))
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone() == (2,)
