"""What a study leaves behind: a suite that reads back, figures, a table, runs in MLflow."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmark.errors import StorageError
from benchmark.metrics.uncertainty import Estimate
from benchmark.quantization import parse
from benchmark.results.compare import Change
from benchmark.results.decide import decide
from benchmark.spec.suite import load_suite
from benchmark.utils.processes import owner
from search.figures import importances, reference_point, write_figures
from search.front import hypervolume
from search.history import front, losses
from search.objective import Goals
from search.recommend import Member, candidates, name_of
from search.report import member_rows, print_members, print_verdicts, write_suite
from search.splits import suite_on_test
from search.storage import open_storage
from search.study import Search
from search.tracking import TrialLog
from tests.search_stub import ACCURACY, MEDIUM, Stub, make_search
from trackers.mlflow import MLflowTracker
from trackers.study import StudyRun


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    found = make_search(Stub(), storage=open_storage(tmp_path_factory.mktemp("study")), constraints=("size_mb <= 3",))
    found.prepare(25)
    found.run(25)
    return found


def members_of(search: Search) -> list[Member]:
    """The candidates, as if the test split had said the same."""
    found = []
    for trial in candidates(search.study, search.goals):
        standing = Stub().standing(parse(name_of(trial)))
        metrics = search.goals.complete(Stub().evaluate(parse(name_of(trial))))
        found.append(Member(name_of(trial), trial, metrics, standing.decision, standing.reliability, group=1))
    return found


def test_the_suite_reads_back_as_what_it_was_with_the_chosen_quantizations(tmp_path: Path) -> None:
    test = suite_on_test(load_suite("demo"))
    names = ["fp32", "rtn-w4a8-channel-token-vision", "gptq-w4-g32-asym-actorder_true-vision+text"]
    write_suite(tmp_path / "front.yaml", test, names, "one")
    assert load_suite(str(tmp_path / "front.yaml")) == test.model_copy(update={"quantizations": tuple(names)})
    assert "text: classes" not in (tmp_path / "front.yaml").read_text()  # what is usual is left out


def test_figures_are_drawn(search: Search, tmp_path: Path) -> None:
    members = members_of(search)
    found = write_figures(tmp_path, search.study, search.goals, members, members[0].name)
    feasible = [t for t in search.study.get_trials() if t.values and all(v <= 0 for v in t.constraints.values())]
    worst = {
        "hypervolume_reference/reliability": min(t.values[0] for t in feasible),
        "hypervolume_reference/effective_bits": max(t.values[1] for t in feasible),
    }
    corner = [-worst["hypervolume_reference/reliability"], worst["hypervolume_reference/effective_bits"]]
    volume = hypervolume(losses(search.study, feasible), corner)
    assert volume > 0
    assert found == {"hypervolume": pytest.approx(volume), **worst}
    for name in ("front", "course", "importance", "slices"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[0] > 500


def test_importance_finds_what_decides(search: Search) -> None:
    """Effective bits are decided by the weight bits."""
    shares = importances(search.study, search.study.get_trials())
    assert next(iter(shares[1])) == "weight_bits"
    assert sum(shares[1].values()) == pytest.approx(1)
    assert importances(search.study, []) == [{}, {}]


def test_the_reference_point_is_the_worst_of_each_objective(search: Search) -> None:
    points = losses(search.study, search.study.get_trials())
    assert (points <= reference_point(points)).all()
    assert (points == reference_point(points)).any(axis=0).all()


def test_the_candidates_fit_80_columns_and_machines_get_them_too(
    search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    members = members_of(search)
    print_members(members, search.goals)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Pareto front: {len(members)} candidates"
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert not any("…" in line for line in lines)
    rows = member_rows(members, search.goals, members[1].name)
    assert [row["quantization"] for row in rows] == [trial.user_attrs["configuration"] for trial in front(search.study)]
    assert [row["recommended"] for row in rows[:3]] == [False, True, False]
    first, trial = rows[0], members[0].trial
    assert trial is not None
    assert first["validation"] == dict(zip(("reliability", "effective_bits"), trial.values, strict=True))
    assert first["test"] == first["validation"]  # the stub says the same on both
    assert first["reliability"]["validation"] == {"value": trial.values[0], "error": pytest.approx(0.2)}
    low, high = (first["reliability"]["test"][end] for end in ("low", "high"))
    assert low < trial.values[0] < high


def test_an_artifact_and_what_failed_have_rows_without_values(
    search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = candidates(search.study, search.goals)[0]
    members = [Member("phone", None, {"reliability": 0.1, "effective_bits": 8.0}), Member(name_of(trial), trial, {})]
    print_members(members, search.goals)
    output = capsys.readouterr().out
    assert output.startswith("Pareto front: 1 candidate\n")
    assert "artifact" in output
    phone, failed = member_rows(members, search.goals, None)
    assert (phone["trial"], phone["validation"], phone["test"]) == (
        None,
        None,
        {"reliability": 0.1, "effective_bits": 8.0},
    )
    assert (failed["test"], failed["decision"]) == (None, None)


@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations
def test_trials_are_runs_below_the_study(search: Search, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    log = opened(tmp_path, uri, search.goals)
    trials = [t for t in search.study.get_trials() if t.state.is_finished()]
    for trial in trials[:3]:
        log.trial(trial)
    again = opened(tmp_path, uri, search.goals)  # a process that resumes the study
    assert again.run.run == log.run.run
    assert again.catch_up(search.study) == len(trials) - 3
    assert again.catch_up(search.study) == 0
    write_figures(tmp_path / "figures", search.study, search.goals, members_of(search), None)
    again.finish(tmp_path / "figures", {"study/front": 3.0})
    assert again.broken is None
    client = MlflowClient(tracking_uri=uri)
    parent = client.get_run(log.run.run)
    assert (parent.info.status, parent.data.metrics, parent.data.tags["kind"]) == (
        "FINISHED",
        {"study/front": 3.0},
        "study",
    )
    figures = {item.path for item in client.list_artifacts(log.run.run)}
    assert figures == {"front.png", "course.png", "importance.png", "slices.png"}
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'", order_by=["attributes.start_time"])
    assert {int(run.data.tags["optuna.trial"]) for run in runs} == {t.number for t in trials}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {log.run.run}
    first = next(run for run in runs if run.data.tags["optuna.trial"] == "0")
    assert first.info.run_name == "rtn-w8a8-channel-token-vision"
    assert first.data.params["quant.weight_bits"] == "8"
    assert first.data.metrics["objective/effective_bits"] == trials[0].values[1]
    assert ACCURACY in first.data.metrics
    assert first.data.metrics["reliability/error"] == pytest.approx(0.2)
    assert first.data.tags["optuna.study"] == search.study.study_name


GONE = f"{owner().split()[0]} {os.getpid()} 1"
"""A process of this machine that has ended: this one's id, another start time."""


