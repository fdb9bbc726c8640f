"""Samplers: each models all choices, learns, and sees only trials that it can learn from."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from benchmark.errors import SpecError
from benchmark.quantization import quantizers
from benchmark.spec import QuantSpec
from search.draw import Seen
from search.flat import Flat
from search.front import Floats, hypervolume
from search.history import losses
from search.samplers import FLAT
from search.space import Choices, Space
from search.study import Search
from tests.search_stub import MEDIUM, Stub, make_search

WIDE = Choices(
    methods=("rtn", "percentile", "gptq", "rotation", "bnb-nf4"),
    scopes=("vision", "vision+text"),
    group_size=(32,),
    activation_bits=(8,),
)
SPACES = [Space(MEDIUM), Space(replace(WIDE, blocks={"vision": ("visual.blocks.0", "visual.blocks.1")}))]


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(SPACES))
def test_points_are_the_same_flat_and_back(rng: random.Random, space: Space) -> None:
    flat = Flat(space)
    spec = space.sample(lambda dimension: rng.choice(dimension.values))
    params = flat.encode(spec)
    assert params is not None
    assert params.keys() == flat.distributions.keys()
    assert flat.decode(params) == spec


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(SPACES))
def test_any_flat_values_are_a_point(seed: int, space: Space) -> None:
    flat, sampler = Flat(space), RandomSampler(seed=seed)
    params = {name: sampler.sample_independent(None, None, name, d) for name, d in flat.distributions.items()}  # type: ignore[arg-type]
    spec = flat.decode(params)
    assert space.labelled(spec) is not None
    assert flat.decode(flat.encode(spec) or {}) == spec


def test_values_that_are_not_offered_become_the_closest() -> None:
    def check(spec: QuantSpec) -> None:
        quantizers.get(spec.method).check(spec)
        if spec.weight_bits in (6, 7) or spec.group_size == 64:
            raise SpecError("not with this model")

    space = Space(Choices(("rtn",), ("vision",)), check)
    flat = Flat(space)
    values = space.declared()
    base = {name: values[name][0] for name in flat.distributions}
    spec = flat.decode({**base, "weight_bits": 6, "weight_granularity": "group", "group_size": 64})
    assert (spec.weight_bits, spec.group_size) == (5, 32)


def test_what_is_no_point_has_no_flat_parameters() -> None:
    from benchmark.quantization import parse

    assert Flat(SPACES[0]).encode(parse("bnb-int8-vision")) is None


def ran(sampler: str, trials: int, seed: int = 0, choices: Choices = WIDE, **options: object) -> Search:
    search = make_search(Stub(), choices, sampler=sampler, seed=seed, **options)  # type: ignore[arg-type]
    search.prepare(trials)
    search.run(trials)
    return search


def drawn(search: Search) -> list[str]:
    """Names of the trials that the sampler chose."""
    return [t.user_attrs["configuration"] for t in search.study.get_trials() if "baseline" not in t.user_attrs]


def test_samplers_see_points_only() -> None:
    search = ran("nsga2", 12)
    names = [t.user_attrs["configuration"] for t in search.study.get_trials(states=(TrialState.COMPLETE,))]
    assert "fp32" in names
    flat = Flat(search.space)
    seen = Seen(search.study, search.space, flat).get_trials()
    assert "fp32" not in [t.user_attrs["configuration"] for t in seen]
    assert all(t.params.keys() == t.distributions.keys() == flat.distributions.keys() for t in seen)
    own = Seen(search.study, search.space, None).get_trials()
    assert [t.params for t in own] == [t.params for t in search.study.get_trials() if t.params]


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "qmc"])
def test_they_do_not_draw_at_random(sampler: str) -> None:
    first = 0 if sampler == "qmc" else 20  # the first generation of a genetic sampler is random
    pairs = list(zip(drawn(ran("random", 52))[first:], drawn(ran(sampler, 52))[first:], strict=False))
    assert len(pairs) > 15
    assert sum(a == b for a, b in pairs) < 0.2 * len(pairs)


@cache
def table() -> Floats:
    """(N, 2) losses of every point of the space, by bits, and the best loss up to there."""
    goals, stub = make_search(Stub(), WIDE).goals, Stub()
    rows = [goals.values(goals.complete(stub.evaluate(spec))) for spec in Space(WIDE).points()]
    points = np.array(sorted((bits, -value) for value, bits in rows))
    points[:, 1] = np.minimum.accumulate(points[:, 1])
    return points


def excess(search: Search, rows: slice) -> float:
    """By how much drawn trials miss the best reliability that their bits allow, on average."""
    trials = [t for t in search.study.get_trials(states=(TrialState.COMPLETE,)) if "baseline" not in t.user_attrs]
    best = table()
    found = [-t.values[0] - best[np.searchsorted(best[:, 0], t.values[1], side="right") - 1, 1] for t in trials[rows]]
    return float(np.mean(found))


@cache
def chance(trials: int, last: int) -> float:
    return float(np.mean([excess(ran("random", trials, seed), slice(-last, None)) for seed in range(2)]))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3"])
def test_they_learn(sampler: str) -> None:
    """Later trials are better than the first, random ones, and than what chance finds; mean of 2 seeds."""
    searches = [ran(sampler, 70, seed) for seed in range(2)]
    first, last = (np.mean([excess(s, rows) for s in searches]) for rows in (slice(0, 15), slice(-20, None)))
    assert last < 0.9 * first
    assert last < 0.9 * chance(70, 20)


@pytest.mark.slow
def test_the_gaussian_process_learns() -> None:
    """It maximises the hypervolume: what 30 trials dominate, mean of 2 seeds, is more than by chance."""

    def volume(search: Search) -> float:
        return hypervolume(losses(search.study, search.study.get_trials(states=(TrialState.COMPLETE,))), [20.0, 12.0])

    searches = [ran("gp", 30, seed) for seed in range(2)]
    assert np.mean([volume(s) for s in searches]) > np.mean([volume(ran("random", 30, seed)) for seed in range(6)])
    assert drawn(searches[0])[12:] != drawn(ran("random", 30))[12:]


def test_quasi_random_numbers_cover_the_space_more_evenly_than_chance() -> None:
    """Discrepancy (L2-star, as scipy's) of the flat parameters, in the places of their values."""
    from scipy.stats import qmc

    def spread(sampler: str, seed: int) -> float:
        search = ran(sampler, 70, seed)
        flat, values = Flat(search.space), search.space.declared()
        names = ["method", "scope", "weight_bits", "activations"]
        seen = [t for t in Seen(search.study, search.space, flat).get_trials() if "baseline" not in t.user_attrs]
        table = [[(values[n].index(t.params[n]) + 0.5) / len(values[n]) for n in names] for t in seen[:64]]
        return float(qmc.discrepancy(table, method="L2-star"))

    assert np.mean([spread("qmc", seed) for seed in range(3)]) < np.mean([spread("random", seed) for seed in range(3)])


@pytest.mark.parametrize("sampler", FLAT)
def test_a_study_goes_on_with_another_sampler(sampler: str) -> None:
    search = ran("tpe", 15)
    other = make_search(Stub(), WIDE, storage=search.study._storage, sampler=sampler)
    other.run(22)
    assert len({t.user_attrs["configuration"] for t in other.study.get_trials()}) >= 22
