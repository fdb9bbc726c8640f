"""What several unit tests of MLflow share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trackers.mlflow import MLflowTracker


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder whose database is made once; each test has its own suite, that is experiment."""
    folder = tmp_path_factory.mktemp("mlflow")
    MLflowTracker().open(folder)
    return folder


@pytest.fixture
def opened(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], MLflowTracker]:
    """Opens the tracker anew, as another process would."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda: MLflowTracker().open(home)
