"""The contract suite on the built-in trackers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmark.testing import TrackerContract
from benchmark.tracking import trackers
from trackers.jsonl import StreamTracker

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations


def entries(lines: Sequence[str]) -> list[str]:
    rows = [json.loads(line) for line in lines]
    return [f"{row['quantization']}/{row['task']}" for row in rows if row["status"] == "done"]


def test_every_tracker_that_ships_has_a_contract_class() -> None:
    classes = [value for key, value in globals().items() if key.startswith("Test")]
    ours = {name for name in trackers.names() if trackers.origin(name).distribution == "reliquant"}
    assert {value.tracker.name for value in classes} == ours


class TestJsonl(TrackerContract):
    tracker = trackers.get("jsonl")

    def written(self, home: Path) -> Sequence[str]:
        return entries((home / "records.jsonl").read_text().splitlines())


class TestStream(TrackerContract):
    printed: list[str] = []  # noqa: RUF012 - emptied before each test
    tracker = StreamTracker(printed.append)
    keeps = False

    @pytest.fixture(autouse=True)
    def _empty(self) -> None:
        self.printed.clear()

    def written(self, home: Path) -> Sequence[str]:
        return entries(self.printed)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with an empty store: making one takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    trackers.get("mlflow").open(folder).connect()
    return folder


class TestMLflow(TrackerContract):
    tracker = trackers.get("mlflow")

    @pytest.fixture(autouse=True)
    def _prepared(self, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shutil.copytree(database, tmp_path / "home")

    def written(self, home: Path) -> Sequence[str]:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("contract")
        runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
        return [
            f"{runs[parent].info.run_name}/{run.info.run_name.partition('/')[0]}"
            for run in runs.values()
            if (parent := run.data.tags.get("mlflow.parentRunId")) in runs
        ]
