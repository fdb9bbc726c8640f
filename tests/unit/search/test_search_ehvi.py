"""The default sampler: its criterion against other ways to compute it, what is known in advance, what it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm
from sklearn.ensemble import ExtraTreesRegressor

from benchmark.engine.plan import Settings
from benchmark.quantization import parse, quantizers
from benchmark.spec import FP32, Override, QuantSpec, SuiteSpec, parse_spec
from search import ehvi as module
from search.ehvi import NEIGHBOURS, POOL, START, Ehvi, _predict, expected_gain
from search.evaluator import Engine
from search.front import Floats, hypervolume, hypervolume_curve
from search.history import evaluated, losses
from search.samplers import DEFAULT, EHVI
from search.space import Choices, Space
from search.study import Search
from tests.search_stub import ACCURACY, MEDIUM, SMALL, Stub, make_search

WIDE = Choices(
    methods=("rtn", "percentile", "gptq", "bnb-nf4"),
    scopes=("vision", "vision+text"),
    group_size=(32, 64, 128),
    activation_bits=(4, 5, 6, 7, 8),
)
unit = st.floats(0.05, 0.95)
pairs = st.lists(st.tuples(unit, unit), min_size=1, max_size=8)


def known_objectives(spec: QuantSpec) -> dict[str, float]:
    return {"effective_bits": Stub().evaluate(spec)["effective_bits"]}


def made(choices: Choices = MEDIUM, **options: object) -> Search:
    """The stub's bits are known beforehand, as the engine's are."""
    search = make_search(Stub(), choices, **{"sampler": EHVI} | options)  # type: ignore[arg-type]
    search.problem = replace(search.problem, known_objectives=known_objectives)
    return search


def ran(trials: int, seed: int = 0, choices: Choices = MEDIUM, **options: object) -> Search:
    search = made(choices, seed=seed, **options)
    search.prepare(trials)
    search.run(trials)
    return search


def names(search: Search) -> list[str]:
    return [str(t.user_attrs["configuration"]) for t in search.study.get_trials()]


@settings(max_examples=40, deadline=None)
@given(pairs, pairs)
def test_what_is_certain_gains_the_volume_that_it_adds(front: list[tuple[float, float]], new: list[float]) -> None:
    """To 1 % of the whole, which is what 4,096 points resolve."""
    worst = np.ones(2)
    candidates = np.array(new)
    gains = expected_gain(candidates, np.full_like(candidates, 1e-9), np.array(front), worst, 0)
    before = hypervolume(front, worst)
    added = [hypervolume([*front, tuple(point)], worst) - before for point in new]
    assert gains == pytest.approx(added, abs=0.01)


def test_with_one_loss_it_is_the_expected_improvement() -> None:
    """Closed form of Jones et al. (1998)."""
    mean, error, best = np.array([[0.2], [0.5], [0.8]]), np.array([[0.1], [0.2], [0.05]]), 0.4
    z = (best - mean[:, 0]) / error[:, 0]
    expected = error[:, 0] * (z * norm.cdf(z) + norm.pdf(z))
    gains = expected_gain(mean, error, np.array([[best]]), np.array([1.0]), 0)
    assert gains == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("columns", [2, 3])
def test_it_is_the_mean_of_the_volume_added_by_draws(columns: int) -> None:
    rng = np.random.default_rng(columns)
    front, mean = rng.uniform(0.3, 0.8, (5, columns)), rng.uniform(0.3, 0.7, (4, columns))
    error = rng.uniform(0.02, 0.15, (4, columns))
    worst = np.ones(columns)
    before = hypervolume(front, worst)
    drawn = [
        np.mean([hypervolume([*front, point], worst) - before for point in rng.normal(m, e, (800, columns))])
        for m, e in zip(mean, error, strict=True)
    ]
    assert expected_gain(mean, error, front, worst, 0) == pytest.approx(drawn, abs=0.01)


def test_without_a_front_the_whole_box_is_to_gain() -> None:
    gain = expected_gain(np.array([[0.5, 0.5]]), np.full((1, 2), 1e-9), np.zeros((0, 2)), np.ones(2), 0)
    assert gain == pytest.approx([0.25], abs=0.01)


def test_it_is_the_default() -> None:
    assert DEFAULT == EHVI
    assert Search.__dataclass_fields__["sampler"].default == EHVI


def volumes(search: Search, towers: tuple[int, ...]) -> list[float]:
    """Hypervolume that was dominated when so many image towers had been evaluated: the cost that it minds."""
    trials = search.study.get_trials(states=(TrialState.COMPLETE,))
    curve = hypervolume_curve(losses(search.study, trials), [0.6, 12.0])
    seen: set[str] = set()
    paid = [len(seen.add(tower(t)) or seen) for t in trials]  # type: ignore[func-returns-value]
    return [float(curve[np.searchsorted(paid, most, side="right") - 1]) for most in towers]


def tower(trial: FrozenTrial) -> str:
    return parse(trial.user_attrs["configuration"]).for_tower("vision").name


@pytest.mark.slow
def test_it_finds_more_than_chance_for_the_same_cost() -> None:
    """Of 17,644 points: what 40 towers leave to the best is a third less, mean of 3 seeds."""
    goals, stub = make_search(Stub(), WIDE).goals, Stub()
    every = [goals.values(goals.complete(stub.evaluate(spec))) for spec in Space(WIDE).points()]
    most = hypervolume([(-value, bits) for value, bits in every], [0.6, 12.0])
    found = [most - v for seed in range(3) for v in volumes(ran(80, seed, WIDE), (40,))]
    chance = [most - v for seed in range(6) for v in volumes(ran(50, seed, WIDE, sampler="random"), (40,))]
    assert min(found + chance) >= 0
    assert np.mean(found) < 2 / 3 * np.mean(chance)


def test_a_constraint_is_kept_in_mind() -> None:
    """Most of what it chooses satisfies a constraint that most of the space violates."""
    text = f"{ACCURACY} >= 0.95 * fp32"

    def share(sampler: str) -> float:
        search = ran(44, choices=WIDE, sampler=sampler, constraints=(text,))
        chosen = [t for t in search.study.get_trials() if "baseline" not in t.user_attrs][START:]
        return float(np.mean([t.constraints[text] <= 0 for t in chosen]))

    assert share("random") < 0.6
    assert share(EHVI) > 0.7


def test_what_cannot_be_done_in_both_towers_has_no_sibling() -> None:
    space = Space(SMALL)  # vision only
    assert [space.same_images(spec) for spec in space.points()] == [None] * 12
    assert Space(MEDIUM).same_images(FP32) is None


def test_a_small_space_is_emptied_without_a_repeat() -> None:
    search = made(replace(SMALL, scopes=("vision", "vision+text")))
    search.prepare(22)  # not enumerated: there are 24
    search.run(22)
    search.run(30)
    assert len(evaluated(search.study)) == len(set(names(search))) == len(search.study.get_trials())


@pytest.mark.parametrize("trials", [14, 25])
def test_a_study_that_was_stopped_goes_on_as_if_it_had_not(trials: int) -> None:
    whole = ran(30)
    search = made()
    search.prepare(30)
    search.run(trials)
    again = made(storage=search.study._storage)
    again.run(30)
    assert names(again) == names(whole)
    assert names(ran(30, seed=1)) != names(whole)


def chosen_by(ehvi: Ehvi, known: list[FrozenTrial], values: Floats, taken: list[str]) -> QuantSpec | None:
    return ehvi.choose(known, values, values.max(axis=0), taken, 0)


def learnt(count: int) -> tuple[list[FrozenTrial], Floats]:
    """Trials of so many different image towers of the space."""
    search = ran(45)
    own = [t for t in search.study.get_trials() if t.values]
    first = [next(t for t in own if tower(t) == name) for name in dict.fromkeys(map(tower, own))][:count]
    assert len(first) == count
    return first, losses(search.study, first)


def test_what_is_left_to_chance() -> None:
    """The first and the end."""
    known, values = learnt(20)
    space = Space(MEDIUM)
    ehvi, everything = Ehvi(space, 0, lambda spec: (None, None)), [spec.name for spec in space.points()]
    chance = [chosen_by(ehvi, known[:n], values[:n], []) is None for n in range(2, 21)]
    assert chance == [n < START for n in range(2, 21)]
    assert chosen_by(ehvi, known, values, everything) is None


def test_what_is_known_in_advance_is_exact() -> None:
    """Of many that the model thinks alike it takes the one that is known to be smallest."""
    known, values = learnt(20)
    ehvi = Ehvi(Space(MEDIUM), 0, lambda spec: (0.0, len(spec.name) / 100))
    chosen = chosen_by(ehvi, known, values, [])
    assert chosen is not None
    assert len(chosen.name) == min(len(spec.name) for spec in ehvi._candidates([], np.random.default_rng(0)))


@pytest.mark.parametrize("missed", [0, 5, 20])
def test_gain_is_beyond_the_front_of_the_trials_that_keep_the_constraints(
    missed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And neighbours are drawn of those on it; `missed` of the best trials miss a constraint."""
    known, values = learnt(20)
    worst_first = np.argsort(-values.sum(axis=1))
    able = set(worst_first[: 20 - missed].tolist())
    monkeypatch.setattr(type(known[0]), "constraints", property(lambda self: {"size": self.user_attrs["missed"]}))
    for place, trial in enumerate(known):
        trial.user_attrs["missed"] = -1.0 if place in able else 0.5
    on_front = [
        i for i in able if not any((values[j] <= values[i]).all() and (values[j] < values[i]).any() for j in able)
    ]
    fronts, around = list[Floats](), list[list[str]]()
    monkeypatch.setattr(module, "expected_gain", lambda m, e, front, *_: fronts.append(front) or np.ones(len(m)))
    searcher = Ehvi(Space(MEDIUM), 0, lambda spec: (None, None))
    seen = around.append
    monkeypatch.setattr(Ehvi, "_candidates", lambda self, best, _: seen([spec.name for spec in best]) or self._pool)
    assert chosen_by(searcher, known, values, []) is not None
    assert {*map(tuple, fronts[0])} == {tuple(values[i]) for i in on_front}
    assert {*around[0]} == {str(known[i].user_attrs["configuration"]) for i in on_front}


