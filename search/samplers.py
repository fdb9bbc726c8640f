"""Optuna's samplers by name, made anew for each trial from the study's seed and the trial's number.

So a trial depends only on the seed and the trials finished before it: an interrupted and resumed study draws the same
configurations as an uninterrupted one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from benchmark.errors import UnknownNameError

GRID, EHVI = "grid", "ehvi"
DEFAULT = EHVI
"""It finds the cheapest configurations that reach the goal in the fewest trials (docs/results-search.md)."""
_POPULATION = 20
_RANDOM_START = 10

Make = Callable[[int, int], samplers.BaseSampler]
_SAMPLERS: dict[str, Make] = {
    "tpe": lambda _, trial: samplers.TPESampler(seed=trial, n_startup_trials=_RANDOM_START, multivariate=False),
    "gp": lambda _, trial: samplers.GPSampler(
        seed=trial, n_startup_trials=_RANDOM_START, warn_independent_sampling=False
    ),
    "nsga2": lambda _, trial: samplers.NSGAIISampler(seed=trial, population_size=_POPULATION),
    "nsga3": lambda _, trial: samplers.NSGAIIISampler(seed=trial, population_size=_POPULATION),
    "qmc": lambda study, trial: samplers.QMCSampler(
        seed=study,
        scramble=True,
        independent_sampler=samplers.RandomSampler(seed=trial),
        warn_independent_sampling=False,
    ),
    "random": lambda _, trial: samplers.RandomSampler(seed=trial),
}
NAMES = (EHVI, *_SAMPLERS, GRID)


def check_sampler(name: str) -> None:
    """Refuse a name that is not in `NAMES`."""
    if name not in NAMES:
        raise UnknownNameError("sampler", name, NAMES)


class Seeded(samplers.BaseSampler):
    """One of Optuna's samplers, seeded anew for each trial.

    Args:
        name: one of `NAMES`; `grid` queues all points and `ehvi` its choices, so that what they draw is random.
        seed: the study's.
    """

    def __init__(self, name: str, seed: int) -> None:
        check_sampler(name)
        self._name, self._seed = name, seed
        self._number: int | None = None
        self._sampler: samplers.BaseSampler = samplers.RandomSampler()

    def _at(self, trial: FrozenTrial) -> samplers.BaseSampler:
        if trial.number != self._number:
            own = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                self._sampler = _SAMPLERS.get(self._name, _SAMPLERS["random"])(self._seed, own)
            self._number = trial.number
        return self._sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """That of the trial's own sampler."""
        return self._at(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """By the trial's own sampler."""
        return self._at(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """By the trial's own sampler."""
        return self._at(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Also of the trial's own sampler."""
        self._at(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Also of the trial's own sampler."""
        self._at(trial).after_trial(study, trial, state, values)
