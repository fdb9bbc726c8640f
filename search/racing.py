"""Racing: measure a trial on growing shares of the images and prune it once it is confidently dominated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmark.errors import ReliquantError, StorageError, UndefinedMetric
from benchmark.spec import FP32, QuantSpec
from benchmark.utils.progress import Progress, Silent

from .front import Floats
from .objective import EFFECTIVE_BITS, SIZE, Goals, Metrics, Problem, Rung

LEVEL = 0.05
"""Upper bound on the probability that a trial that belongs on the front is pruned."""
EXACT = (EFFECTIVE_BITS, SIZE)
"""Keys that do not depend on images: their values are exact on every rung."""


@dataclass(frozen=True)
class Standing:
    """Estimates from one rung of a configuration's values on all images.

    Attributes:
        values: (M,) of the objectives. violations: (C,) of the constraints.
    """

    values: list[float]
    violations: list[float]


@dataclass(frozen=True)
class Member:
    """A configuration of the front and its values on all images."""

    spec: QuantSpec
    values: Sequence[float]


Rival = tuple[Member, Standing]


@dataclass(frozen=True)
class Reference:
    """Full precision on a rung: its metrics, and the same without each group of images."""

    rung: Rung
    metrics: Metrics
    replicates: Sequence[Metrics]


@dataclass
class Race:
    r"""The rule by which trials are pruned.

    **Estimate.** On a rung with share `s` of the images, a metric `k` of quantization `q` on all images is estimated
    from its difference from full precision `f` on the same images (the difference estimator; Cochran 1977, ch. 7):

    .. math:: \hat q_k = q_k(s) - f_k(s) + f_k(1)

    Objectives (`mean_relative_change` with its denominators from all images) and constraints are computed from these.
    Bits and size are exact.

    **Confidence.** A hash of the ids divides the images into G groups. With :math:`d^{(g)}` the difference of a value
    between two quantizations without group g (paired: the same images), the delete-a-group jackknife gives

    .. math:: SE^2 = (1 - s) \frac{G-1}{G} \sum_g (d^{(g)} - \bar d)^2

    for any metric, and all tasks at once; `1 - s` because only the rest of a finite set of images is unknown.

    **Rule.** On each rung the trial is pruned if, for a member of the front (feasible, measured on all images),

    .. math:: d_j + t_{G-1}(1 - \alpha / 2m)\, SE_j < 0

    in every objective j that depends on images (d: loss of the member minus loss of the trial), and the trial is
    not better in any exact objective; or if a constraint is violated by more than `t SE`. `m` is the number of tests
    that can prune a trial: rungs times (compared members plus constraints). Members that another member equals or
    beats in every objective that depends on images are not compared with.

    So a trial that no member dominates on all images, and that satisfies the constraints there, is pruned with a
    probability of at most alpha (`LEVEL`): each of the m tests errs with at most alpha / m, because the trial is not
    worse in at least one objective. The factor 2 allows for Student's t, which is too narrow on one side where
    differences are skewed (a test simulates it: exponentially distributed differences of 100 images stay below alpha).
    """

    problem: Problem
    goals: Goals
    progress: Progress = field(default_factory=Silent)
    level: float = LEVEL

    _standings: dict[tuple[str, int], Standing | None] = field(default_factory=dict)
    _replicates: dict[tuple[str, int], Floats | None] = field(default_factory=dict)

    @cached_property
    def rungs(self) -> list[Reference]:
        """The rungs on which full precision has every needed metric, with those metrics."""
        found = []
        for rung in self.problem.rungs:
            try:
                reference = Reference(rung, rung.evaluate(FP32), rung.replicates(FP32))
                _check(reference, self.goals.keys)
            except StorageError:
                raise
            except ReliquantError as reason:
                self.progress.message(f"no trial is pruned on {rung.share:.0%} of the images: {reason}")
                continue
            found.append(reference)
        return found

    def standing(self, spec: QuantSpec, index: int) -> Standing | None:
        """Measure a configuration on a rung, once; None where it has no values there and needs all images.

        Raises:
            StorageError: results cannot be written.
        """
        if (spec.name, index) not in self._standings:
            on, count = self.rungs[index], len(self.goals.objectives)
            rows = self._rows(lambda: [on.rung.evaluate(spec)], [on.metrics])
            self._standings[spec.name, index] = None if rows is None else Standing(rows[0][:count], rows[0][count:])
        return self._standings[spec.name, index]

    def replicates(self, spec: QuantSpec, index: int) -> Floats | None:
        """(G, M + C) values and violations without each group of images, estimated like `standing`."""
        if (spec.name, index) not in self._replicates:
            on = self.rungs[index]
            rows = self._rows(lambda: on.rung.replicates(spec), on.replicates)
            self._replicates[spec.name, index] = None if rows is None else np.array(rows)
        return self._replicates[spec.name, index]

    def verdict(self, spec: QuantSpec, index: int, members: Sequence[Member]) -> str | None:
        """Why a trial is pruned on a rung; None where it goes on. Computes errors only where they decide."""
        own = self.standing(spec, index)
        if own is None:
            return None
        rivals = self._rivals(own, index, members)
        tests = max(1, (len(rivals) + len(own.violations)) * len(self.rungs))
        return self._violated(spec, own, index, tests) or self._dominated(spec, own, index, rivals, tests)

    def _violated(self, spec: QuantSpec, own: Standing, index: int, tests: int) -> str | None:
        if not any(violation > 0 for violation in own.violations):
            return None
        replicates = self.replicates(spec, index)
        if replicates is None:
            return None
        errors = self._slack(replicates, index, tests)[len(own.values) :]
        for constraint, violation, error in zip(self.goals.constraints, own.violations, errors, strict=True):
            if violation - error > 0:
                return f"violates {constraint.text} by {violation:.3g} ± {error:.2g} {self._where(index)}"
        return None

    def _dominated(self, spec: QuantSpec, own: Standing, index: int, rivals: Sequence[Rival], tests: int) -> str | None:
        for member, standing in rivals:
            gap = self._losses(standing.values) - self._losses(own.values)
            if not (np.where(self._exact, gap <= 0, gap < 0).all() and (gap < 0).any()):
                continue
            mine, theirs = self.replicates(spec, index), self.replicates(member.spec, index)
            if mine is None or theirs is None:
                continue
            error = self._slack(theirs - mine, index, tests)[: len(gap)]
            if np.where(self._exact, True, gap + error < 0).all():
                worse = ", ".join(
                    f"{o.key} {abs(g):.3g} ± {e:.2g} worse"
                    for o, g, e, exact in zip(self.goals.objectives, gap, error, self._exact, strict=True)
                    if not exact
                )
                return f"dominated by {member.spec.name} {self._where(index)}" + (f": {worse}" if worse else "")
        return None

    def _slack(self, replicates: Floats, index: int, tests: int) -> Floats:
        """`t SE` of each column."""
        quantile = float(student.ppf(1 - self.level / (2 * tests), len(replicates) - 1))
        return quantile * _error(replicates, self.rungs[index].rung.share)

    def _where(self, index: int) -> str:
        return f"on {self.rungs[index].rung.share:.0%} of the images"

    def _rivals(self, own: Standing, index: int, members: Sequence[Member]) -> list[Rival]:
        """The members to compare with: not worse in any exact objective, and not beaten by another such member."""
        exact, mine = self._exact, self._losses(own.values)
        able = [m for m in members if (self._losses(m.values)[exact] <= mine[exact]).all()]
        standing = [(m, found) for m in able if (found := self.standing(m.spec, index)) is not None]
        measured = [tuple(self._losses(m.values)[~exact]) for m, _ in standing]
        kept = []
        for i, (rival, losses) in enumerate(zip(standing, measured, strict=True)):
            others = [other for k, other in enumerate(measured) if k != i and (other != losses or k < i)]
            if not any(all(a <= b for a, b in zip(other, losses, strict=True)) for other in others):
                kept.append(rival)
        return kept

    def _rows(self, measure: Callable[[], Sequence[Metrics]], full: Sequence[Metrics]) -> list[list[float]] | None:
        """Values and violations of each of the measured metrics; None where one of them is undefined."""
        try:
            return [self._row(self._estimated(own, one)) for own, one in zip(measure(), full, strict=True)]
        except StorageError:
            raise
        except ReliquantError:
            return None

    @cached_property
    def _exact(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return np.array([objective.key in EXACT for objective in self.goals.objectives])

    def _losses(self, values: Sequence[float]) -> Floats:
        return np.array([o.loss(v) for o, v in zip(self.goals.objectives, values, strict=True)])

    def _estimated(self, own: Metrics, full: Metrics) -> dict[str, float]:
        """Metrics on all images, estimated from the difference from full precision on the same part."""
        found = {}
        for key in self.goals.keys:
            if key not in own or key not in full:
                raise UndefinedMetric(f"{key} is undefined on this part of the images")
            found[key] = own[key] if key in EXACT else own[key] - full[key] + self.goals.reference[key]
        return found

    def _row(self, estimated: Metrics) -> list[float]:
        metrics = self.goals.complete(estimated)
        return [*self.goals.values(metrics), *self.goals.violations(metrics).values()]


def _check(reference: Reference, keys: Sequence[str]) -> None:
    if len(reference.replicates) < 3:
        raise UndefinedMetric("too few groups of images")
    for metrics in (reference.metrics, *reference.replicates):
        for key in keys:
            if key not in metrics:
                raise UndefinedMetric(f"{key} is undefined on this part of the images")


def _error(replicates: Floats, share: float) -> Floats:
    """Standard error of each column from leave-one-group-out replicates (G, K), for the rest of a finite set."""
    groups = len(replicates)
    spread = ((replicates - replicates.mean(axis=0)) ** 2).sum(axis=0)
    error: Floats = np.sqrt((1 - share) * (groups - 1) / groups * spread)
    return error
