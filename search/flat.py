"""A space of conditional choices as parameters that every point has, for samplers that cannot model anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from benchmark.spec import QuantSpec
from benchmark.spec.scalars import Scalar
from search.space import Dimension, Space


def distribution(values: Sequence[Scalar]) -> BaseDistribution:
    """Consecutive whole numbers are ordered, anything else is categorical."""
    if all(type(v) is int for v in values) and tuple(values) == tuple(range(int(values[0]), int(values[-1]) + 1)):
        return IntDistribution(int(values[0]), int(values[-1]))
    return CategoricalDistribution(tuple(values))


class Flat:
    """Every choice of a space is a parameter of every point: one that a point does not have is at its first value.

    `decode` turns any values into a point: walking down the tree, a choice takes its parameter's value, or where that
    is not offered there the closest number, else the value at the same place. `decode(encode(spec)) == spec`.

    Attributes:
        distributions: parameter -> Optuna's distribution; choices with a single value are left out.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._values = {name: values for name, values in space.declared().items() if len(values) > 1}
        self.distributions = {name: distribution(values) for name, values in self._values.items()}

    def encode(self, spec: QuantSpec) -> dict[str, Scalar] | None:
        """The parameters of a point; None where a quantization is not one."""
        way = self._space.way(spec)
        if way is None:
            return None
        chosen = {step.name: value for step, value in way}
        return {name: chosen.get(name, values[0]) for name, values in self._values.items()}

    def decode(self, params: Mapping[str, Scalar]) -> QuantSpec:
        """The point that parameters stand for."""

        def choose(dimension: Dimension) -> Scalar:
            value, offered = params[dimension.name], dimension.values
            if value in offered:
                return value
            if isinstance(value, (int, float)) and all(isinstance(v, (int, float)) for v in offered):
                return min(offered, key=lambda v: (abs(float(v) - float(value)), float(v)))
            return offered[self._values[dimension.name].index(value) % len(offered)]

        return self._space.sample(choose)
