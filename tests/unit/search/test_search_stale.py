"""Workers that end in the middle: their trials are found and tried again, those of living ones are left alone."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from benchmark.spec import QuantSpec
from benchmark.utils.processes import is_gone, owner
from search.history import evaluated
from search.objective import Problem
from search.stale import BEAT, GRACE, SUSPENDED, UNSIGNED, Watch, reconcile, retry, signed
from search.storage import open_storage
from search.study import CUSTOMARY
from tests.search_stub import MEDIUM, Stub, make_search
from tests.unit.search.test_search_storage import begun, start

ELSEWHERE = "another-machine 12 345"


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["journal", "sqlite"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    """A study as two processes see it: this one, and whoever wrote the trials."""
    url = None if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(storage=open_storage(tmp_path, url), study_name="one")
    return optuna.load_study(storage=open_storage(tmp_path, url), study_name="one")


def begin(study: optuna.Study, **attributes: object) -> optuna.Trial:
    """A trial outside `optimize`, of which Optuna warns where a storage has heartbeats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        trial = study.ask()
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    return trial


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials()]


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
    assert again.user_attrs["configuration"] == first.user_attrs["configuration"] == CUSTOMARY[0]
    assert again.user_attrs["retry_of"] == [0]
    assert again.state is TrialState.COMPLETE
    assert len(evaluated(search.study)) == 8


def test_a_lost_trial_is_retried_three_times_at_most() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 1}, user_attrs={"configuration": "rtn-w4-vision"})
    for _ in range(4):
        trial = study.ask()
        trial.set_user_attr("owner", "elsewhere")
        assert reconcile(study, Watch()) == 0  # a process of another machine may be alive
        trial.set_user_attr("owner", owner().rpartition(":")[0] + ":1")  # this id, another start time
        reconcile(study, Watch())
    assert [t.state for t in study.trials] == [TrialState.FAIL] * 4
    assert study.trials[3].user_attrs["retry_of"] == [0, 1, 2]


@pytest.fixture
def living() -> Iterator[str]:
    """Another process of this machine that runs, as it signs."""
    code = "from benchmark.utils.processes import owner; import sys; print(owner(), flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate()


def test_the_trial_of_a_living_process_is_left_alone_however_long_it_takes(study: optuna.Study, living: str) -> None:
    begin(study, owner=living)
    clock = Clock()
    watch = Watch(clock)
    for _ in range(3):
        assert reconcile(study, watch) == 0
        clock.now += 10 * GRACE
    assert states(study) == [TrialState.RUNNING]


