r"""Expected hypervolume improvement: of many configurations the one that promises to add most to the front.

**Model.** Each objective, and each constraint's violation, is a forest of extremely randomised trees (Geurts et al.
2006) over the choices; what its trees disagree about is uncertain (Hutter et al. 2011). Trees take choices that others
depend on, and values that leap (2 bits), as they are. Numbers are scaled to [0, 1], other choices are one-hot, a choice
that a configuration does not have is in the middle. Grown on all finished trials, stopped ones with their estimates.
What is known before a configuration is evaluated (its bits) is not modelled.

**Foretell.** With predictions :math:`N(\mu_j, \sigma_j^2)` of the losses, independent of each other, the volume between
the front and the worst values seen is expected to shrink by

.. math::
    E = \int_{U} \prod_j \Phi\left(\frac{u_j - \mu_j}{\sigma_j}\right) du
        \; \prod_c \Phi\left(\frac{-\mu_c}{\sigma_c}\right)

over the part U of it that no member of the front dominates: a configuration gains every point u that it dominates, and
the expectation of a volume is the integral of the probabilities. The last product is the probability that all
constraints hold. The integral is a mean over a scrambled Sobol sequence. (Emmerich et al. 2006 for the criterion;
Gardner et al. 2014 for constraints.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from optuna.trial import FrozenTrial

from benchmark.quantization import parse
from benchmark.spec import QuantSpec
from benchmark.spec.scalars import Scalar
from search.flat import Flat
from search.front import Floats, non_dominated
from search.history import CONFIGURATION
from search.space import Space

START = 8
"""Configurations of the space that must be known before the models say anything."""
POOL = 1000
"""Candidates: every point of a space that has no more, otherwise so many drawn once for the study."""
NEIGHBOURS = 100
"""Further candidates of a larger space: members of the front with one choice changed."""
_POINTS = 4096
_TREES = 50
_CERTAIN = 1e-9
_LEAST = 0.01
"""Least standard deviation of a prediction, in units of the values' own."""


Foretell = Callable[[QuantSpec], Sequence[float | None]]


@dataclass
class Ehvi:
    """Chooses configurations for a study.

    Attributes:
        seed: of the study: the same seed and the same finished trials give the same choice.
        foretell: the losses of a configuration that are known for certain, None for the others.
    """

    space: Space
    seed: int
    foretell: Foretell
    _foretold: dict[str, Sequence[float | None]] = field(default_factory=dict)
    _rows: dict[str, Floats] = field(default_factory=dict)

    def choose(
        self, known: Sequence[FrozenTrial], losses: Floats, worst: Floats, taken: Collection[str], number: int
    ) -> QuantSpec | None:
        """The most promising configuration.

        Args:
            known: finished trials of points of the space. losses: (N, M) of them, lower is better.
            worst: (M,) losses seen, full precision's among them: the corner that volume is measured from.
            taken: short names that are not to be chosen: finished or being evaluated.
            number: of the trial, for what is drawn at random.

        Returns:
            None where it is left to chance: too little is known, or every candidate is taken.
        """
        names = [str(trial.user_attrs[CONFIGURATION]) for trial in known]
        if len(known) < START:
            return None
        rng = np.random.default_rng([self.seed, number])
        violations = _violations(known)
        able = (violations <= 0).all(axis=1)
        front = losses[able][non_dominated(losses[able])] if able.any() else losses[:0]
        best = [names[i] for i in np.flatnonzero(able) if (losses[i] == front).all(axis=1).any()]
        pool = {name: spec for name, spec in self._candidates(best, rng).items() if name not in taken}
        if not pool:
            return None
        rows, wanted = self._encoded(map(parse, names)), self._encoded(pool.values())
        columns = np.concatenate([losses, violations], axis=1)
        told = [(*self._told(spec), *[None] * violations.shape[1]) for spec in pool.values()]
        predicted = [
            _foresee(rows, column, wanted, known, int(rng.integers(2**31)))
            for column, known in zip(columns.T, zip(*told, strict=True), strict=True)
        ]
        mean, error = (np.stack(part, axis=1) for part in zip(*predicted, strict=True))
        promise = expected_gain(
            mean[:, : losses.shape[1]], error[:, : losses.shape[1]], front, worst, int(rng.integers(2**31))
        )
        if violations.shape[1]:
            from scipy.stats import norm

            promise *= norm.cdf(-mean[:, losses.shape[1] :] / error[:, losses.shape[1] :]).prod(axis=1)
        ties = np.flatnonzero(promise >= promise.max())
        return list(pool.values())[int(rng.choice(ties))]

    def _told(self, spec: QuantSpec) -> Sequence[float | None]:
        if spec.name not in self._foretold:
            self._foretold[spec.name] = self.foretell(spec)
        return self._foretold[spec.name]

    @cached_property
    def _pool(self) -> tuple[dict[str, QuantSpec], bool]:
        """Candidates that hold for the whole study, and whether they are the whole space."""
        if self.space.size(POOL) <= POOL:
            return {spec.name: spec for spec in self.space.points()}, True
        rng = np.random.default_rng(self.seed)
        drawn = (self.space.sample(lambda d: d.values[rng.integers(len(d.values))]) for _ in range(POOL))
        return {spec.name: spec for spec in drawn}, False

    @cached_property
    def _flat(self) -> Flat:
        return Flat(self.space)

    def _candidates(self, front: Sequence[str], rng: np.random.Generator) -> Mapping[str, QuantSpec]:
        pool, whole = self._pool
        if whole or not front:
            return pool
        near = dict(pool)
        for _ in range(NEIGHBOURS):
            params = self._flat.encode(parse(str(rng.choice(front)))) or {}
            name = str(rng.choice(list(params)))
            values = self._declared[name]
            spec = self._flat.decode({**params, name: values[rng.integers(len(values))]})
            near[spec.name] = spec
        return near

    @cached_property
    def _declared(self) -> dict[str, tuple[Scalar, ...]]:
        return self.space.declared()

    def _encoded(self, specs: Iterable[QuantSpec]) -> Floats:
        """(N, D) choices as numbers."""
        return np.array([self._row(spec) for spec in specs])

    def _row(self, spec: QuantSpec) -> Floats:
        if spec.name not in self._rows:
            chosen = {step.name: value for step, value in self.space.way(spec) or ()}
            cells: list[float] = []
            for name, values in self._declared.items():
                if len(values) == 1:
                    continue
                if all(type(v) in (int, float) for v in values):
                    low, high = min(map(float, values)), max(map(float, values))
                    cells.append((float(chosen[name]) - low) / (high - low) if name in chosen else 0.5)
                else:
                    cells += [float(chosen[name] == v) if name in chosen else 0.5 for v in values]
            self._rows[spec.name] = np.array(cells)
        return self._rows[spec.name]


