"""Storages: several processes on one study, a killed one, what cannot be reached, what does not fit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from benchmark.errors import InputError, SpecError, StorageError, UnknownNameError
from benchmark.spec import QuantSpec
from search.command import _resume
from search.dashboard import check_studies
from search.history import evaluated
from search.objective import Objective, Problem
from search.request import SearchConfig, SearchRequest
from search.settings import check_new, create_study, merged, resume_study, stored_settings, with_defaults
from search.space import Choices, Space
from search.storage import journal_path, open_storage
from search.study import Search
from tests.search_stub import MEDIUM, SMALL, Stub, make_search

CONTENTS = {"model": "1", "data set scenes": "2"}
OBJECTIVES = [Objective("reliability", "maximize"), Objective("effective_bits", "minimize")]


def slow(stub: Stub, search: Search, folder: Path, seconds: float, dies: bool = False) -> Search:
    """Each evaluation takes a while and leaves a line; a worker that dies does so in the middle of its first one."""

    def evaluate(spec: QuantSpec) -> dict[str, float]:
        with (folder / "begun").open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {spec.name}\n")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        return dict(stub.evaluate(spec))

    search.problem = Problem(evaluate, search.problem.better, search.problem.headline)
    return search


def work(folder: Path, url: str | None, trials: int, seconds: float, dies: bool = False, together: int = 1) -> None:
    """One worker, run in a process of its own; it begins when so many are ready."""
    search = make_search(Stub(), MEDIUM, storage=open_storage(folder, url), lock=folder / "lock")
    (folder / f"ready-{os.getpid()}").touch()
    while len(list(folder.glob("ready-*"))) < together:
        time.sleep(0.01)
    slow(Stub(), search, folder, seconds, dies).run(trials)


def start(
    folder: Path, url: str | None, trials: int, seconds: float = 0.1, dies: bool = False, together: int = 1
) -> subprocess.Popen[bytes]:
    given = f"Path({str(folder)!r}), {url!r}, {trials}, {seconds}, {dies}, {together}"
    return subprocess.Popen(
        [sys.executable, "-c", f"from tests.unit.search.test_search_storage import *; work({given})"]
    )


def begun(folder: Path) -> list[list[str]]:
    path = folder / "begun"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_four_processes_one_of_them_killed_lose_and_repeat_nothing(tmp_path: Path, kind: str) -> None:
    url = None if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    make_search(Stub(), MEDIUM, storage=open_storage(tmp_path, url)).prepare(24)
    workers = [start(tmp_path, url, 24, seconds=0.5, dies=i == 0, together=4) for i in range(4)]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [-signal.SIGKILL, 0, 0, 0]
    finally:
        for worker in workers:
            worker.kill()
    study = make_search(Stub(), MEDIUM, storage=open_storage(tmp_path, url)).study
    assert len(evaluated(study)) >= 24
    assert not study.get_trials(states=(TrialState.RUNNING,))
    times = Counter(name for _, name in begun(tmp_path))
    retried = {t.user_attrs["configuration"] for t in study.get_trials() if t.user_attrs.get("retry_of")}
    killed = {name for pid, name in begun(tmp_path) if pid == str(workers[0].pid)}
    assert {name for name, count in times.items() if count > 1} == retried == killed
    assert all(name in evaluated(study) for name in retried)
    assert len(killed) == 1


def test_a_waiting_trial_of_a_database_is_taken_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=open_storage(tmp_path, url), study_name="one")
    for i in range(20):
        study.enqueue_trial({"x": i})
    waiting = [trial._trial_id for trial in study.get_trials()]

    def take(storage: BaseStorage) -> list[int]:
        return [i for i in waiting if storage.set_trial_state_values(i, TrialState.RUNNING)]

    with ThreadPoolExecutor(6) as pool:
        found = [i for some in pool.map(take, [open_storage(tmp_path, url) for _ in range(6)]) for i in some]
    assert sorted(found) == waiting


@pytest.mark.parametrize(
    "url", ["postgresql+nodriver://localhost/x", "sqlite:////no/such/folder/study.db", "nonsense://"]
)
def test_a_storage_that_cannot_be_reached_is_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(StorageError, match=r"--storage .*: cannot be reached \(.+\)") as caught:
        open_storage(tmp_path, url)
    assert "\n" not in str(caught.value)


SECRET = "postgresql+psycopg://me:s3cr%40t@127.0.0.1:9/studies?connect_timeout=2"


def test_the_password_of_a_storage_is_never_shown(tmp_path: Path) -> None:
    for use in (lambda: open_storage(tmp_path, SECRET), lambda: check_studies(SECRET)):
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            use()
        assert "s3cr" not in str(caught.value)
        assert "//me:***@127.0.0.1:9/studies" in str(caught.value)


def test_the_command_that_goes_on_is_whole_but_for_the_password(tmp_path: Path) -> None:
    search = make_search(Stub(), SMALL, name="one")
    assert _resume(SearchRequest(), search) == "reliquant search --resume one"
    command = _resume(SearchRequest(storage=SECRET, home=tmp_path), search)
    assert f"--home {tmp_path}" in command
    assert "--storage 'postgresql+psycopg://me:***@127.0.0.1:9/studies?connect_timeout=2'" in command


@pytest.mark.parametrize("url", ["studies.log", "sqlite:///studies.db", "sqlite:///"])
def test_a_dashboard_makes_no_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=f"--storage {url}: (no such file|it holds no Optuna studies)"):
        check_studies(url)
    assert not list(tmp_path.iterdir())


def test_a_dashboard_takes_a_storage_that_is_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    make_search(Stub(), SMALL, storage=open_storage(tmp_path, url))
    check_studies(url)
    make_search(Stub(), SMALL, storage=open_storage(tmp_path))
    check_studies(str(journal_path(tmp_path)))
    with pytest.raises(StorageError, match="is not an Optuna journal"):
        check_studies(str(write(tmp_path, b"notes")))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "studies").write_text("a file")
    with pytest.raises(StorageError, match="cannot be reached"):
        open_storage(tmp_path)


def write(folder: Path, text: bytes) -> Path:
    path = folder / "given.log"
    path.write_bytes(text)
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"my notes\n", "is not an Optuna journal"),
        (b"my notes without an end", "is not an Optuna journal"),
        (b'{"name": "json lines of somebody else"}\n', "is not an Optuna journal"),
        (b"SQLite format 3\0", "Write --storage sqlite:///"),
        (b'{"op_code":0,"worker_id":"a","study_name":"x","directions":[1]}\nrubbish\n{"op_code":4}\n', "is damaged"),
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_stays_as_it_is(tmp_path: Path, text: bytes, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(StorageError, match=says) as caught:
        open_storage(tmp_path, str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == text


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_line_that_a_killed_process_did_not_finish_breaks_nothing(tmp_path: Path, cut: int) -> None:
    search = make_search(Stub(), SMALL, storage=open_storage(tmp_path))
    search.prepare(6)
    living = make_search(Stub(), SMALL, storage=open_storage(tmp_path))  # another process, which reads on
    journal = journal_path(tmp_path)
    whole = journal.read_bytes()
    search.study.enqueue_trial({"bits": 3})
    journal.write_bytes(journal.read_bytes()[:-cut])
    resumed = make_search(Stub(), SMALL, storage=open_storage(tmp_path))
    resumed.run(6)
    assert journal.read_bytes().startswith(whole)
    assert len(evaluated(resumed.study)) == 6
    assert len(evaluated(living.study)) == 6
    assert len(evaluated(make_search(Stub(), SMALL, storage=open_storage(tmp_path)).study)) == 6


def test_a_first_line_that_was_not_finished_is_a_new_journal(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"op_code":0,"worker')
    study = optuna.create_study(storage=open_storage(tmp_path, str(path)), study_name="one")
    study.set_user_attr("long", "x" * 3_000_000)
    path.write_bytes(path.read_bytes()[:-5])  # longer than what is looked at first
    study.set_user_attr("short", 1)
    again = optuna.load_study(storage=open_storage(tmp_path, str(path)), study_name="one")
    assert again.user_attrs == {"short": 1}


def test_the_lock_of_a_killed_process_is_seen_to_be_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna looks at the age of what the lock points to, so a relative path would point nowhere: wait for ever."""
    monkeypatch.chdir(tmp_path)
    storage = open_storage(Path("mlruns"))
    lock = storage._backend._lock  # type: ignore[attr-defined]
    assert lock.acquire()
    assert Path(f"{journal_path(Path('mlruns'))}.lock").stat().st_mtime > 0
    lock.release()