def test_the_trial_of_a_stopped_process_is_lost_after_a_while(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(study, owner=owner())
    clock, is_stopped = Clock(), True
    watch = Watch(clock)
    monkeypatch.setattr("search.stale.is_stopped", lambda who: is_stopped)
    assert reconcile(study, watch) == 0
    clock.now = SUSPENDED + 1
    is_stopped = False
    assert reconcile(study, watch) == 0
    is_stopped = True
    assert reconcile(study, watch) == 1
    assert states(study)[0] == TrialState.FAIL


def test_on_another_machine_a_beating_worker_lives_and_a_silent_one_is_dead(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(tmp_path), study_name="one")
    beating, _ = (begin(study, owner=ELSEWHERE, configuration=f"rtn-w{bits}-vision") for bits in (3, 4))
    clock = Clock()
    watch = Watch(clock)
    for count in range(5):
        assert reconcile(study, watch) == 0
        beating.set_user_attr(BEAT, count)
        clock.now += GRACE / 4
    assert reconcile(study, watch) == 1
    assert states(study) == [TrialState.RUNNING, TrialState.FAIL, TrialState.WAITING]
    assert study.get_trials()[2].user_attrs == {"configuration": "rtn-w4-vision", "retry_of": [1]}


def test_with_a_database_another_machine_is_judged_by_optunas_heartbeat(tmp_path: Path) -> None:
    storage = open_storage(tmp_path, f"sqlite:///{tmp_path}/study.db")
    study = optuna.create_study(storage=storage, study_name="one")
    fresh, stale = (begin(study, owner=ELSEWHERE) for _ in range(2))
    for trial in (fresh, stale):
        storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
    clock = Clock()
    watch = Watch(clock)
    assert reconcile(study, watch) == 0
    with storage.engine.begin() as connection:  # type: ignore[attr-defined]
        connection.exec_driver_sql(
            f"UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-{2 * GRACE} seconds') "
            f"WHERE trial_id = {stale._trial_id}"
        )
    clock.now += 2 * GRACE  # by our own clock both are silent, which a database does not go by
    assert reconcile(study, watch) == 1
    assert states(study) == [TrialState.RUNNING, TrialState.FAIL, TrialState.WAITING]


def test_a_worker_signs_and_beats_until_its_trial_is_over(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(tmp_path), study_name="one")
    seen = optuna.load_study(storage=open_storage(tmp_path), study_name="one")

    def attributes() -> dict[str, object]:
        return seen.get_trials()[0].user_attrs

    with signed(study, study.ask(), interval=0.01):
        assert attributes()["owner"] == owner()
        deadline = time.monotonic() + 30
        while int(attributes()[BEAT]) < 3:  # type: ignore[call-overload]
            assert time.monotonic() < deadline
            time.sleep(0.01)
    last = attributes()[BEAT]
    time.sleep(0.1)
    assert attributes()[BEAT] == last


def test_a_trial_that_was_never_signed_is_lost_after_a_while(study: optuna.Study) -> None:
    begin(study)
    clock = Clock()
    watch = Watch(clock)
    assert reconcile(study, watch) == 0
    clock.now += UNSIGNED - 1
    assert reconcile(study, watch) == 0
    clock.now += 2
    assert reconcile(study, watch) == 1
    assert states(study) == [TrialState.FAIL, TrialState.WAITING]


@pytest.mark.parametrize("error", [ValueError("told already"), UpdateFinishedTrialError("finished")], ids=repr)
def test_a_stale_trial_that_another_process_ends_first_is_no_error(
    error: Exception, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(study)
    clock, tell = Clock(), study.tell
    watch = Watch(clock)
    assert reconcile(study, watch) == 0
    clock.now += UNSIGNED + 1

    def faster(*given: object, **named: object) -> None:
        tell(*given, **named)  # type: ignore[arg-type]
        raise error

    monkeypatch.setattr(study, "tell", faster)
    assert reconcile(study, watch) == 1
    assert states(study) == [TrialState.FAIL, TrialState.WAITING]


def test_what_was_ended_but_not_queued_again_is_queued_once(study: optuna.Study) -> None:
    """Whoever finds a stale trial may be killed between the two."""
    for attributes in ({}, {"error": "changed nothing"}, {"repeat_of": 0}):
        study.tell(begin(study, **attributes), state=TrialState.FAIL)
    assert [reconcile(study, Watch()) for _ in range(3)] == [1, 0, 0]
    assert study.get_trials()[-1].user_attrs == {"retry_of": [0]}


def test_a_worker_whose_trial_was_taken_over_meanwhile_goes_on(tmp_path: Path) -> None:
    """A suspended laptop: others have given its trial up, and it wakes in the middle of it."""
    stub = Stub()
    search = make_search(stub, storage=open_storage(tmp_path))
    victim = "rtn-w4a8-channel-token-vision"

    def evaluate(spec: QuantSpec) -> dict[str, float]:
        if spec.name == victim and not stub.calls[victim]:
            other = optuna.load_study(storage=open_storage(tmp_path), study_name="stub")
            (mine,) = other.get_trials(states=(TrialState.RUNNING,))
            other.tell(mine.number, state=TrialState.FAIL)
            retry(other, mine)
        return stub.evaluate(spec)

    search.problem = Problem(evaluate, search.problem.better, search.problem.headline)
    search.prepare(8)
    search.run(8)
    assert len(evaluated(search.study)) == 8
    tried = [t for t in search.study.get_trials() if t.user_attrs.get("configuration") == victim]
    assert [t.state for t in tried] == [TrialState.FAIL, TrialState.COMPLETE]


def test_an_error_of_the_program_is_not_taken_for_that(tmp_path: Path) -> None:
    search = make_search(Stub(), storage=open_storage(tmp_path))

    def evaluate(spec: QuantSpec) -> dict[str, float]:
        raise ValueError("a bug")

    search.problem = Problem(evaluate, search.problem.better, search.problem.headline)
    search.prepare(8)
    with pytest.raises(ValueError, match="a bug"):
        search.run(8)


def test_a_finished_trial_ends_the_heartbeat(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(tmp_path), study_name="one")
    trial = study.ask()
    with signed(study, trial, interval=0.01):
        study.tell(trial, 1.0)
        time.sleep(0.1)  # a thread that raised would fail this test
    with pytest.raises(UpdateFinishedTrialError):
        trial.set_user_attr(BEAT, 99)


def test_this_process_is_alive_and_an_ended_one_is_not() -> None:
    assert not is_gone(owner())
    child = multiprocessing.get_context("spawn").Process(target=len, args=([],))
    child.start()
    name = owner().split()[0]
    child.join()
    assert is_gone(f"{name} {child.pid} 12345")
    assert not is_gone("another-machine 1 1")
