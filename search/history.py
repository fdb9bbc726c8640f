"""Read a study: its settled trials, the configurations that it tried, and its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from .front import Floats, non_dominated

CONFIGURATION, METRICS, ERRORS = "configuration", "metrics", "errors"
"""User attributes of a trial: its short name, its metrics, and standard errors of those that have one."""


def is_settled(trial: FrozenTrial) -> bool:
    """Whether a trial's configuration is settled: evaluated, or found impossible."""
    return trial.state is TrialState.COMPLETE or "error" in trial.user_attrs


def evaluated(study: optuna.Study) -> list[str]:
    """Short names of the different configurations that were evaluated or found impossible, in order."""
    return list(dict.fromkeys(t.user_attrs[CONFIGURATION] for t in study.get_trials(deepcopy=False) if is_settled(t)))


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """The evaluated trials, one for each configuration."""
    first: dict[str, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        first.setdefault(trial.user_attrs[CONFIGURATION], trial)
    return list(first.values())


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether all constraints hold."""
    return all(violation <= 0 for violation in trial.constraints.values())


def front(study: optuna.Study) -> list[FrozenTrial]:
    """The feasible, non-dominated trials, one for each configuration, in the order of the last objective."""
    trials = [trial for trial in complete(study) if is_feasible(trial)]
    if not trials:
        return []
    keep = non_dominated(losses(study, trials))
    return sorted((t for t, on in zip(trials, keep, strict=True) if on), key=lambda t: t.values[::-1])


def losses(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Floats:
    """(N, M) values of complete trials, turned so that lower is better."""
    signs = np.array([-1.0 if d is optuna.study.StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
    values: Floats = np.array([trial.values for trial in trials], np.float64).reshape(-1, len(signs)) * signs
    return values
