"""Cheap first: a trial is measured on a growing part of the images and stopped once it is confidently dominated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmark.errors import ReliquantError, StorageError, UndefinedMetric
from benchmark.progress import Progress, Silent
from benchmark.spec import FP32, QuantSpec
from search.front import Floats
from search.objective import EFFECTIVE_BITS, SIZE, Goals, Metrics, Partial, Problem, Rung

LEVEL = 0.05
"""Most of the probability with which a trial that belongs on the front is stopped."""
EXACT = (EFFECTIVE_BITS, SIZE)
"""Keys that do not depend on images: known at once."""


@dataclass(frozen=True)
class Standing:
    """A configuration on one rung: estimates of what it has on all images.

    Attributes:
        values: of the objectives (M,). violations: of the constraints (C,).
        replicates: (G, M + C), both with one group of images left out each.
    """

    values: list[float]
    violations: list[float]
    replicates: list[list[float]]

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Standing:
        """From the attribute of a trial."""
        return cls(kept["values"], kept["violations"], kept["replicates"])


@dataclass(frozen=True)
class Member:
    """A configuration of the front: its values on all images, and where it stands on a rung."""

    name: str
    values: Sequence[float]
    standing: Standing


@dataclass
class Race:
    r"""When a trial is stopped.

    **Estimate.** On a rung with share `s` of the images, a metric `k` of quantization `q` on all images is estimated
    from its difference to full precision `f` on the same images (the difference estimator; Cochran 1977, ch. 7):

    .. math:: \hat q_k = q_k(s) - f_k(s) + f_k(1)

    Objectives (`reliability` with its denominators on all images) and constraints are computed from these. Bits and
    size are known exactly.

    **Confidence.** The images are in G groups by a hash of their ids. With :math:`d^{(g)}` the difference of a value
    between two quantizations without group g (paired: the same images), the delete-a-group jackknife gives

    .. math:: SE^2 = (1 - s) \frac{G-1}{G} \sum_g (d^{(g)} - \bar d)^2

    for any metric, and all tasks at once; `1 - s` because the rest of a finite set of images is what is unknown.

    **Rule.** On each rung the trial is stopped where, for a member of the front (feasible, measured on all images),

    .. math:: d_j + t_{G-1}(1 - \alpha / 2m)\, SE_j < 0

    in every objective j that depends on images (d: loss of the member minus loss of the trial), and no exact objective
    is better in the trial; or where a constraint is missed by more than `t SE`. `m` is the number of such tests that
    can stop a trial: rungs times (members compared with, and constraints). A member that another one is at least as
    good as, wherever it matters, is not compared with.

    So a trial that no member dominates on all images, and that fulfils the constraints there, is stopped with a
    probability of at most alpha (`LEVEL`): each of the m tests is wrong with at most alpha / m, because in one
    objective at least the trial is not worse. The half of it is for Student's t, which is too short on one side where
    differences are skewed (a test simulates it: exponentially distributed differences of 100 images stay below alpha).
    """

    problem: Problem
    goals: Goals
    progress: Progress = field(default_factory=Silent)
    level: float = LEVEL

    @cached_property
    def rungs(self) -> list[tuple[Rung, Partial]]:
        """The rungs that full precision has every needed metric on, with what it has there."""
        found = []
        for rung in self.problem.rungs:
            try:
                reference = rung.evaluate(FP32)
                _check(reference, self.goals.keys)
            except StorageError:
                raise
            except ReliquantError as reason:
                self.progress.message(f"no early stop on {rung.share:.0%} of the images: {reason}")
                continue
            found.append((rung, reference))
        return found

    def standing(self, spec: QuantSpec, index: int) -> Standing | None:
        """Measure a configuration on a rung; None where it cannot be judged there: all images will tell.

        Raises:
            StorageError: results cannot be written.
        """
        rung, reference = self.rungs[index]
        try:
            measured = rung.evaluate(spec)
            rows = [
                self._row(self._estimated(own, full))
                for own, full in zip(
                    (measured.metrics, *measured.replicates), (reference.metrics, *reference.replicates), strict=True
                )
            ]
        except StorageError:
            raise
        except ReliquantError:
            return None
        count = len(self.goals.objectives)
        return Standing(rows[0][:count], rows[0][count:], rows[1:])

    def verdict(self, own: Standing, index: int, members: Sequence[Member]) -> str | None:
        """Why a trial is stopped on a rung; None where it goes on."""
        share = self.rungs[index][0].share
        rivals = self._rivals(own, members)
        tests = max(1, (len(rivals) + len(own.violations)) * len(self.rungs))
        quantile = float(student.ppf(1 - self.level / (2 * tests), len(own.replicates) - 1))
        count, at = len(own.values), f"on {share:.0%} of the images"
        missed = np.array([0.0] * count + own.violations)
        slack = quantile * _error(np.array(own.replicates), share)
        for constraint, violation, error in zip(self.goals.constraints, missed[count:], slack[count:], strict=True):
            if violation - error > 0:
                return f"misses {constraint.text} by {violation:.3g} ± {error:.2g} {at}"
        for member in rivals:
            gap = self._losses(member.standing.values) - self._losses(own.values)
            pairs = np.array(member.standing.replicates)[:, :count] - np.array(own.replicates)[:, :count]
            error = quantile * _error(pairs, share)
            worse = np.where(self._exact, gap <= 0, gap + error < 0)
            if worse.all() and (gap < 0).any():
                told = ", ".join(
                    f"{o.key} {abs(g):.3g} ± {e:.2g} worse"
                    for o, g, e, exact in zip(self.goals.objectives, gap, error, self._exact, strict=True)
                    if not exact
                )
                return f"dominated by {member.name} {at}" + (f": {told}" if told else "")
        return None

    def _rivals(self, own: Standing, members: Sequence[Member]) -> list[Member]:
        """Members that are nowhere worse in what is exact, without those that another one makes superfluous."""
        exact, mine = self._exact, self._losses(own.values)
        able = [m for m in members if (self._losses(m.values)[exact] <= mine[exact]).all()]
        measured = [tuple(self._losses(m.values)[~exact]) for m in able]
        kept = []
        for i, (member, losses) in enumerate(zip(able, measured, strict=True)):
            others = [other for k, other in enumerate(measured) if k != i and (other != losses or k < i)]
            if not any(all(a <= b for a, b in zip(other, losses, strict=True)) for other in others):
                kept.append(member)
        return kept

    @cached_property
    def _exact(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return np.array([objective.key in EXACT for objective in self.goals.objectives])

    def _losses(self, values: Sequence[float]) -> Floats:
        return np.array([o.loss(v) for o, v in zip(self.goals.objectives, values, strict=True)])

    def _estimated(self, own: Metrics, full: Metrics) -> dict[str, float]:
        """Metrics as they would be on all images, from the difference to full precision on the same part."""
        found = {}
        for key in self.goals.keys:
            if key not in own or key not in full:
                raise UndefinedMetric(f"{key} is undefined on this part of the images")
            found[key] = own[key] if key in EXACT else own[key] - full[key] + self.goals.reference[key]
        return found

    def _row(self, estimated: Metrics) -> list[float]:
        metrics = self.goals.complete(estimated)
        return [*self.goals.values(metrics), *self.goals.violations(metrics).values()]


def _check(partial: Partial, keys: Sequence[str]) -> None:
    if len(partial.replicates) < 3:
        raise UndefinedMetric("too few groups of images")
    for metrics in (partial.metrics, *partial.replicates):
        for key in keys:
            if key not in metrics:
                raise UndefinedMetric(f"{key} is undefined there")


def _error(replicates: Floats, share: float) -> Floats:
    """Standard error of each column from leave-one-group-out replicates (G, K), for the rest of a finite set."""
    groups = len(replicates)
    spread = ((replicates - replicates.mean(axis=0)) ** 2).sum(axis=0)
    error: Floats = np.sqrt((1 - share) * (groups - 1) / groups * spread)
    return error
