"""What a study leaves behind: a suite that reads back, figures, a table, runs in MLflow."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmark.errors import StorageError
from benchmark.metrics.uncertainty import Estimate
from benchmark.results.compare import Change
from benchmark.results.decide import decide
from benchmark.spec.suite import load_suite
from benchmark.utils.processes import owner
from search.front import hypervolume
from search.history import front, losses, pruned
from search.objective import Goals
from search.report import (
    _draw_importance,
    front_rows,
    importances,
    print_front,
    print_verdicts,
    reference_point,
    short_label,
    write_figures,
    write_suite,
)
from search.splits import suite_on_test
from search.storage import open_storage
from search.study import Search
from search.tracking import TrialLog
from tests.search_stub import ACCURACY, MEDIUM, Noisy, Stub, make_search, raced
from trackers.mlflow import MLflowTracker
from trackers.study import StudyRun


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    found = make_search(Stub(), storage=open_storage(tmp_path_factory.mktemp("study")), constraints=("size_mb <= 3",))
    found.prepare(25)
    found.run(25)
    return found


def test_the_suite_reads_back_as_what_it_was_with_the_chosen_quantizations(tmp_path: Path) -> None:
    test = suite_on_test(load_suite("demo"))
    names = ["fp32", "rtn-w4a8-channel-token-vision", "gptq-w4-g32-asym-actorder_true-vision+text"]
    write_suite(tmp_path / "front.yaml", test, names, "one")
    assert load_suite(str(tmp_path / "front.yaml")) == test.model_copy(update={"quantizations": tuple(names)})


def test_figures_are_drawn(search: Search, tmp_path: Path) -> None:
    found = write_figures(tmp_path, search.study, search.goals, front(search.study))
    feasible = [t for t in search.study.get_trials() if t.values and all(v <= 0 for v in t.constraints.values())]
    worst = {
        "hypervolume_reference/reliability": min(t.values[0] for t in feasible),
        "hypervolume_reference/effective_bits": max(t.values[1] for t in feasible),
    }
    corner = [-worst["hypervolume_reference/reliability"], worst["hypervolume_reference/effective_bits"]]
    volume = hypervolume(losses(search.study, feasible), corner)
    assert volume > 0
    assert found == {"hypervolume": pytest.approx(volume), **worst}
    for name in ("front", "hypervolume", "importance", "slices"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[0] > 500


@pytest.mark.filterwarnings("error")
def test_importance_has_room_for_the_longest_parameter_names(search: Search, tmp_path: Path) -> None:
    """Such a name once pushed the axes out of the figure, with a warning of matplotlib's."""
    name = "method of awq|bnb-fp4|bnb-int8|bnb-nf4|fp8|gptq|hqq|mse|percentile|rotation|rtn|smoothquant|torchao-int8wo"
    _draw_importance(tmp_path / "importance.png", search.goals, [{"weight_bits": 0.7, name: 0.3}] * 2)
    assert (tmp_path / "importance.png").is_file()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("weight_bits", "weight_bits"),
        ("group_size of 32|64", "group_size of 32|64"),
        ("method of awq|bnb-fp4|bnb-int8|bnb-nf4", "method of 4 values"),
        ("an option without values that is long", "an option without values that is long"),
    ],
)
def test_labels_count_values_that_do_not_fit(name: str, label: str) -> None:
    assert short_label(name) == label


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


def test_the_front_fits_80_columns_and_machines_get_it_too(
    search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = front(search.study)
    test = {found[0].user_attrs["configuration"]: dict.fromkeys([o.key for o in search.goals.objectives], 0.125)}
    print_front(found, search.goals, test)
    output = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in output.splitlines()) <= 80
    assert "…" not in output
    rows = front_rows(found, search.goals, test, {})
    assert [row["trial"] for row in rows] == [trial.number for trial in found]
    assert set(rows[0]["test"].values()) == {0.125}
    assert rows[0]["validation"] == dict(zip(test[rows[0]["quantization"]], found[0].values, strict=True))


def test_the_table_tells_both_values(search: Search, capsys: pytest.CaptureFixture[str]) -> None:
    found = front(search.study)
    test = {trial.user_attrs["configuration"]: {"reliability": 0.125, "effective_bits": 4.25} for trial in found[1:]}
    print_front(found, search.goals, test)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Pareto front: {len(found)} configurations"
    assert sum("0.125" in line for line in lines) == len(found) - 1


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
    write_figures(tmp_path / "figures", search.study, search.goals, front(search.study))
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
    assert figures == {"front.png", "hypervolume.png", "importance.png", "slices.png"}
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'", order_by=["attributes.start_time"])
    assert {int(run.data.tags["optuna.trial"]) for run in runs} == {t.number for t in trials}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {log.run.run}
    first = next(run for run in runs if run.data.tags["optuna.trial"] == "1")
    assert first.info.run_name == "rtn-w8a8-channel-token-vision"
    assert first.data.params["quant.weight_bits"] == "8"
    assert first.data.metrics["objective/effective_bits"] == trials[1].values[1]
    assert ACCURACY in first.data.metrics
    assert first.data.tags["optuna.study"] == search.study.study_name


@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations
def test_a_stopped_trial_is_a_run_with_its_estimate_and_the_reason(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    search = raced(Noisy(450), 20)
    write_figures(tmp_path, search.study, search.goals, front(search.study))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    log = opened(tmp_path, uri, search.goals)
    log.catch_up(search.study)
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = (e.experiment_id for e in client.search_experiments() if e.name == "demo")
    runs = client.search_runs([experiment], "tags.kind = 'trial'")
    by_number = {int(run.data.tags["optuna.trial"]): run for run in runs}
    trial = pruned(search.study)[0]
    run = by_number[trial.number]
    assert run.data.tags["pruned"] == trial.user_attrs["pruned"]
    assert run.data.metrics["estimate/effective_bits"] == trial.user_attrs["estimate"][1]
    assert not any(key.startswith("objective/") for key in run.data.metrics)


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


def test_a_study_with_one_objective_has_no_hypervolume(tmp_path: Path) -> None:
    found = make_search(Stub(), replace(MEDIUM, methods=("rtn",)), objectives=("reliability",))
    found.prepare(8)
    found.run(8)
    assert write_figures(tmp_path, found.study, found.goals, front(found.study)) == {}
    assert not (tmp_path / "front.png").exists()


def test_the_front_is_judged_on_the_test_split(
    search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cheapest that passes is recommended; the rows for machines have the decision."""
    monkeypatch.setenv("COLUMNS", "80")
    found = front(search.study)
    names = [trial.user_attrs["configuration"] for trial in found]
    decisions = {}
    for name, delta in zip(names, [0.0, -0.3], strict=False):
        estimate = Estimate(delta, 0.001, 60.0, delta)
        change = Change("m", name, name, ACCURACY, "higher", 0.8 + delta, 0.8, delta, estimate, images=1000)
        decisions[name] = decide([ACCURACY], {ACCURACY: change}, {})
    print_verdicts(decisions, {names[0]: 4.0, names[1]: 2.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Test split against fp32, on 1,000 images; margins: 0.02"
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "non-inferior; recommended" in text
    assert f"inferior: {ACCURACY} -0.3000" in text
    rows = front_rows(found, search.goals, {}, decisions)
    assert [row["decision"]["verdict"] for row in rows[:2]] == ["non-inferior", "inferior"]
    assert all(row["decision"] is None for row in rows[2:])
    print_verdicts({}, {})
    assert capsys.readouterr().out == ""
