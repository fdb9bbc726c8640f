"""Storages: several processes on one study, a killed one, what cannot be reached, what does not fit."""

from __future__ import annotations

import multiprocessing
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
from benchmark.processes import is_gone, owner
from benchmark.spec import QuantSpec
from search.history import evaluated
from search.objective import Objective, Problem
from search.settings import Asked, check_new, create_study, kept_settings, resume_study
from search.space import Choices, Space
from search.storage import journal_path, open_storage, reconcile
from search.study import Search
from tests.search_stub import MEDIUM, SMALL, Stub, make_search

OBJECTIVES = [Objective("reliability", "maximize"), Objective("effective_bits", "minimize")]


def slow(stub: Stub, search: Search, folder: Path, seconds: float) -> Search:
    """Each evaluation takes a while and leaves a line, also in a process that is killed later."""

    def evaluate(spec: QuantSpec) -> dict[str, float]:
        with (folder / "begun").open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {spec.name}\n")
        time.sleep(seconds)
        return dict(stub.evaluate(spec))

    search.problem = Problem(evaluate, search.problem.better, search.problem.headline)
    return search


def work(folder: Path, url: str | None, trials: int, seconds: float) -> None:
    """One worker; run in a process of its own."""
    search = make_search(Stub(), MEDIUM, storage=open_storage(folder, url), lock=folder / "lock")
    slow(Stub(), search, folder, seconds).run(trials)


def start(folder: Path, url: str | None, trials: int, seconds: float = 0.1) -> subprocess.Popen[bytes]:
    code = f"from tests.unit.test_search_storage import *; work(Path({str(folder)!r}), {url!r}, {trials}, {seconds})"
    return subprocess.Popen([sys.executable, "-c", code])


def begun(folder: Path) -> list[list[str]]:
    path = folder / "begun"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_four_processes_one_of_them_killed_lose_and_repeat_nothing(tmp_path: Path, kind: str) -> None:
    url = None if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    make_search(Stub(), MEDIUM, storage=open_storage(tmp_path, url)).prepare(24)
    workers = [start(tmp_path, url, 24, seconds=0.5) for _ in range(4)]
    try:
        while not any(pid == str(workers[0].pid) for pid, _ in begun(tmp_path)):
            time.sleep(0.05)
        workers[0].send_signal(signal.SIGKILL)
        assert [worker.wait(timeout=240) for worker in workers][1:] == [0, 0, 0]
    finally:
        for worker in workers:
            worker.kill()
    study = make_search(Stub(), MEDIUM, storage=open_storage(tmp_path, url)).study
    assert len(evaluated(study)) >= 24
    assert not study.get_trials(states=(TrialState.RUNNING,))
    times = Counter(name for _, name in begun(tmp_path))
    retried = {t.user_attrs["configuration"] for t in study.get_trials() if t.user_attrs.get("retry_of")}
    killed = {name for pid, name in begun(tmp_path) if pid == str(workers[0].pid)}
    assert {name for name, count in times.items() if count > 1} <= retried & killed
    assert all(name in evaluated(study) for name in retried)
    assert len(retried) == 1


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


def test_the_trial_of_a_killed_process_is_found_and_tried_again(tmp_path: Path) -> None:
    search = make_search(Stub(), MEDIUM, storage=open_storage(tmp_path))
    search.prepare(8)
    worker = start(tmp_path, None, 8, seconds=60)
    while not begun(tmp_path):
        assert worker.poll() is None
        time.sleep(0.05)
    worker.kill()
    worker.wait()
    assert search.study.get_trials()[0].state is TrialState.RUNNING
    search.run(8)
    first = search.study.get_trials()[0]
    (again,) = (trial for trial in search.study.get_trials() if "retry_of" in trial.user_attrs)
    assert first.state is TrialState.FAIL
    assert again.user_attrs["configuration"] == first.user_attrs["configuration"] == "fp32"
    assert again.user_attrs["retry_of"] == [0]
    assert again.state is TrialState.COMPLETE
    assert len(evaluated(search.study)) == 8


