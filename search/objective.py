"""Objectives and constraints of a search, and the metrics that it adds: reliability, bits, size, latency.

With a **goal** the one objective is a cost, and each headline metric is a constraint: probably within its margin of
full precision (`search.standing.shortfall`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.errors import SpecError, UnknownNameError
from benchmark.plugins import Better
from benchmark.results.decide import judging, margin_of
from benchmark.results.reliability import defined, mean_relative_change, point_weights, relative_keys
from benchmark.spec import FP32, QuantSpec

from .standing import Standing, shortfall

RELIABILITY = "reliability"
RELATIVE = "mean_relative_change"
EFFECTIVE_BITS = "effective_bits"
SIZE = "size_mb"
LATENCY = "latency_ratio"
COSTS = (EFFECTIVE_BITS, SIZE, LATENCY)
"""What a goal can minimise: no image decides it."""
OWN: Mapping[str, Better] = {RELIABILITY: "higher", RELATIVE: "higher", **dict.fromkeys(COSTS, "lower")}
"""Objectives that the search computes itself, with their better direction."""

POINTS = "points"
"""How `reliability` is defined; part of a study's contents, so that one with other values is not resumed."""

Metrics = Mapping[str, float]
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONSTRAINT = re.compile(rf"\s*(\S+?)\s*(>=|<=)\s*({_NUMBER})\s*(\*\s*fp32)?\s*")


@dataclass(frozen=True)
class Problem:
    """What the search optimises; it does not know how a model is run.

    Attributes:
        evaluate: quantization -> metrics by full key (`zero_shot/scenes/accuracy`), with `effective_bits` and
            `size_mb`; raises a ReliquantError where the quantization cannot be evaluated.
        better: metric key -> its better direction.
        headline: the metric keys that `reliability` is the mean of; the first part of a key is its task.
        standing: an evaluated quantization -> how it compares with full precision.
        known_objectives: quantization -> those of its costs that are known in advance.
    """

    evaluate: Callable[[QuantSpec], Metrics]
    better: Callable[[str], Better]
    headline: tuple[str, ...]
    standing: Callable[[QuantSpec], Standing] = lambda spec: Standing()
    known_objectives: Callable[[QuantSpec], Metrics] = lambda spec: {}


@dataclass(frozen=True)
class Objective:
    """A metric key that the search maximises or minimises."""

    key: str
    direction: Literal["maximize", "minimize"]

    def loss(self, value: float) -> float:
        """The value, turned so that lower is better."""
        return -value if self.direction == "maximize" else value


@dataclass(frozen=True)
class Constraint:
    """`KEY >= NUMBER`, `KEY <= NUMBER`, or the same with `NUMBER * fp32`: relative to full precision."""

    text: str
    key: str
    at_least: bool
    number: float
    relative: bool

    def violation(self, value: float, reference: float) -> float:
        """By how much the constraint is violated; zero or less where it holds."""
        bound = self.number * reference if self.relative else self.number
        return bound - value if self.at_least else value - bound


def parse_constraint(text: str) -> Constraint:
    """Read `zero_shot/scenes/accuracy >= 0.99 * fp32`.

    Raises:
        SpecError: the text has another form.
    """
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise SpecError(
            f"--constraint '{text}': it cannot be read. "
            "The form is 'KEY >= NUMBER', 'KEY <= NUMBER' or '... NUMBER * fp32'."
        )
    key, operator, number, relative = match.groups()
    return Constraint(" ".join(text.split()), key, operator == ">=", float(number), relative is not None)


def make_objective(key: str, better: Callable[[str], Better], known: Callable[[str], bool]) -> Objective:
    """Make an objective with the better direction that its metric declares.

    Args:
        better: metric key -> its better direction.
        known: metric key -> whether the suite may report it, as far as is known before anything is evaluated.

    Raises:
        SpecError: no task of the suite reports it, or it has no better direction.
    """
    if key not in OWN and not known(key):
        raise SpecError(
            f"--objective {key}: no task of this suite reports it. Name task/dataset/metric, or one of "
            f"{', '.join(OWN)}."
        )
    direction = OWN[key] if key in OWN else better(key)
    if direction == "neither":
        raise SpecError(f"--objective {key}: neither direction is better. Use it in a --constraint.")
    return Objective(key, "maximize" if direction == "higher" else "minimize")


def check_constraint(constraint: Constraint, known: Callable[[str], bool]) -> None:
    """Refuse a constraint on a metric that no task of the suite reports, before anything is evaluated."""
    if constraint.key not in OWN and not known(constraint.key):
        raise SpecError(
            f"--constraint '{constraint.text}': no task of this suite reports {constraint.key}. Name "
            f"task/dataset/metric, or one of {', '.join(OWN)}."
        )


