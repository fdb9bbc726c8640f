"""A damaged `mlflow.db` stops nothing: it is set aside, a new one is begun, and the ledger fills it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from benchmark.errors import InputError, StorageError
from benchmark.results.load import mlflow_run
from tests.unit.trackers.test_trackers import finished
from trackers import store
from trackers.mlflow import MLflowTracker, hiding

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage\n" * 2000)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40_000)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one configuration, in one file that nobody holds open."""
    made = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        MLflowTracker().open(made).log(finished("known"))
    with closing(sqlite3.connect(made / "mlflow.db")) as database:
        database.execute("VACUUM INTO ?", (str(made / "copy.db"),))
    return made / "copy.db"


@pytest.fixture
def home(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(whole, tmp_path / "mlflow.db")
    return tmp_path


@pytest.mark.parametrize("harm", [garbage, cut, overwritten, folder])
def test_a_damaged_store_is_set_aside(
    home: Path, harm: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path, address = home / "mlflow.db", store.default_uri(home)
    store.set_aside_damaged(home, address)
    assert path.is_file()
    harm(path)
    store.set_aside_damaged(home, address)
    [line] = capsys.readouterr().err.splitlines()
    [aside] = home.glob("mlflow.db.damaged-*")
    assert line.startswith(f"warning: {path} is damaged (")
    assert f"it is now {aside.name}" in line
    assert "`reliquant sync SUITE`" in line
    assert not path.exists()


def test_a_new_store_is_written_in_place_of_a_damaged_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    garbage(home / "mlflow.db")
    MLflowTracker().open(home).log(finished("known"))
    assert "is damaged" in capsys.readouterr().err
    assert len(store.complete_configurations(store.default_uri(home), "known") or {}) == 1
    MLflowTracker().open(home).log(finished("known"))
    assert capsys.readouterr().err == ""


def test_a_store_that_the_user_named_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.db"
    garbage(mine)
    with pytest.raises(StorageError, match="cannot be reached"):
        MLflowTracker().open(tmp_path, f"sqlite:///{mine}")
    assert mine.read_bytes().startswith(b"garbage")
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_run_of_a_damaged_store_is_one_line(home: Path) -> None:
    garbage(home / "mlflow.db")
    with pytest.raises(InputError, match="is not in the MLflow store"):
        mlflow_run(home, "0" * 32)


def test_an_address_cut_up_by_a_driver_shows_no_password() -> None:
    class Server:
        _uri = "postgresql://me:tig@er/shark@host/x"

        @hiding
        def log(self, text: str) -> None:
            raise ConnectionError(text)

    with pytest.raises(StorageError) as caught:
        Server().log('could not translate host name "er/shark@host" to address')
    assert str(caught.value) == 'ConnectionError: could not translate host name "***/***@host" to address'
    with pytest.raises(ConnectionError, match="gone"):
        Server().log("gone")
