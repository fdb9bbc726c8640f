"""Read a study: its settled and pruned trials, the configurations that it tried, and its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from .front import Floats, non_dominated

CONFIGURATION, ESTIMATE, PRUNED = "configuration", "estimate", "pruned"
"""User attributes of a trial: its short name; for a pruned trial its estimated values and the reason."""


def is_settled(trial: FrozenTrial) -> bool:
    """Whether a trial's configuration is settled: evaluated, pruned, or found impossible."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or "error" in trial.user_attrs


def evaluated(study: optuna.Study) -> list[str]:
    """Short names of the different configurations that were evaluated, pruned, or found impossible, in order."""
    return list(dict.fromkeys(t.user_attrs["configuration"] for t in study.get_trials(deepcopy=False) if is_settled(t)))


def pruned(study: optuna.Study) -> list[FrozenTrial]:
    """The pruned trials, one for each configuration."""
    first: dict[str, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)):
        first.setdefault(trial.user_attrs[CONFIGURATION], trial)
    return list(first.values())


def front(study: optuna.Study) -> list[FrozenTrial]:
    """The feasible, non-dominated trials, one for each configuration, in the order of the last objective."""
    first: dict[str, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if all(violation <= 0 for violation in trial.constraints.values()):
            first.setdefault(trial.user_attrs["configuration"], trial)
    trials = list(first.values())
    if not trials:
        return []
    keep = non_dominated(losses(study, trials))
    return sorted((t for t, on in zip(trials, keep, strict=True) if on), key=lambda t: t.values[::-1])


def losses(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Floats:
    """(N, M) values of complete trials, turned so that lower is better."""
    signs = np.array([-1.0 if d is optuna.study.StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
    values: Floats = np.array([trial.values for trial in trials], np.float64).reshape(-1, len(signs)) * signs
    return values