def test_trees_are_those_of_the_librarys_forest() -> None:
    """Mean and spread over many seeds; where the value is known both say it."""
    rng = np.random.default_rng(0)
    rows, wanted, values = rng.random((30, 4)), rng.random((20, 4)), rng.random(30)
    wanted[:5] = rows[:5]
    forests = (ExtraTreesRegressor(50, random_state=seed).fit(rows, values) for seed in range(20))
    trees = np.stack([[tree.predict(wanted) for tree in forest.estimators_] for forest in forests])
    mean, spread = np.mean([_predict(rows, values, wanted, 1000 * seed) for seed in range(20)], axis=0)
    assert mean == pytest.approx(trees.mean(axis=(0, 1)), abs=0.04)
    assert spread[5:] == pytest.approx(trees.std(axis=1).mean(axis=0)[5:], abs=0.04)
    assert mean[:5] == pytest.approx(values[:5])
    assert (spread[:5] < 0.01).all()


def test_a_large_space_is_searched_around_the_front_too() -> None:
    space = Space(replace(WIDE, harmful=(("vision", "visual.a"), ("vision", "visual.b"), ("vision", "visual.c"))))
    assert space.size(POOL) > POOL
    ehvi, front = Ehvi(space, 0, lambda spec: (None, None)), parse("gptq-w4-g64-vision")
    pool = {spec.name for spec in ehvi._candidates([], np.random.default_rng(0))}
    near = [spec for spec in ehvi._candidates([front], np.random.default_rng(0)) if spec.name not in pool]
    assert POOL / 2 < len(pool) <= POOL
    assert 10 < len(near) <= NEIGHBOURS
    own = space.encode(front) or {}
    changed = [sum(own[k] != v for k, v in (space.encode(spec) or {}).items()) for spec in near]
    assert np.mean([count == 1 for count in changed]) > 0.5
    assert all(space.encode(spec) is not None for spec in near)


