"""The study, with a stub for the engine: reproducible, resumable, no configuration evaluated twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from benchmark.errors import SpecError, StorageError
from benchmark.quantization import parse
from benchmark.spec import QuantSpec
from search.history import evaluated, front, losses
from search.objective import Problem
from search.samplers import NAMES
from search.storage import open_storage
from search.study import CUSTOMARY, Search
from tests.search_stub import ACCURACY, MEDIUM, SMALL, Stub, make_search


def ran(trials: int, **options: object) -> tuple[Search, Stub]:
    stub = Stub()
    search = make_search(stub, **options)  # type: ignore[arg-type]
    search.prepare(trials)
    search.run(trials)
    return search, stub


def history(search: Search) -> list[tuple[object, ...]]:
    return [(t.user_attrs.get("configuration"), t.params, t.values) for t in search.study.get_trials()]


@pytest.mark.parametrize("sampler", NAMES)
def test_two_runs_with_the_same_seed_give_the_same_trials(sampler: str) -> None:
    choices = replace(MEDIUM, methods=("rtn", "gptq"), weight_bits=(3, 4, 8), activation_bits=(8,))
    trials = 14 if sampler == "gp" else 24
    first, _ = ran(trials, sampler=sampler, seed=3, choices=choices)
    second, _ = ran(trials, sampler=sampler, seed=3, choices=choices)
    assert history(first) == history(second)
    assert len(evaluated(first.study)) == trials


def test_the_same_seed_gives_the_same_trials_when_tpes_model_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (history(ran(36, sampler="tpe", seed=7)[0]) for _ in range(2))
    assert first == second
    monkeypatch.setattr("search.samplers._RANDOM_START", 10_000)
    chance = history(ran(36, sampler="tpe", seed=7)[0])
    assert chance[:7] == first[:7]  # queued
    assert sum(a != b for a, b in zip(chance[10:], first[10:], strict=False)) > 20  # drawn from the model


def test_another_seed_gives_other_trials() -> None:
    assert history(ran(20, seed=0)[0]) != history(ran(20, seed=1)[0])


def test_a_study_that_stopped_samples_what_an_uninterrupted_one_would(tmp_path: Path) -> None:
    whole, _ = ran(30, seed=5)
    storage = open_storage(tmp_path)
    begun = make_search(Stub(), storage=storage, seed=5)
    begun.prepare(30)
    begun.run(12)
    resumed = make_search(Stub(), storage=open_storage(tmp_path), seed=5)
    resumed.run(30)
    assert history(resumed) == history(whole)


def test_the_customary_configurations_of_the_space_come_first() -> None:
    search, _ = ran(10)
    trials = search.study.get_trials()
    customary = [name for name in CUSTOMARY if name != "bnb-int8-vision"]  # no method of this space
    assert [t.user_attrs["configuration"] for t in trials[:4]] == customary
    assert all(t.user_attrs["baseline"] for t in trials[:4])
    assert trials[0].params["method"] == "rtn"


def test_customary_configurations_follow_for_both_towers() -> None:
    search, _ = ran(18)
    trials = search.study.get_trials()
    assert [t.user_attrs["configuration"] for t in trials][4:7] == [
        f"rtn-w{bits}a8-channel-token-vision+text" for bits in (8, 6, 4)
    ]
    assert all(not t.user_attrs["baseline"] for t in trials[4:7])
    assert "baseline" not in [key for t in trials[7:] for key in t.user_attrs]


def test_the_sibling_with_the_same_image_tower_comes_next() -> None:
    """It costs no forward pass over images."""
    search, _ = ran(30)
    trials = search.study.get_trials()
    siblings = [t for t in trials if "sibling_of" in t.user_attrs]
    assert len(siblings) > 5
    for trial in siblings:
        earlier = trials[trial.user_attrs["sibling_of"]]
        assert trial.number == earlier.number + 1
        one, other = (parse(t.user_attrs["configuration"]) for t in (earlier, trial))
        assert one.for_tower("vision") == other.for_tower("vision")
        assert one.scope != other.scope


def test_no_configuration_is_evaluated_twice() -> None:
    search, stub = ran(40, choices=replace(MEDIUM, methods=("rtn", "bnb-nf4"), weight_bits=(3, 4)))
    assert set(stub.calls.values()) == {1}
    assert len(evaluated(search.study)) == 40
    repeats = [t for t in search.study.get_trials() if "repeat_of" in t.user_attrs]
    for trial in repeats:
        assert trial.values == search.study.get_trials()[trial.user_attrs["repeat_of"]].values


def test_a_small_space_is_enumerated() -> None:
    search, _ = ran(100, choices=SMALL)
    assert set(evaluated(search.study)) == {spec.name for spec in search.space.points()}
    assert len(search.study.get_trials()) == 12


def test_grid_takes_the_points_in_a_seeded_order() -> None:
    choices = replace(SMALL, weight_bits=(2, 3, 4, 5, 6))
    search, _ = ran(16, sampler="grid", choices=choices)
    names = evaluated(search.study)
    assert len(names) == len(search.study.get_trials()) == 16
    assert names != evaluated(ran(16, sampler="grid", choices=choices, seed=1)[0].study)


def test_grid_refuses_a_space_that_cannot_be_enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.study.LARGEST_GRID", 11)
    with pytest.raises(SpecError, match="--sampler grid: the space has more than 11 points"):
        ran(16, sampler="grid", choices=SMALL)


def test_a_space_that_the_sampler_does_not_exhaust_is_finished_with_unseen_points() -> None:
    search = make_search(Stub(), SMALL)
    search.prepare(5)  # fewer trials than points: sampled
    search.run(12)  # more than it was prepared for
    assert len(evaluated(search.study)) == 12


def test_the_front_is_feasible_and_not_dominated() -> None:
    bound = f"{ACCURACY} >= 0.9 * fp32"
    search, _ = ran(40, constraints=(bound,))
    trials = search.study.get_trials(states=(TrialState.COMPLETE,))
    assert all(t.constraints == {bound: pytest.approx(0.72 - t.user_attrs["metrics"][ACCURACY])} for t in trials)
    found = front(search.study)
    feasible = [t for t in trials if t.constraints[bound] <= 0]
    assert 0 < len(found) < len(feasible) < len(trials)
    points = losses(search.study, feasible)
    names = {t.user_attrs["configuration"] for t in found}
    for trial, point in zip(feasible, points, strict=True):
        dominated = any((other <= point).all() and (other < point).any() for other in points)
        assert (trial.user_attrs["configuration"] in names) != dominated
    assert {t.number for t in search.study.best_trials} >= {t.number for t in found}


def test_one_objective_with_a_constraint() -> None:
    search, _ = ran(20, objectives=("effective_bits",), constraints=("reliability >= -5",))
    best = front(search.study)
    assert len({tuple(t.values) for t in best}) == 1
    assert best[0].user_attrs["metrics"]["reliability"] >= -5


def test_what_cannot_be_evaluated_fails_once_with_its_reason() -> None:
    stub = Stub(broken=("bnb-nf4-vision",))
    search = make_search(stub)
    search.prepare(12)
    search.run(12)
    failed = [t for t in search.study.get_trials() if "repeat_of" not in t.user_attrs and t.values is None]
    assert all(t.state is TrialState.FAIL for t in failed)
    assert [t.user_attrs["error"] for t in failed] == ["quantization 'bnb-nf4-vision' changed nothing"]
    assert stub.calls["bnb-nf4-vision"] == 1
    assert len(evaluated(search.study)) == 12


class _Log:
    def __init__(self) -> None:
        self.seen: list[FrozenTrial] = []

    def trial(self, trial: FrozenTrial) -> None:
        self.seen.append(trial)


def test_every_finished_trial_is_logged_once() -> None:
    stub, log = Stub(broken=("bnb-nf4-vision",)), _Log()
    search = make_search(stub)
    search.log = log.trial
    search.prepare(15)
    search.run(15)
    told_again = [t for t in search.study.get_trials() if t.state is TrialState.FAIL and "error" not in t.user_attrs]
    assert all("repeat_of" in t.user_attrs for t in told_again)
    others = {t.number for t in search.study.get_trials()} - {t.number for t in told_again}
    assert [t.number for t in log.seen] == sorted(others)
    assert all(t.state.is_finished() for t in log.seen)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StorageError("the disk is full")])
def test_a_stop_keeps_the_study_and_the_configuration_is_tried_again(error: BaseException) -> None:
    stub = Stub()
    search = make_search(stub)

    def stop(spec: QuantSpec) -> dict[str, float]:
        if spec.name == "rtn-w4a8-channel-token-vision":
            raise error
        return stub.evaluate(spec)

    search.problem = Problem(stop, search.problem.better, search.problem.headline)
    search.prepare(10)
    with pytest.raises(type(error)):
        search.run(10)
    assert len(evaluated(search.study)) == 2
    search.problem = Problem(stub.evaluate, search.problem.better, search.problem.headline)
    search.run(10)
    assert "rtn-w4a8-channel-token-vision" in evaluated(search.study)
    assert len(evaluated(search.study)) == 10


@pytest.mark.slow
def test_the_search_beats_chance() -> None:
    """On the stub's smooth surface TPE's front covers more than random search's, median of 5 seeds."""
    from search.front import hypervolume

    volumes = {
        sampler: [
            hypervolume(losses(search.study, search.study.get_trials(states=(TrialState.COMPLETE,))), [0.5, 12.0])
            for seed in range(5)
            for search in [ran(60, sampler=sampler, seed=seed)[0]]
        ]
        for sampler in ("tpe", "random")
    }
    assert np.median(volumes["tpe"]) > np.median(volumes["random"])


def test_optuna_is_not_noisy(capsys: pytest.CaptureFixture[str]) -> None:
    ran(8)
    assert capsys.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
