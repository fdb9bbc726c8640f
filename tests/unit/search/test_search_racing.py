"""Racing: which trials are pruned, which never are, and how often a mistake is made; the truth is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState

from benchmark.errors import UndefinedMetric
from benchmark.quantization import parse
from benchmark.spec import FP32, QuantSpec
from search.history import evaluated, front, losses, pruned
from search.objective import Metrics
from search.racing import LEVEL, Member, Race
from search.storage import open_storage
from search.study import Search
from tests.search_stub import ACCURACY, ECE, MEDIUM, Images, Noisy, Stub, goals_of, make_search, raced


def member(race: Race, images: Images, name: str) -> Member:
    return Member(parse(name), race.goals.values(race.goals.complete(images.whole(parse(name)))))


def verdicts(images: Images, trial: str, members: tuple[str, ...], *constraints: str) -> list[str | None]:
    """What the race says of a trial on each rung, until it is pruned."""
    problem = images.problem()
    race = Race(problem, goals_of(problem, *constraints))
    found: list[str | None] = []
    rivals = [member(race, images, name) for name in members]
    for index in range(len(race.rungs)):
        assert race.standing(parse(trial), index) is not None
        found.append(race.verdict(parse(trial), index, rivals))
        if found[-1] is not None:
            break
    return found


TRIAL, MEMBER, OTHER = "rtn-w4-channel-vision", "rtn-w4-g32-vision", "rtn-w3-channel-vision"


def pair(seed: int, count: int, behind: float, kind: str) -> Images:
    """Trial and member of equal bits; the trial's mean over all images is `behind` below the member's."""
    images, rng = Images(count, seed), np.random.default_rng([seed, 1])
    if kind == "flips":  # right or wrong; few images differ
        member = (rng.random(count) < 0.8).astype(np.float64)
        trial = np.where(rng.random(count) < 0.1, 1 - member, member)
        wrong = round((member.mean() - trial.mean() - behind) * count)  # correct the balance exactly
        change = np.flatnonzero(trial < 1 if wrong > 0 else trial > 0)[: abs(wrong)]
        trial[change] = 1 - trial[change]
    else:  # continuous and skewed
        member = rng.gamma(1.0, 0.3, count)
        trial = member + rng.exponential(0.2, count)
        trial += member.mean() - trial.mean() - behind
    images.put(MEMBER, 4.0, member)
    images.put(TRIAL, 4.0, trial)
    return images


@pytest.mark.parametrize("kind", ["flips", "skewed"])
def test_what_belongs_on_the_front_is_stopped_with_at_most_the_stated_probability(kind: str) -> None:
    """In the worst case: the trial is better than the member by next to nothing."""
    repeats = 300
    wrong = sum(verdicts(pair(seed, 900, -1e-6, kind), TRIAL, (MEMBER,))[-1] is not None for seed in range(repeats))
    assert wrong / repeats <= LEVEL + 2.5 * np.sqrt(LEVEL * (1 - LEVEL) / repeats)


@pytest.mark.parametrize("kind", ["flips", "skewed"])
def test_what_is_clearly_worse_is_stopped(kind: str) -> None:
    found = [verdicts(pair(seed, 900, 0.15, kind), TRIAL, (MEMBER,)) for seed in range(40)]
    assert np.mean([v[-1] is not None for v in found]) > 0.95
    assert np.mean([len(v) == 1 for v in found]) > 0.3  # on the smallest part already
    reason = next(v[-1] for v in found if v[-1] is not None)
    assert reason.startswith(f"dominated by {MEMBER} on ")
    assert f"{ACCURACY} 0." in reason


def test_a_trial_with_fewer_bits_is_not_stopped_however_bad_it_is() -> None:
    images = pair(0, 900, 0.5, "skewed")
    images.put(TRIAL, 3.9, images.table[TRIAL][1])
    assert verdicts(images, TRIAL, (MEMBER,)) == [None, None]


def test_a_difference_that_no_image_shows_stops_nothing() -> None:
    images = Images(900)
    images.put(MEMBER, 4.0, images.table["fp32"][1])
    images.put(TRIAL, 5.0, images.table["fp32"][1])
    assert verdicts(images, TRIAL, (MEMBER,)) == [None, None]


def test_a_missed_constraint_stops_and_one_that_may_hold_does_not() -> None:
    images = pair(0, 900, 0.0, "skewed")
    base = images.table[TRIAL][1]
    bound = f"{ACCURACY} >= 0.9 * fp32"
    images.put(TRIAL, 4.0, base - base.mean() + 0.4)
    (reason,) = verdicts(images, TRIAL, (), bound)
    assert reason is not None
    assert reason.startswith(f"violates {bound} by 0.3")
    images.put(TRIAL, 4.0, base - base.mean() + 0.73)
    assert verdicts(images, TRIAL, (), bound) == [None, None]
    assert verdicts(images, TRIAL, (), "effective_bits <= 3")[0] is not None


def test_members_that_another_makes_superfluous_are_not_tested() -> None:
    images = pair(1, 900, 0.0, "skewed")
    images.put(OTHER, 3.0, images.table[MEMBER][1] - 0.3)
    problem = images.problem()
    race = Race(problem, goals_of(problem))
    own = race.standing(parse(TRIAL), 0)
    assert own is not None
    made = [member(race, images, name) for name in (OTHER, MEMBER)]
    assert [one.spec.name for one, _ in race._rivals(own, 0, made)] == [MEMBER]
    assert [one.spec.name for one, _ in race._rivals(replace(own, values=[0.5, 3.5]), 0, made)] == [OTHER]
    assert race._rivals(replace(own, values=[0.5, 2.5]), 0, made) == []


def test_a_part_without_a_metric_judges_nobody() -> None:
    def undefined(spec: QuantSpec) -> Metrics:
        raise UndefinedMetric("accuracy has no value on 0 images")

    images = pair(0, 900, 0.5, "skewed")
    problem = images.problem()
    rung = images.rung(0.1)
    without = replace(problem, rungs=(replace(rung, evaluate=undefined), *problem.rungs))
    assert [on.rung.share for on in Race(without, goals_of(problem)).rungs] == [1 / 9, 1 / 3]
    late = replace(rung, evaluate=lambda spec: rung.evaluate(spec) if spec == FP32 else undefined(spec))
    race = Race(replace(problem, rungs=(late,)), goals_of(problem))
    assert race.standing(parse(TRIAL), 0) is None
    assert race.verdict(parse(TRIAL), 0, [member(race, images, MEMBER)]) is None


def test_without_its_error_nothing_is_stopped() -> None:
    worse = pair(0, 900, 0.5, "skewed")
    assert verdicts(worse, TRIAL, (MEMBER,))[-1] is not None
    for name in (TRIAL, MEMBER):

        def replicates(spec: QuantSpec, unknown: str = name) -> list[Metrics]:
            if spec.name == unknown:
                raise UndefinedMetric("accuracy has no value without group 3")
            return worse.replicates(1 / 3, spec)

        problem = replace(worse.problem(), rungs=(replace(worse.rung(1 / 3), replicates=replicates),))
        race = Race(problem, goals_of(problem))
        assert race.verdict(parse(TRIAL), 0, [member(race, worse, MEMBER)]) is None


def test_a_study_pays_for_the_front_and_little_for_the_rest() -> None:
    images = Noisy(900)
    search = raced(images, 50)
    assert sum(images.paid.values()) < 0.9 * 900 * len(images.paid)
    assert len(evaluated(search.study)) == 50
    names = {t.user_attrs["configuration"] for t in pruned(search.study)}
    assert len(names) > 5
    assert all(images.paid[t.user_attrs["configuration"]] == 900 for t in front(search.study))
    assert all(t.user_attrs["configuration"] not in names for t in front(search.study))
    baselines = [t for t in search.study.get_trials() if t.user_attrs.get("baseline")]
    assert {t.state for t in baselines} == {TrialState.COMPLETE}
    points = losses(search.study, front(search.study))
    for trial in pruned(search.study):  # the truth: dominated
        bits, values = images.of(parse(trial.user_attrs["configuration"]))
        assert ((points <= [-values.mean(), bits]).all(1)).any(), trial.user_attrs["pruned"]
        assert trial.values is None
        assert trial.user_attrs["estimate"][1] == bits


def test_without_rungs_every_trial_gets_all_images() -> None:
    images = Noisy(90)
    assert raced(images, 20, racing=False).study.get_trials(states=(TrialState.PRUNED,)) == []
    assert set(images.paid.values()) == {90}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc"])
def test_racing_is_reproducible_and_resumable(sampler: str, tmp_path: Path) -> None:
    def history(search: Search) -> list[tuple[object, ...]]:
        return [
            (t.user_attrs["configuration"], t.state, t.values, t.user_attrs.get("estimate"))
            for t in search.study.get_trials()
        ]

    whole = raced(Noisy(450), 36, sampler=sampler)
    raced(Noisy(450), 20, prepared=36, sampler=sampler, storage=open_storage(tmp_path))
    search = make_search(
        Stub(), MEDIUM, objectives=(ACCURACY, "effective_bits"), sampler=sampler, storage=open_storage(tmp_path)
    )
    search.problem = Noisy(450).problem()
    search.goals = goals_of(search.problem)
    search.run(36)
    assert history(search) == history(whole)
    assert TrialState.PRUNED in {t.state for t in search.study.get_trials()}


def test_a_stopped_configuration_is_not_measured_again() -> None:
    images = Noisy(450)
    search = raced(images, 30)
    first = pruned(search.study)[0]
    images.paid.clear()
    next_one = len(search.study.get_trials())
    search.study.enqueue_trial({}, user_attrs={"configuration": first.user_attrs["configuration"]})
    search.run(31)
    again = search.study.get_trials()[next_one]
    assert again.state is TrialState.PRUNED
    assert again.user_attrs["repeat_of"] == first.number
    assert again.user_attrs["pruned"] == first.user_attrs["pruned"]
    assert first.user_attrs["configuration"] not in images.paid
    assert len(evaluated(search.study)) == 31


def test_constraints_hold_on_the_front_of_a_race() -> None:
    bound = f"{ACCURACY} >= 0.9 * fp32"
    search = raced(Noisy(900), 40, constraints=(bound,))
    assert all(t.values[0] >= 0.72 for t in front(search.study))
    assert any(t.user_attrs["pruned"].startswith("violates") for t in pruned(search.study))
    assert ECE not in search.goals.keys


def test_errors_are_computed_only_where_they_decide() -> None:
    ahead = pair(0, 900, -0.1, "skewed")
    assert verdicts(ahead, TRIAL, (MEMBER,)) == [None, None]
    assert set(ahead.repeated) == {"fp32"}
    behind = pair(0, 900, 0.15, "skewed")
    assert verdicts(behind, TRIAL, (MEMBER,))[-1] is not None
    assert set(behind.repeated) == {"fp32", TRIAL, MEMBER}


def test_where_the_image_features_are_there_already_no_part_is_measured_first() -> None:
    images = Noisy(450)
    seen: dict[str, int] = {}

    class Log:
        def trial(self, trial: FrozenTrial) -> None:
            seen[trial.user_attrs["configuration"]] = images.measured[trial.user_attrs["configuration"]]

    search = raced(images, 1, prepared=40, sampler="ehvi")
    search.log = Log()
    search.run(40)
    trials = {t.user_attrs["configuration"]: t for t in search.study.get_trials()}
    siblings = [name for name, trial in trials.items() if "sibling_of" in trial.user_attrs]
    assert len(siblings) > 3
    free = {*siblings, *(name for name, trial in trials.items() if trial.user_attrs.get("baseline"))} - {"fp32"}
    assert {seen[name] for name in free} == {0}
    assert {trials[name].state for name in free} == {TrialState.COMPLETE}
    towers: set[str] = set()
    for name, measured in seen.items():  # of the others each was measured
        tower = parse(name).for_tower("vision").name
        assert (measured == 0) == (name in free or tower in towers or tower == "fp32"), name
        if trials[name].state is TrialState.COMPLETE:
            towers.add(tower)