SUITE = {
    "name": "known",
    "version": 1,
    "models": ["demo"],
    "quantizations": ["fp32"],
    "calibration": "calibration",
    "data": {
        "scenes": {"source": "demo", "split": "validation", "limit": 20},
        "calibration": {"source": "demo", "split": "calibration", "limit": 20},
    },
    "tasks": {"zero_shot": {"scenes": {"test": "scenes"}}},
    "headline": [ACCURACY],
}
FORMS = (
    "w3-vision",
    "w4-channel-vision+text",
    "w5-g32-asym-vision+text",
    "w6-tensor-asym-text",
    "w2a8-g64-token-vision",
)


METHODS = tuple(name for name in quantizers.names() if "symmetric" in quantizers.get(name).fields)


@pytest.mark.parametrize("methods", [("rtn",), pytest.param(METHODS, marks=pytest.mark.slow)])
def test_bits_are_known_in_advance_as_they_are_measured(methods: tuple[str, ...], tmp_path: Path) -> None:
    engine = Engine(parse_spec(SuiteSpec, SUITE, "test"), Settings(), tmp_path)
    overrides = (Override(pattern="visual.*0*", bits=8), Override(pattern="visual.*1*", bits=2))
    specs = [parse("rtn-w4-channel-vision").model_copy(update={"overrides": overrides})]
    specs += [parse(f"{method}-{FORMS[(i + j) % len(FORMS)]}") for i, method in enumerate(methods) for j in range(2)]
    known = {spec.name: engine.known_objectives(spec)["effective_bits"] for spec in specs}
    measured = {spec.name: engine.evaluate(spec)["effective_bits"] for spec in specs}
    online = {spec.name for spec in specs if spec.method in ("smoothquant", "awq", "rotation")}
    assert {n: v for n, v in known.items() if n not in online} == pytest.approx(
        {n: v for n, v in measured.items() if n not in online}, abs=1e-12
    )
    assert all(0 <= measured[name] - known[name] < 0.15 for name in online)


def test_bits_of_formats_of_their_own_are_not_known_in_advance(tmp_path: Path) -> None:
    engine = Engine(parse_spec(SuiteSpec, SUITE, "test"), Settings(), tmp_path)
    assert {"rtn", "mse", "percentile", "gptq", "awq", "smoothquant", "rotation"} <= {*METHODS}
    assert engine.known_objectives(parse("bnb-nf4-vision")) == engine.known_objectives(parse("hqq-w4-g64-vision")) == {}
