"""Optuna's samplers by name, made anew for each trial from the study's seed and the trial's number.

So a trial depends only on the seed and the trials finished before it: an interrupted and resumed study draws the same
configurations as an uninterrupted one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial

from benchmark.errors import UnknownNameError
from benchmark.spec.scalars import Scalar

GRID, EHVI = "grid", "ehvi"
DEFAULT = EHVI
"""It finds the best front for its cost on the demo (docs/results-search.md)."""
FLAT = ("nsga2", "nsga3", "gp", "qmc")
"""Samplers that model only parameters that all trials have: they get the flat space (`search.flat`)."""
_POPULATION = 20
_RANDOM_START = 10

Make = Callable[[int, int], samplers.BaseSampler]
_SAMPLERS: dict[str, Make] = {
    # choices are conditional, so each is modelled by itself, also with a single objective
    "tpe": lambda _, trial: samplers.TPESampler(seed=trial, n_startup_trials=_RANDOM_START, multivariate=False),
    "nsga2": lambda _, trial: samplers.NSGAIISampler(seed=trial, population_size=_POPULATION),
    "nsga3": lambda _, trial: samplers.NSGAIIISampler(seed=trial, population_size=_POPULATION),
    "gp": lambda _, trial: samplers.GPSampler(
        seed=trial, deterministic_objective=True, n_startup_trials=_RANDOM_START, warn_independent_sampling=False
    ),
    "qmc": lambda study, trial: samplers.QMCSampler(
        seed=study,
        scramble=True,
        independent_sampler=samplers.RandomSampler(seed=trial),
        warn_independent_sampling=False,
    ),
    "random": lambda _, trial: samplers.RandomSampler(seed=trial),
}
NAMES = (EHVI, *_SAMPLERS, GRID)


class _ByParameter(samplers.BaseSampler):
    """Draws one parameter after the other."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """No relative space: each parameter is drawn by itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing to draw here."""
        return {}


class Fixed(_ByParameter):
    """Gives the parameters of a configuration chosen elsewhere, so that later trials learn from it."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The given value."""
        return self._params[param_name]


class Looking(_ByParameter):
    """A sampler that sees another view of the study."""

    def __init__(self, sampler: samplers.BaseSampler, seen: Study) -> None:
        self._sampler, self._seen = sampler, seen

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw with the sampler from its view of the study."""
        return self._sampler.sample_independent(self._seen, trial, param_name, param_distribution)


def draw_all(
    sampler: samplers.BaseSampler, seen: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]
) -> dict[str, Scalar]:
    """All parameters of a flat space at once; those that the sampler leaves open (start, mutation) are random."""
    drawn = sampler.sample_relative(seen, trial, dict(space))
    return {
        name: drawn[name] if name in drawn else sampler.sample_independent(seen, trial, name, one)
        for name, one in space.items()
    }


def join(sampler: samplers.BaseSampler, seen: Study, trial: FrozenTrial) -> None:
    """Add a trial whose configuration was chosen elsewhere to a genetic sampler's current generation."""
    if isinstance(sampler, samplers.NSGAIISampler | samplers.NSGAIIISampler):
        sampler.get_trial_generation(seen, trial)


def check_sampler(name: str) -> None:
    """Refuse a name that is not in `NAMES`."""
    if name not in NAMES:
        raise UnknownNameError("sampler", name, NAMES)


def make_sampler(name: str, seed: int, number: int) -> samplers.BaseSampler:
    """The sampler of one trial.

    Args:
        name: one of `NAMES`; `grid` enumerates the points and `ehvi` chooses configurations itself (`search.ehvi`):
            for them this gives the random sampler.
        seed: the study's. number: the trial's.
    """
    check_sampler(name)
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _SAMPLERS.get(name, _SAMPLERS["random"])(seed, own)