@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations
def test_what_a_killed_process_left_open_is_ended_or_gone_on_with(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    with monkeypatch.context() as killed:
        killed.setattr("trackers.study.owner", lambda: GONE)
        other = MLflowTracker().open(tmp_path, uri).open_study(load_suite("demo"), "other", {})
        first = opened(tmp_path, uri, search.goals)
        killed.setattr(first.run._client, "log_batch", _killed)
        killed.setattr(first.run._client, "set_terminated", lambda *_: None)
        with pytest.raises(SystemExit):
            first.trial(search.study.get_trials()[1])

    def parent() -> tuple[str, dict[str, str]]:
        run = client.get_run(first.run.run)
        return run.info.status, run.data.tags

    assert parent()[0] == "RUNNING"
    again = opened(tmp_path, uri, search.goals)
    assert again.run.run == first.run.run
    assert client.get_run(other.run).info.status == "FAILED"
    status, tags = parent()
    assert (status, tags["reliquant.owner"], "error" in tags) == ("RUNNING", owner(), False)
    trials = [t for t in search.study.get_trials() if t.state.is_finished()]
    assert again.catch_up(search.study) == len(trials)
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert len(runs) == len(trials)
    assert {(run.info.status, "error" in run.data.tags) for run in runs} == {("FINISHED", False)}
    assert all("objective/effective_bits" in run.data.metrics for run in runs)


def _killed(*_: object) -> None:
    raise SystemExit


@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "KILLED"), (StorageError("full"), "FAILED")])
def test_a_study_that_stops_does_not_stay_open(
    search: Search, tmp_path: Path, error: BaseException, status: str
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    log = opened(tmp_path, uri, search.goals)
    with pytest.raises(type(error)), log.ending():
        raise error
    assert MlflowClient(tracking_uri=uri).get_run(log.run.run).info.status == status


def opened(home: Path, uri: str, goals: Goals) -> TrialLog:
    return TrialLog(
        MLflowTracker().open(home, uri).open_study(load_suite("demo"), "stub", {"trials": "25"}), "stub", goals
    )


def test_a_store_that_fails_stops_nothing(search: Search, tmp_path: Path) -> None:
    class Broken(StudyRun):
        def trial(self, *args: object, **kwargs: object) -> None:
            raise ConnectionError("gone")

    log = TrialLog(Broken(None, "0", "run"), "stub", search.goals)
    log.trial(search.study.get_trials()[0])
    log.trial(search.study.get_trials()[1])
    assert log.broken == "ConnectionError: gone"


def test_a_study_with_a_goal_draws_the_course_of_its_cost(tmp_path: Path) -> None:
    found = make_search(Stub(), replace(MEDIUM, methods=("rtn",)), objectives=("effective_bits",), probability=0.8)
    found.prepare(20)
    found.run(20)
    members = members_of(found)
    assert write_figures(tmp_path, found.study, found.goals, members, members[-1].name) == {}
    for name in ("front", "course"):
        assert (tmp_path / f"{name}.png").is_file()


def test_verdicts_name_the_images_and_the_recommended_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    members = []
    for name, delta in (("good", 0.0), ("bad", -0.3)):
        estimate = Estimate(delta, 0.001, 60.0, delta)
        change = Change("m", name, name, ACCURACY, "higher", 0.8 + delta, 0.8, delta, estimate, images=1000)
        members.append(Member(name, None, {}, decide([ACCURACY], {ACCURACY: change}, {})))
    print_verdicts(members, "good")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Test split against fp32, on 1,000 images; margins: 0.02"
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "non-inferior; recommended" in text
    assert f"inferior: {ACCURACY} -0.3000" in text
    print_verdicts([], None)
    assert capsys.readouterr().out == ""