def test_a_lost_trial_is_retried_three_times_at_most() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 1}, user_attrs={"configuration": "rtn-w4-vision"})
    for _ in range(4):
        trial = study.ask()
        trial.set_user_attr("owner", "elsewhere")
        assert reconcile(study) == 0  # a process of another machine may be alive
        trial.set_user_attr("owner", owner().rpartition(" ")[0] + " 1")  # this id, another start time
        reconcile(study)
    assert [t.state for t in study.trials] == [TrialState.FAIL] * 4
    assert study.trials[3].user_attrs["retry_of"] == [0, 1, 2]


def test_a_trial_that_was_never_signed_is_lost_after_a_while() -> None:
    study = optuna.create_study()
    study.ask()
    assert reconcile(study, lost_after=60) == 0
    assert reconcile(study, lost_after=-1) == 1
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_this_process_is_alive_and_an_ended_one_is_not() -> None:
    assert not is_gone(owner())
    child = multiprocessing.get_context("spawn").Process(target=len, args=([],))
    child.start()
    name = owner().split()[0]
    child.join()
    assert is_gone(f"{name} {child.pid} 12345")
    assert not is_gone("another-machine 1 1")


@pytest.mark.parametrize(
    "url", ["postgresql+nodriver://localhost/x", "sqlite:////no/such/folder/study.db", "nonsense://"]
)
def test_a_storage_that_cannot_be_reached_is_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(StorageError, match=r"--storage .* cannot be reached: .+") as caught:
        open_storage(tmp_path, url)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "studies").write_text("a file")
    with pytest.raises(StorageError, match="cannot be reached"):
        open_storage(tmp_path)


def test_studies_lie_below_the_results(tmp_path: Path) -> None:
    make_search(Stub(), SMALL, storage=open_storage(tmp_path))
    assert journal_path(tmp_path).is_file()


def test_a_study_is_resumed_with_its_own_settings(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    asked = Asked(methods=["rtn"], constraints=["size_mb <= 2"], trials=7).filled()
    create_study(storage, "one", asked, Space(SMALL), OBJECTIVES)
    kept = kept_settings(open_storage(tmp_path), "one", "here")
    again = Asked(trials=9).over(kept, "one")
    assert (again.methods, again.constraints, again.trials, again.suite) == (["rtn"], ["size_mb <= 2"], 9, "demo")
    assert resume_study(open_storage(tmp_path), "one", Space(SMALL)).study_name == "one"


def test_what_does_not_fit_a_study_is_one_line(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    create_study(storage, "one", Asked(methods=["rtn"]).filled(), Space(SMALL), OBJECTIVES)
    with pytest.raises(SpecError, match=r"study 'one' was created with methods \[\"rtn\"\], not \[\"gptq\"\]"):
        Asked(methods=["gptq"]).over(kept_settings(storage, "one", "here"), "one")
    with pytest.raises(SpecError, match="created with another space"):
        resume_study(storage, "one", Space(Choices(("rtn",))))
    with pytest.raises(UnknownNameError, match=r"unknown study in here 'ona'\. Did you mean 'one'"):
        kept_settings(storage, "ona", "here")
    with pytest.raises(InputError, match="study 'one' exists: go on with --resume one"):
        check_new(storage, "one")
    with pytest.raises(InputError, match="study 'one' exists"):
        create_study(storage, "one", Asked().filled(), Space(SMALL), OBJECTIVES)
    optuna.create_study(storage=storage, study_name="foreign")
    with pytest.raises(SpecError, match="was not made by reliquant"):
        kept_settings(storage, "foreign", "here")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(sampler="tpo"), "unknown sampler 'tpo'"),
        (Asked(trials=0), "--trials: at least 1, got 0"),
        (Asked(seed=-1), "--seed: 0 or more, got -1"),
    ],
)
def test_bad_settings_are_one_line(asked: Asked, message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked.filled()
