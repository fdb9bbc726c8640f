"""Choose the configuration of a trial: the queued one, the sampler's choice, or after many repeats an unseen one."""

from __future__ import annotations

import copy
from collections.abc import Container
from functools import cached_property
from typing import cast

import numpy as np
import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from benchmark.quantization import parse
from benchmark.spec import QuantSpec
from benchmark.spec.scalars import Scalar

from .ehvi import Ehvi, KnownObjectives
from .flat import Flat, distribution
from .history import CONFIGURATION, ESTIMATE, losses
from .samplers import EHVI, FLAT, Fixed, Looking, draw_all, join, make_sampler
from .space import Dimension, Space

PATIENCE = 10
"""Repeats in a row after which a trial is drawn from the points that are not evaluated yet."""
IMPATIENT = ("gp",)
"""Samplers that draw the same point again until a new trial finishes: one repeat is enough."""
_DRAWS = 1000


class Seen(optuna.Study):
    """A study as its sampler sees it: finished trials that are points of the space, pruned ones with their estimates.

    Full precision and other configurations outside the space are hidden: they have no parameters to learn from. A
    pruned trial is shown as complete, with the values estimated from the images that it was measured on: it is known
    to be dominated, and Optuna's samplers would ignore it otherwise.

    Args:
        flat: if given, trials are shown with the parameters of the flat space.
    """

    def __init__(self, study: optuna.Study, space: Space, flat: Flat | None) -> None:
        super().__init__(study.study_name, study._storage, study.sampler)
        self._space, self._flat = space, flat
        self._shown: dict[int, FrozenTrial | None] = {}

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        shown = [self._show(trial) for trial in super()._get_trials(deepcopy=False)]
        found = [trial for trial in shown if trial is not None and (states is None or trial.state in states)]
        return copy.deepcopy(found) if deepcopy else found

    def _show(self, trial: FrozenTrial) -> FrozenTrial | None:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            return trial
        if trial.number not in self._shown:
            self._shown[trial.number] = self._translated(trial)
        return self._shown[trial.number]

    def _translated(self, trial: FrozenTrial) -> FrozenTrial | None:
        spec = parse(trial.user_attrs[CONFIGURATION])
        params = self._space.labelled(spec) if self._flat is None else self._flat.encode(spec)
        if params is None:
            return None
        shown = copy.copy(trial)
        if self._flat is not None:
            shown.params, shown.distributions = params, self._flat.distributions
        if trial.state is TrialState.PRUNED:
            shown.state, shown.values = TrialState.COMPLETE, trial.user_attrs[ESTIMATE]
        return shown


class Draw:
    """Chooses the configuration of each trial of a study."""

    def __init__(
        self, study: optuna.Study, space: Space, sampler: str, seed: int, known_objectives: KnownObjectives
    ) -> None:
        self.study, self.space, self.sampler, self.seed = study, space, sampler, seed
        self._known_objectives = known_objectives
        self._paired: set[int] = set()

    @cached_property
    def _flat(self) -> Flat | None:
        return Flat(self.space) if self.sampler in FLAT else None

    @cached_property
    def _ehvi(self) -> Ehvi:
        return Ehvi(self.space, self.seed, self._known_objectives)

    @cached_property
    def _seen(self) -> Seen:
        return Seen(self.study, self.space, self._flat)

    def configuration(self, trial: optuna.Trial, repeats: int) -> QuantSpec:
        """The configuration of a trial; the study records its parameters.

        Args:
            repeats: how many trials in a row repeated a known configuration.
        """
        sampler = make_sampler(self.sampler, self.seed, trial.number)
        frozen = self.study.get_trials(deepcopy=False)[trial.number]
        name = trial.user_attrs.get(CONFIGURATION)
        patience = 1 if self.sampler in IMPATIENT else PATIENCE
        spec = parse(name) if name is not None else self._unseen(trial.number) if repeats >= patience else None
        if spec is None and self.sampler == EHVI:
            spec = self._sibling(trial) or self._promising(trial.number) or self._unseen(trial.number)
        if spec is not None:
            join(sampler, self._seen, frozen)
        elif self._flat is not None:
            spec = self._flat.decode(draw_all(sampler, self._seen, frozen, self._flat.distributions))
        else:
            self.study.sampler = Looking(sampler, self._seen)
            return self.space.sample(lambda dimension: suggest(trial, dimension))
        labels = self.space.labelled(spec)
        if labels is not None:
            self.study.sampler = Fixed(labels)
            self.space.sample(lambda dimension: suggest(trial, dimension))
        return spec

    def _sibling(self, trial: optuna.Trial) -> QuantSpec | None:
        """A configuration that treats the image tower as a finished trial does, so that no image is embedded again.

        Pruned trials and baselines get no sibling: it would not be worth evaluating. None where there is none.
        """
        trials = self.study.get_trials(deepcopy=False)
        tried = {t.user_attrs.get(CONFIGURATION) for t in trials}
        for earlier in reversed(trials):
            if earlier.number in self._paired or earlier.state is not TrialState.COMPLETE:
                continue
            self._paired.add(earlier.number)
            baseline = earlier.user_attrs.get("baseline")
            spec = None if baseline else self.space.same_images(parse(earlier.user_attrs[CONFIGURATION]))
            if spec is not None and spec.name not in tried:
                trial.set_user_attr("sibling_of", earlier.number)
                return spec
        return None

    def _promising(self, number: int) -> QuantSpec | None:
        """The configuration with the largest expected improvement; None while too few trials are finished."""
        every = (t.user_attrs.get(CONFIGURATION) for t in self.study.get_trials(deepcopy=False))
        taken = {str(name) for name in every if name is not None}
        known = self._seen.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        found, full = losses(self.study, known), self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        worst = losses(self.study, full).max(axis=0, initial=-np.inf)
        return self._ehvi.choose(known, found, worst, taken, number)

    def _unseen(self, number: int) -> QuantSpec | None:
        """A random point that no trial has; None where many draws find none."""
        seen = {trial.user_attrs.get(CONFIGURATION) for trial in self.study.get_trials(deepcopy=False)}
        rng = np.random.default_rng([self.seed, number])
        for _ in range(_DRAWS):
            spec = self.space.sample(lambda dimension: dimension.values[rng.integers(len(dimension.values))])
            if spec.name not in seen:
                return spec
        return None


def suggest(trial: optuna.Trial, dimension: Dimension) -> Scalar:
    """Ask the sampler for the value of one choice."""
    kind = distribution(dimension.values)
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(dimension.label, kind.low, kind.high)
    return cast(Scalar, trial.suggest_categorical(dimension.label, dimension.values))