def test_studies_lie_below_the_results(tmp_path: Path) -> None:
    make_search(Stub(), SMALL, storage=open_storage(tmp_path))
    assert journal_path(tmp_path).is_file()


def test_a_study_is_resumed_with_its_own_settings(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    config = with_defaults(SearchConfig(methods=["rtn"], constraints=["size_mb <= 2"], trials=7))
    create_study(storage, "one", config, Space(SMALL), OBJECTIVES, CONTENTS)
    kept = stored_settings(open_storage(tmp_path), "one", "here")
    again = merged(SearchConfig(trials=9), kept, "one")
    assert (again.methods, again.constraints, again.trials, again.suite) == (["rtn"], ["size_mb <= 2"], 9, "demo")
    assert resume_study(open_storage(tmp_path), "one", Space(SMALL), CONTENTS).study_name == "one"


def test_what_does_not_fit_a_study_is_one_line(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    create_study(storage, "one", with_defaults(SearchConfig(methods=["rtn"])), Space(SMALL), OBJECTIVES, CONTENTS)
    with pytest.raises(SpecError, match=r"study 'one': it was created with methods \[\"rtn\"\], not \[\"gptq\"\]"):
        merged(SearchConfig(methods=["gptq"]), stored_settings(storage, "one", "here"), "one")
    with pytest.raises(SpecError, match="created with another space"):
        resume_study(storage, "one", Space(Choices(("rtn",))), CONTENTS)
    other = {**CONTENTS, "data set scenes": "changed", "task ood/far": "new"}
    with pytest.raises(SpecError, match="with another content of data set scenes, task ood/far, so its trials"):
        resume_study(storage, "one", Space(SMALL), other)
    with pytest.raises(SpecError, match=r"content of a0, a1, a2, a3 and 8 more, so its"):
        resume_study(storage, "one", Space(SMALL), {f"a{i}": "b" for i in range(10)})
    with pytest.raises(
        InputError, match=r"--resume 0: that is a study's number in optuna-dashboard\. Give its name: 'one'"
    ):
        stored_settings(storage, "0", "here")
    with pytest.raises(UnknownNameError, match=r"unknown study in here 'ona'\. Did you mean 'one'"):
        stored_settings(storage, "ona", "here")
    with pytest.raises(InputError, match=r"study 'one': it exists already\. Go on with --resume one"):
        check_new(storage, "one")
    with pytest.raises(InputError, match="study 'one': it exists already"):
        create_study(storage, "one", with_defaults(SearchConfig()), Space(SMALL), OBJECTIVES, CONTENTS)
    optuna.create_study(storage=storage, study_name="foreign")
    with pytest.raises(SpecError, match="it was not made by reliquant"):
        stored_settings(storage, "foreign", "here")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SearchConfig(sampler="tpo"), "unknown sampler 'tpo'"),
        (SearchConfig(trials=0), "--trials 0: too few. Give 1 or more"),
        (SearchConfig(seed=-1), "--seed -1: negative. Give 0 or more"),
        (
            SearchConfig(objectives=["size_mb", "reliability", "size_mb"]),
            "--objective 'size_mb': it is given twice. Leave one",
        ),
        (
            SearchConfig(constraints=["size_mb <= 2", "size_mb<=2.0"]),
            "--constraint 'size_mb<=2.0': it is given twice \\(as 'size_mb <= 2'\\). Leave one",
        ),
    ],
)
def test_bad_settings_are_one_line(config: SearchConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_defaults(config)