def expected_gain(mean: Floats, error: Floats, front: Floats, worst: Floats, seed: int) -> Floats:
    r"""Expected hypervolume improvement of candidates, :math:`E` of this module without constraints.

    Args:
        mean, error: (C, M) predicted losses and their standard deviations. front: (F, M) losses of the front.
        worst: (M,) reference point. seed: of the Sobol sequence.

    Returns:
        (C,) volumes, 0 or more.
    """
    from scipy.special import ndtr
    from scipy.stats import qmc

    lowest = np.minimum((mean - 2 * error).min(axis=0), front.min(axis=0) if len(front) else worst)
    side = np.maximum(worst - lowest, 1e-12)
    points = lowest + side * qmc.Sobol(len(worst), rng=seed).random(_POINTS)
    free = ~(front[:, None, :] <= points[None, :, :]).all(axis=2).any(axis=0)
    chance: Floats = np.ones((len(mean), int(free.sum())))
    for j, column in enumerate(points[free].T):
        chance *= ndtr((column[None, :] - mean[:, j, None]) / error[:, j, None])
    gain: Floats = chance.sum(axis=1) * (side.prod() / _POINTS)
    return gain


def _foresee(
    rows: Floats, values: Floats, wanted: Floats, told: Sequence[float | None], seed: int
) -> tuple[Floats, Floats]:
    """Mean and standard deviation at `wanted`, (C,) each; what is told is certain, for the rest a forest is grown."""
    unknown = np.array([value is None for value in told])
    mean, error = np.array([0.0 if value is None else value for value in told]), np.full(len(told), _CERTAIN)
    if unknown.any():
        mean[unknown], error[unknown] = _predict(rows, values, wanted[unknown], seed)
    return mean, error


def _predict(rows: Floats, values: Floats, wanted: Floats, seed: int) -> tuple[Floats, Floats]:
    """Mean and standard deviation over a forest's trees, grown on `values` (N,) at `rows` (N, D), at `wanted` (C, D).

    Where a configuration is known the trees agree with it and with each other.
    """
    # `sklearn.ensemble` grows the same trees, but takes half of its time to copy their settings
    from sklearn.tree import ExtraTreeRegressor

    rows, wanted = rows.astype(np.float32), wanted.astype(np.float32)  # what trees compute with
    trees = (ExtraTreeRegressor(random_state=seed + i).fit(rows, values, check_input=False) for i in range(_TREES))
    told = np.array([tree.predict(wanted, check_input=False) for tree in trees])
    return told.mean(axis=0), np.maximum(told.std(axis=0), _LEAST * values.std() + 1e-12)


def _violations(trials: Sequence[FrozenTrial]) -> Floats:
    """(N, C) by how much each constraint is missed."""
    names = sorted({name for trial in trials for name in trial.constraints})
    return np.array([[trial.constraints.get(name, 0.0) for name in names] for trial in trials]).reshape(
        len(trials), len(names)
    )
