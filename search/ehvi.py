r"""Expected hypervolume improvement: choose the configuration that is expected to improve the front most.

**Model.** Each objective, and each constraint's violation, is a forest of extremely randomised trees (Geurts et al.
2006) over the choices; the spread of its trees is the uncertainty (Hutter et al. 2011). Trees handle conditional
choices and jumps in the values (at 2 bits) without further care. Numbers are scaled to [0, 1], other choices are
one-hot, and a choice that a configuration does not have is encoded as 0.5. The forests are fitted to all finished
trials, pruned ones with their estimates. Objectives that are known before the evaluation (the bits) are not modelled.

**Criterion.** With predictions :math:`N(\mu_j, \sigma_j^2)` of the losses, independent of each other, the volume
between the front and the worst values seen is expected to shrink by

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

from .flat import Flat
from .front import Floats, non_dominated
from .history import CONFIGURATION
from .space import Space

START = 8
"""Configurations of the space that must be evaluated before the models are used."""
POOL = 1000
"""Candidates: all points of a space that has no more, otherwise this many, drawn once for the study."""
NEIGHBOURS = 100
"""Further candidates in a larger space: members of the front with one choice changed."""
_POINTS = 4096
_TREES = 50
_CERTAIN = 1e-9
_LEAST = 0.01
"""Least standard deviation of a prediction, in units of the values' own."""


KnownObjectives = Callable[[QuantSpec], Sequence[float | None]]


@dataclass
class Ehvi:
    """Chooses configurations for a study.

    Attributes:
        seed: the study's; the same seed and the same finished trials give the same choice.
        known_objectives: for each objective the loss of a configuration that is known in advance, None elsewhere.
    """

    space: Space
    seed: int
    known_objectives: KnownObjectives
    _known: dict[str, Sequence[float | None]] = field(default_factory=dict)
    _rows: dict[str, Floats] = field(default_factory=dict)

    def choose(
        self, known: Sequence[FrozenTrial], losses: Floats, worst: Floats, taken: Collection[str], number: int
    ) -> QuantSpec | None:
        """The candidate with the largest expected improvement.

        Args:
            known: finished trials of points of the space. losses: (N, M) of them, lower is better.
            worst: (M,) losses seen, full precision's among them: the corner that volume is measured from.
            taken: short names to skip: finished or being evaluated.
            number: of the trial, for what is drawn at random.

        Returns:
            None where fewer than `START` trials are known, or every candidate is taken.
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
        exact = [(*self._exact(spec), *[None] * violations.shape[1]) for spec in pool.values()]
        predicted = [
            _predict_unknown(rows, column, wanted, values, int(rng.integers(2**31)))
            for column, values in zip(columns.T, zip(*exact, strict=True), strict=True)
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

    def _exact(self, spec: QuantSpec) -> Sequence[float | None]:
        if spec.name not in self._known:
            self._known[spec.name] = self.known_objectives(spec)
        return self._known[spec.name]

    @cached_property
    def _pool(self) -> tuple[dict[str, QuantSpec], bool]:
        """Candidates, the same for the whole study, and whether they are the whole space."""
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
            chosen = {step.name: value for step, value in self.space.path(spec) or ()}
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


def _predict_unknown(
    rows: Floats, values: Floats, wanted: Floats, exact: Sequence[float | None], seed: int
) -> tuple[Floats, Floats]:
    """Mean and standard deviation at `wanted`, (C,) each: values in `exact` as given, the others from a forest."""
    unknown = np.array([value is None for value in exact])
    mean, error = np.array([0.0 if value is None else value for value in exact]), np.full(len(exact), _CERTAIN)
    if unknown.any():
        mean[unknown], error[unknown] = _predict(rows, values, wanted[unknown], seed)
    return mean, error


def _predict(rows: Floats, values: Floats, wanted: Floats, seed: int) -> tuple[Floats, Floats]:
    """Mean and standard deviation at `wanted` (C, D) over a forest's trees, fitted to `values` (N,) at `rows` (N, D).

    At a row that was fitted, all trees give its value.
    """
    # `sklearn.ensemble` fits the same trees, but spends half of its time on copying their settings
    from sklearn.tree import ExtraTreeRegressor

    rows, wanted = rows.astype(np.float32), wanted.astype(np.float32)  # what trees compute with
    trees = (ExtraTreeRegressor(random_state=seed + i).fit(rows, values, check_input=False) for i in range(_TREES))
    predicted = np.array([tree.predict(wanted, check_input=False) for tree in trees])
    return predicted.mean(axis=0), np.maximum(predicted.std(axis=0), _LEAST * values.std() + 1e-12)


def _violations(trials: Sequence[FrozenTrial]) -> Floats:
    """(N, C) by how much each constraint is missed."""
    names = sorted({name for trial in trials for name in trial.constraints})
    return np.array([[trial.constraints.get(name, 0.0) for name in names] for trial in trials]).reshape(
        len(trials), len(names)
    )
