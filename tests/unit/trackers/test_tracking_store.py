"""What a SQLite tracking store tells without MLflow: what is complete, and when its statistics are renewed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.trackers.test_trackers import QUANT, finished
from trackers import store
from trackers.mlflow import MLflowTracker

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one configuration of suite `known` tracked."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        MLflowTracker().open(folder).log(finished("known"))
    return folder


@pytest.fixture
def address(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return store.default_uri(home)


def test_a_complete_configuration_is_known_without_a_connection(address: str, home: Path) -> None:
    tracker = MLflowTracker().open(home)
    tracker.log(finished("known"))
    assert "_client" not in tracker.__dict__
    tracker.log(finished("known", tasks=("zero_shot", "ood")))
    assert "_client" in tracker.__dict__
    assert MLflowTracker().open(home)._is_complete("known", *complete(address).popitem())


def complete(address: str) -> dict[str, str]:
    found = store.complete_configurations(address, "known")
    assert found is not None
    return found


def test_an_unchanged_run_does_not_import_mlflow(address: str, home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.unit.trackers.test_trackers import finished;"
        "from trackers.mlflow import MLflowTracker;"
        f"MLflowTracker().open(Path({str(home)!r})).log(finished('known', tasks=('zero_shot', 'ood')));"
        "print('mlflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = '{name}'",
        "UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'known'",
        "DELETE FROM tags WHERE key = 'eval.content'",
        "UPDATE runs SET status = 'RUNNING'",
    ],
)
def test_what_was_deleted_or_left_running_counts_not(address: str, home: Path, tmp_path: Path, change: str) -> None:
    with closing(sqlite3.connect(home / "mlflow.db")) as source, closing(sqlite3.connect(tmp_path / "m.db")) as copy:
        source.backup(copy)
        copy.execute(change.format(name=QUANT.name))
        copy.commit()
    assert complete(address)
    assert not store.complete_configurations(f"sqlite:///{tmp_path / 'm.db'}", "known")


def test_other_stores_and_other_schemas_are_left_to_mlflow(tmp_path: Path) -> None:
    assert store.complete_configurations("http://127.0.0.1:1", "known") is None
    assert store.complete_configurations(f"sqlite:///{tmp_path / 'none.db'}", "known") is None
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE runs (a)")
        other.commit()
    assert store.complete_configurations(f"sqlite:///{tmp_path / 'other.db'}", "known") is None
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at as one " * 40)
    assert store.complete_configurations(f"sqlite:///{tmp_path / 'text.db'}", "known") is None
    assert not list(tmp_path.glob("none.db"))


def test_statistics_are_renewed_after_many_runs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ANALYZE_EVERY", 10)
    address = f"sqlite:///{tmp_path / 'm.db'}"
    assert not store.renew_statistics("http://127.0.0.1:1")
    with closing(sqlite3.connect(tmp_path / "m.db")) as database:
        database.execute("CREATE TABLE runs (run_uuid VARCHAR PRIMARY KEY)")
        renewed = []
        for count in range(1, 31):
            database.execute("INSERT INTO runs VALUES (?)", (str(count),))
            database.commit()
            if store.renew_statistics(address):
                renewed.append(count)
        assert renewed == [10, 20, 30]
        [(stat,)] = database.execute("SELECT stat FROM sqlite_stat1 WHERE tbl = 'runs'")
        assert stat.split()[0] == "30"


def test_a_locked_database_keeps_its_old_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ANALYZE_EVERY", 1)
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.05)
    with closing(sqlite3.connect(tmp_path / "m.db")) as database:
        database.execute("CREATE TABLE runs (run_uuid VARCHAR PRIMARY KEY)")
        database.execute("INSERT INTO runs VALUES ('a')")
        database.commit()
        database.execute("BEGIN EXCLUSIVE")
        assert not store.renew_statistics(f"sqlite:///{tmp_path / 'm.db'}")
        database.rollback()
        assert store.renew_statistics(f"sqlite:///{tmp_path / 'm.db'}")


def test_mlflow_leaves_stdout_to_the_command_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a server it prints a line for each run, between the JSON lines of `--json`."""
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    store.connect(address)
    from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT

    assert MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get() is True


def test_a_results_folder_of_any_name_holds_its_own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a b%20c?d#e;f'g\"h&i%"
    folder.mkdir()
    MLflowTracker().open(folder).log(finished("known"))
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "nothing beside it"
    assert store.complete_configurations(store.default_uri(folder), "known")
    written = {path.name for path in (folder / "artifacts").rglob("*") if path.is_file()}
    assert {"quantization_report.json", "curve.png"} <= written
