"""Samplers: each models all choices, and learns."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from optuna.trial import TrialState

from search.front import Floats, hypervolume
from search.history import losses
from search.space import Choices, Space
from search.study import Search
from tests.search_stub import Stub, make_search

WIDE = Choices(
    methods=("rtn", "percentile", "gptq", "rotation", "bnb-nf4"),
    scopes=("vision", "vision+text"),
    group_size=(32,),
    activation_bits=(8,),
)


def ran(sampler: str, trials: int, seed: int = 0, choices: Choices = WIDE, **options: object) -> Search:
    search = make_search(Stub(), choices, sampler=sampler, seed=seed, **options)  # type: ignore[arg-type]
    search.prepare(trials)
    search.run(trials)
    return search


def drawn(search: Search) -> list[str]:
    """Names of the trials that the sampler chose."""
    return [
        t.user_attrs["configuration"]
        for t in search.study.get_trials()
        if not {"baseline", "sibling_of"} & t.user_attrs.keys()
    ]


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "qmc"])
def test_they_do_not_draw_at_random(sampler: str) -> None:
    first = 0 if sampler == "qmc" else 20  # the first generation of a genetic sampler is random
    pairs = list(zip(drawn(ran("random", 90))[first:], drawn(ran(sampler, 90))[first:], strict=False))
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
        names = ["method", "scope", "weight_bits", "activations"]
        values = {name: search.space.parameters[name] for name in names}
        seen = [t for t in search.study.get_trials() if not {"baseline", "sibling_of"} & t.user_attrs.keys()]
        table = [[(values[n].index(t.params[n]) + 0.5) / len(values[n]) for n in names] for t in seen[:64]]
        return float(qmc.discrepancy(table, method="L2-star"))

    assert np.mean([spread("qmc", seed) for seed in range(3)]) < np.mean([spread("random", seed) for seed in range(3)])


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "nsga3", "qmc"])
def test_a_study_goes_on_with_another_sampler(sampler: str) -> None:
    search = ran("tpe", 15)
    other = make_search(Stub(), WIDE, storage=search.study._storage, sampler=sampler)
    other.run(22)
    assert len({t.user_attrs["configuration"] for t in other.study.get_trials()}) >= 22
