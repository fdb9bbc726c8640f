"""Which configurations of a study are taken: none is evaluated twice, what was evaluated before is answered from it."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmark.spec import QuantSpec
from search.history import CONFIGURATION, ESTIMATE, STOPPED


class TrialFailed(Exception):
    """A configuration that cannot be evaluated, or that another process is evaluating: the study goes on."""


def claim(study: optuna.Study, trial: optuna.Trial, spec: QuantSpec) -> FrozenTrial | None:
    """Sign a configuration, so that no other process evaluates it; a trial that has evaluated it already.

    One process of a machine at a time does this.

    Raises:
        TrialFailed: another process is evaluating it, or it cannot be evaluated.
    """
    for other in study.get_trials(deepcopy=False):
        if other.number == trial.number or other.user_attrs.get(CONFIGURATION) != spec.name:
            continue
        if other.state in (TrialState.COMPLETE, TrialState.PRUNED):
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
    """The values of an earlier trial of the same configuration.

    Raises:
        TrialPruned: that one was stopped.
    """
    trial.set_user_attr("repeat_of", earlier.user_attrs.get("repeat_of", earlier.number))
    for name in ("metrics", ESTIMATE, STOPPED):
        if name in earlier.user_attrs:
            trial.set_user_attr(name, earlier.user_attrs[name])
    for text, violation in earlier.constraints.items():
        trial.set_constraint(text, violation)
    if earlier.state is TrialState.PRUNED:
        raise optuna.TrialPruned(earlier.user_attrs[STOPPED])
    return list(earlier.values)
