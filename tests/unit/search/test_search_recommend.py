"""Candidates of a study, groups that cannot be told apart, and the sentences of the recommendation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.quantization import parse
from benchmark.results.decide import NON_INFERIOR
from benchmark.results.reliability import Reliability
from search.history import front, is_feasible
from search.recommend import MOST, Member, candidates, choice_of, grouped, groups_told, name_of, sentences
from search.study import Search
from tests.search_stub import ACCURACY, MEDIUM, Stub, make_search

CHOICES = replace(MEDIUM, methods=("rtn", "gptq"), activation_bits=(8,))


def ran(trials: int = 60, **options: object) -> Search:
    search = make_search(Stub(), CHOICES, objectives=("effective_bits",), **options)  # type: ignore[arg-type]
    search.prepare(trials)
    search.run(trials)
    return search


def on_test(search: Search) -> list[Member]:
    """As if the test split had said the same as the validation split."""
    members = []
    for trial in candidates(search.study, search.goals):
        spec = parse(name_of(trial))
        standing, metrics = Stub().standing(spec), search.goals.complete(Stub().evaluate(spec))
        members.append(Member(spec.name, trial, metrics, standing.decision, standing.reliability))
    return members


def test_candidates_of_a_goal_are_a_ladder_from_the_dearest_to_the_cheapest() -> None:
    search = ran(probability=0.8)
    found = candidates(search.study, search.goals)
    assert 1 < len(found) <= MOST
    assert all(is_feasible(trial) for trial in found)
    costs = [trial.values[0] for trial in found]
    assert costs == sorted(costs, reverse=True)
    worst = [max(trial.constraints.values()) for trial in found]
    assert worst == sorted(worst)  # cheaper, and less sure
    feasible = [t for t in search.study.get_trials() if t.values and is_feasible(t)]
    assert costs[-1] == min(t.values[0] for t in feasible)


def test_without_a_goal_they_are_the_front() -> None:
    search = make_search(Stub(), CHOICES)
    search.prepare(30)
    search.run(30)
    assert candidates(search.study, search.goals) == front(search.study)


def test_where_nothing_reaches_the_goal_the_closest_is_the_candidate() -> None:
    search = ran(20, probability=0.8, constraints=("effective_bits <= 4",))
    trials = [t for t in search.study.get_trials() if t.values and t.constraints["effective_bits <= 4"] <= 0]
    assert not any(is_feasible(t) for t in trials)
    (found,) = candidates(search.study, search.goals)
    assert found in trials
    assert max(found.constraints.values()) == min(max(t.constraints.values()) for t in trials)
    nothing = ran(5, probability=0.8, constraints=("effective_bits <= 1",))
    assert candidates(nothing.study, nothing.goals) == []


def test_the_recommendation_is_the_cheapest_that_passes_and_says_what_it_may_cost() -> None:
    search = ran(probability=0.8)
    members = on_test(search)
    choice = choice_of(members, "effective_bits")
    assert choice.recommended is not None
    assert choice.recommended.decision.verdict == NON_INFERIOR
    cheaper = [e for e in members if e.metrics["effective_bits"] < choice.recommended.cost - 1e-6]
    assert all(each.decision.p > 0.025 / len(members) for each in cheaper)
    what, worst = sentences(members, choice, Stub().evaluate(parse("fp32")))
    assert what.startswith(
        f"Deploy {choice.recommended.name}: {choice.recommended.cost:.1f} bits per weight instead of 32"
    )
    loss = max(e.worst or 0 for e in choice.recommended.decision.judged if e.key == ACCURACY)
    assert worst.startswith("On 1,000 images that the search did not choose on, ")
    assert f"{ACCURACY} gets worse by at most {loss:.4f}" in worst
    assert "97.5 %" in worst


def test_where_nothing_passes_the_words_say_how_many_images_would_tell() -> None:
    search = ran(probability=0.5)
    trial = candidates(search.study, search.goals)[-1]
    spec = parse("rtn-w6-channel-vision")  # loses 0.0156 of the 0.02 that are allowed
    member = Member(spec.name, trial, search.goals.complete(Stub().evaluate(spec)), Stub().standing(spec).decision)
    choice = choice_of([member], "effective_bits")
    assert choice.recommended is None
    first, second = sentences([member], choice, Stub().evaluate(parse("fp32")))
    assert first.startswith("Deploy none of this candidate yet: on 1,000 images none is shown")
    assert second.startswith("About ")
    assert spec.name in second
    failed = [Member("x", trial, {})]
    assert "no candidate could be evaluated" in sentences(failed, choice_of(failed, "effective_bits"), {})[0]


@given(st.lists(st.floats(-5, 5, allow_nan=False), min_size=1, max_size=12, unique=True), st.floats(0.1, 3))
def test_groups_hold_what_does_not_differ_from_their_most_reliable_member(values: list[float], error: float) -> None:
    members = [
        Member(str(i), None, {"effective_bits": float(i)}, reliability=Reliability(v)) for i, v in enumerate(values)
    ]

    def apart(one: str, other: str) -> float:
        return 0.0 if abs(values[int(one)] - values[int(other)]) > error else 1.0

    found = {each.name: each.group for each in grouped(members, apart)}
    numbers = sorted(set(found.values()))
    assert numbers == list(range(1, len(numbers) + 1))
    leaders = [max((v for i, v in enumerate(values) if found[str(i)] == n)) for n in numbers]
    assert leaders == sorted(leaders, reverse=True)
    for i, value in enumerate(values):
        assert leaders[found[str(i)] - 1] - value <= error
        assert all(leader - value > error for leader in leaders[: found[str(i)] - 1])


def test_equal_members_are_one_group_and_the_cheapest_is_named() -> None:
    rng = np.random.default_rng(0)
    members = [
        Member(f"q{i}", None, {"effective_bits": 8.0 - i}, reliability=Reliability(rng.normal())) for i in range(5)
    ]
    members += [Member("failed", None, {})]
    (line,) = groups_told(grouped(members, lambda a, b: 1.0), "effective_bits")
    assert line == "group 1: these 5 are equally reliable within error; the cheapest is q4 (effective bits 4)"
    assert groups_told(grouped(members, lambda a, b: 0.0), "effective_bits") == []
    assert grouped(members, lambda a, b: 1.0)[-1].group == 0


def test_chance_alone_rarely_parts_equal_members() -> None:
    """With p values of truly equal members, any of them is parted from the leader in about 5 % of studies at most."""
    rng, parted = np.random.default_rng(1), 0
    for _ in range(400):
        p = {(a, b): rng.uniform() for a in range(6) for b in range(6)}
        members = [Member(str(i), None, {}, reliability=Reliability(float(-i))) for i in range(6)]
        found = grouped(members, lambda a, b, p=p: p[int(a), int(b)])  # type: ignore[misc]
        parted += any(each.group > 1 for each in found)
    assert parted / 400 < 0.06


@pytest.mark.parametrize("cost", ["effective_bits", "size_mb"])
def test_any_cost_can_be_minimised(cost: str) -> None:
    search = make_search(Stub(), CHOICES, objectives=(cost,), probability=0.8)
    search.prepare(30)
    search.run(30)
    assert search.goals.cost == cost
    members = on_test(search)
    recommended = choice_of(members, cost).recommended
    assert recommended is not None
    assert recommended.cost == pytest.approx(next(e.metrics[cost] for e in members if e.name == recommended.name))
