r"""Expected hypervolume improvement: choose the configuration that is expected to improve the best ones most.

**Model.** Each objective, and each constraint's violation, is a forest of extremely randomised trees (Geurts et al.
2006) over the space's parameters; the spread of its trees is the uncertainty (Hutter et al. 2011). Objectives that are
known before the evaluation (the bits) are not modelled.

**Criterion.** With predictions :math:`N(\mu_j, \sigma_j^2)` of the losses, independent of each other, the volume
between the front and the worst values seen is expected to shrink by

.. math::
    E = \int_{U} \prod_j \Phi\left(\frac{u_j - \mu_j}{\sigma_j}\right) du
        \; \prod_c \Phi\left(\frac{-\mu_c}{\sigma_c}\right)

over the part U of it that no feasible configuration dominates. With one objective this is the expected improvement.
The last product is the probability that all constraints hold. The integral is a mean over a scrambled Sobol sequence.
(Emmerich et al. 2006 for the criterion; Gardner et al. 2014 for constraints.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from optuna.trial import FrozenTrial

from benchmark.quantization import parse
from benchmark.spec import QuantSpec

from .front import Floats, non_dominated
from .history import CONFIGURATION
from .space import Space

START = 8
"""Configurations that must be evaluated before the models are used."""
POOL = 1000
"""Candidates: all points of a space that has no more, otherwise this many, drawn once for the study."""
NEIGHBOURS = 100
"""Further candidates in a larger space: members of the front with one choice changed."""
_POINTS, _TREES = 4096, 50
_CERTAIN = 1e-9
_LEAST = 0.01
"""Least standard deviation of a prediction, in units of the values' own."""

KnownLosses = Callable[[QuantSpec], Sequence[float | None]]


@dataclass
class Ehvi:
    """Chooses configurations for a study.

    Attributes:
        seed: the study's; the same seed and the same finished trials give the same choice.
        known_losses: for each objective the loss of a configuration that is known in advance, None elsewhere.
    """

    space: Space
    seed: int
    known_losses: KnownLosses
    _exact: dict[str, Sequence[float | None]] = field(default_factory=dict)
    _rows: dict[str, Floats] = field(default_factory=dict)

    def choose(
        self, known: Sequence[FrozenTrial], losses: Floats, worst: Floats, taken: Collection[object], number: int
    ) -> QuantSpec | None:
        """The candidate with the largest expected improvement.

        Args:
            known: finished trials. losses: (N, M) of them, lower is better. taken: short names to skip.
            worst: (M,) losses seen, full precision's among them: the corner that volume is measured from.
            number: of the trial, for what is drawn at random.

        Returns:
            None where fewer than `START` trials are known, or every candidate is taken.
        """
        from scipy.special import ndtr

        if len(known) < START:
            return None
        rng = np.random.default_rng([self.seed, number])
        specs, violations = [parse(str(trial.user_attrs[CONFIGURATION])) for trial in known], _violations(known)
        able = (violations <= 0).all(axis=1)
        front = losses[able][non_dominated(losses[able])] if able.any() else losses[:0]
        best = [specs[i] for i in np.flatnonzero(able) if (losses[i] == front).all(axis=1).any()]
        pool = [spec for spec in self._candidates(best, rng) if spec.name not in taken]
        if not pool:
            return None
        rows, wanted = (np.array([self._row(spec) for spec in some]) for some in (specs, pool))
        exact = [(*self._known(spec), *[None] * violations.shape[1]) for spec in pool]
        predicted = [
            _predict_unknown(rows, column, wanted, values, int(rng.integers(2**31)))
            for column, values in zip(
                np.concatenate([losses, violations], axis=1).T, zip(*exact, strict=True), strict=True
            )
        ]
        mean, error = (np.stack(part, axis=1) for part in zip(*predicted, strict=True))
        count = losses.shape[1]
        seed = int(rng.integers(2**31))
        gain = expected_gain(mean[:, :count], error[:, :count], front, worst, seed)
        gain *= ndtr(-mean[:, count:] / error[:, count:]).prod(axis=1)
        return pool[int(rng.choice(np.flatnonzero(gain >= gain.max())))]

    def _known(self, spec: QuantSpec) -> Sequence[float | None]:
        if spec.name not in self._exact:
            self._exact[spec.name] = self.known_losses(spec)
        return self._exact[spec.name]

    @cached_property
    def _pool(self) -> list[QuantSpec]:
        """Candidates, the same for the whole study."""
        if self.space.size(POOL) <= POOL:
            return list(self.space.points())
        rng = np.random.default_rng(self.seed)
        drawn = (self.space.sample(lambda d: d.values[rng.integers(len(d.values))]) for _ in range(POOL))
        return list({spec.name: spec for spec in drawn}.values())

    def _candidates(self, front: Sequence[QuantSpec], rng: np.random.Generator) -> list[QuantSpec]:
        if not front or self.space.size(POOL) <= POOL:
            return self._pool
        near = {spec.name: spec for spec in self._pool}
        for _ in range(NEIGHBOURS):
            params = self.space.encode(front[int(rng.integers(len(front)))]) or {}
            name = str(rng.choice(list(params)))
            values = self.space.parameters[name]
            spec = self.space.decode({**params, name: values[rng.integers(len(values))]})
            near[spec.name] = spec
        return list(near.values())

    def _row(self, spec: QuantSpec) -> Floats:
        """(D,) a configuration's choices: numbers in [0, 1], others one-hot, and 0.5 for a choice that it lacks."""
        if spec.name not in self._rows:
            path, cells = self.space.path(spec) or {}, list[float]()
            for name, values in self.space.parameters.items():
                if all(type(value) in (int, float) for value in values):
                    low, high = (end(float(value) for value in values) for end in (min, max))
                    cells.append((float(path[name]) - low) / (high - low) if name in path else 0.5)
                else:
                    cells += [float(path[name] == value) if name in path else 0.5 for value in values]
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
    """Mean and deviation at `wanted` (C, D) over a forest's trees, fitted to `values` (N,) at `rows` (N, D)."""
    # `sklearn.ensemble` fits the same trees, but spends half of its time on copying their settings
    from sklearn.tree import ExtraTreeRegressor

    rows, wanted = rows.astype(np.float32), wanted.astype(np.float32)  # what trees compute with
    trees = (ExtraTreeRegressor(random_state=seed + i).fit(rows, values, check_input=False) for i in range(_TREES))
    predicted = np.array([tree.predict(wanted, check_input=False) for tree in trees])
    return predicted.mean(axis=0), np.maximum(predicted.std(axis=0), _LEAST * values.std() + 1e-12)


def _violations(trials: Sequence[FrozenTrial]) -> Floats:
    """(N, C) by how much each constraint is missed."""
    names = sorted({name for trial in trials for name in trial.constraints})
    found = [[trial.constraints.get(name, 0.0) for name in names] for trial in trials]
    return np.array(found, np.float64).reshape(len(trials), len(names))