@dataclass(frozen=True)
class Goals:
    """Objectives and constraints of a study, and the full-precision metrics that they are relative to.

    Attributes:
        reference: metrics of full precision.
        weights: metric key -> what a change of 1 adds to `reliability`, in points.
        relative_keys: task -> its headline metrics that `mean_relative_change` is the mean of; empty where no objective
            and no constraint asks for it.
        left_out: headline metric -> why it counts in none of them.
        probability: with which each headline metric has to stay within its margin; None: there is no goal.
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    reference: Metrics
    better: Callable[[str], Better]
    weights: Mapping[str, float]
    relative_keys: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]
    probability: float | None = None

    @property
    def cost(self) -> str:
        """What a choice among configurations minimises: the first objective that is a cost, by default the bits."""
        return next((o.key for o in self.objectives if o.key in COSTS), EFFECTIVE_BITS)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every metric key that objectives, constraints, `reliability` and `mean_relative_change` need."""
        given = [*(o.key for o in self.objectives), *(c.key for c in self.constraints), *self.weights]
        relative = [key for keys in self.relative_keys.values() for key in keys]
        return tuple(dict.fromkeys(key for key in (*given, *relative) if key not in (RELIABILITY, RELATIVE)))

    def complete(self, metrics: Metrics) -> dict[str, float]:
        """The metrics with `reliability`, and with `mean_relative_change` where it is asked for.

        Raises:
            UndefinedMetric: a headline metric that full precision has is undefined here.
        """
        changes = {key: defined(metrics, key) - self.reference[key] for key in self.weights}
        found = {**metrics, RELIABILITY: sum(self.weights[key] * change for key, change in changes.items())}
        if self.relative_keys:
            found[RELATIVE] = mean_relative_change(metrics, self.reference, self.better, self.relative_keys)
        return found

    def values(self, metrics: Metrics) -> list[float]:
        """The objectives' values, from completed metrics.

        Raises:
            UndefinedMetric: one of them is undefined here.
        """
        return [defined(metrics, objective.key) for objective in self.objectives]

    def violations(self, metrics: Metrics, standing: Standing) -> dict[str, float]:
        """Constraint -> by how much it is violated (zero or less: it holds)."""
        found = {
            c.text: c.violation(defined(metrics, c.key), self.reference.get(c.key, float("nan")) if c.relative else 0.0)
            for c in self.constraints
        }
        if self.probability is not None:
            judged = standing.decision.judged
            found |= {HARMLESS.format(each.key): shortfall(each, self.probability) for each in judged}
        return found


HARMLESS = "{} within its margin"
"""Name of the constraint that a goal sets on a headline metric."""


def make_goals(
    problem: Problem,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    probability: float | None = None,
) -> Goals:
    """Evaluate full precision, the reference, and check every key against what it reports.

    Args:
        probability: of a goal; see `Goals`.

    Raises:
        UnknownNameError: an objective or constraint that full precision does not report.
        SpecError: no headline metric has points, or a relative change, and an objective asks for it.
    """
    reference = dict(problem.evaluate(FP32))
    asked = {*(o.key for o in objectives), *(c.key for c in constraints)}
    missing = [key for key in problem.headline if key not in reference or judging(key) not in reference]
    left_out = dict.fromkeys(missing, "full precision does not have it")
    weights, pointless = point_weights(key for key in problem.headline if key not in left_out)
    left_out |= pointless
    keys: dict[str, tuple[str, ...]] = {}
    if RELATIVE in asked:
        keys, unrelated = relative_keys(reference, problem.headline, problem.better)
        left_out |= unrelated
    for name, found in ((RELIABILITY, weights), (RELATIVE, keys)):
        if not found and any(o.key == name for o in objectives):
            reasons = "; ".join(f"{key}: {why}" for key, why in left_out.items()) or "the suite has no headline metric"
            raise SpecError(
                f"--objective {name}: it has no value on this suite ({reasons}). Choose another --objective."
            )
    reference |= {RELIABILITY: 0.0, RELATIVE: 0.0, LATENCY: 1.0}
    for key in (*(o.key for o in objectives), *(c.key for c in constraints)):
        if key not in reference:
            raise UnknownNameError("metric (of an objective or constraint)", key, reference)
    return Goals(tuple(objectives), tuple(constraints), reference, problem.better, weights, keys, left_out, probability)


def check_margins(headline: Sequence[str], margins: Mapping[str, float], better: Callable[[str], Better]) -> None:
    """Refuse a goal that no configuration could be shown to reach.

    Raises:
        SpecError: there is no headline metric, or one has no margin.
    """
    judged = [key for key in headline if better(key) != "neither"]
    if not judged:
        raise SpecError(
            "search: the suite has no headline metric to judge by. Name some under `headline`, or an --objective."
        )
    for key in judged:
        if margin_of(key, margins) is None:
            raise SpecError(
                f"{key}: its task declares no margin. Name one in the suite's `margins`, or an --objective."
            )
