"""Lease configurations to trials, so that none is evaluated twice; answer repeats from the earlier trial."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmark.spec import QuantSpec

from .history import CONFIGURATION, ERRORS, METRICS


class TrialFailed(Exception):
    """The configuration cannot be evaluated, or another process is evaluating it; the study goes on."""


def lease(study: optuna.Study, trial: optuna.Trial, spec: QuantSpec) -> FrozenTrial | None:
    """Lease a configuration to a trial, so that no other process evaluates it.

    The caller holds the study's lock: one process of a machine at a time does this.

    Returns:
        an earlier trial that has evaluated the configuration; None where there is none.

    Raises:
        TrialFailed: another process is evaluating the configuration, or it cannot be evaluated.
    """
    for other in study.get_trials(deepcopy=False):
        if other.number == trial.number or other.user_attrs.get(CONFIGURATION) != spec.name:
            continue
        if other.state is TrialState.COMPLETE:
            trial.set_user_attr(CONFIGURATION, spec.name)
            return other
        if "error" in other.user_attrs:
            trial.set_user_attr("repeat_of", other.number)
            raise TrialFailed(other.user_attrs["error"])
        if other.state is TrialState.RUNNING and "repeat_of" not in other.user_attrs:
            trial.set_user_attr("repeat_of", other.number)
            raise TrialFailed(f"being evaluated as trial {other.number}")
    trial.set_user_attr(CONFIGURATION, spec.name)
    return None


def repeat(trial: optuna.Trial, earlier: FrozenTrial) -> Sequence[float]:
    """Copy the result of an earlier trial of the same configuration; returns its values."""
    trial.set_user_attr("repeat_of", earlier.user_attrs.get("repeat_of", earlier.number))
    for name in (METRICS, ERRORS):
        if name in earlier.user_attrs:
            trial.set_user_attr(name, earlier.user_attrs[name])
    for text, violation in earlier.constraints.items():
        trial.set_constraint(text, violation)
    return list(earlier.values)
