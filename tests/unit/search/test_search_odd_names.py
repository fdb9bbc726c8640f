"""Studies in results folders of any name."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna_dashboard._storage_url import get_storage

from search.dashboard import check_studies
from search.storage import journal_path, open_storage

NAMES = ["a b%20c?d#e;f'g\"h&i%", "redis-results", "sqlite:x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_lies_in_its_folder_and_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    home = Path(name)
    optuna.create_study(storage=open_storage(home), study_name="s").add_trial(optuna.create_trial(value=1.0))
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing beside it"
    assert optuna.load_study(storage=open_storage(home), study_name="s").best_value == 1.0
    check_studies(str(journal_path(home)))
    seen = get_storage(str(journal_path(home).absolute()))  # as the dashboard opens it
    assert [study.study_name for study in seen.get_all_studies()] == ["s"]
