"""The conditional search space as a fixed set of parameters, for samplers that need one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from benchmark.spec import QuantSpec
from benchmark.spec.scalars import Scalar

from .space import Dimension, Space


def distribution(values: Sequence[Scalar]) -> BaseDistribution:
    """Optuna's distribution of some values: consecutive integers are ordered, anything else is categorical."""
    if all(type(v) is int for v in values) and tuple(values) == tuple(range(int(values[0]), int(values[-1]) + 1)):
        return IntDistribution(int(values[0]), int(values[-1]))
    return CategoricalDistribution(tuple(values))


class Flat:
    """A space in which every choice is a parameter of every point; a choice that a point lacks has its first value.

    `decode` turns any values into a point: walking down the tree, a choice takes its parameter's value, or where that
    is not offered there the closest number, else the value at the same place. `decode(encode(spec)) == spec`.

    Attributes:
        distributions: parameter -> Optuna's distribution; without choices that have a single value.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._values = {name: values for name, values in space.declared().items() if len(values) > 1}
        self.distributions = {name: distribution(values) for name, values in self._values.items()}

    def encode(self, spec: QuantSpec) -> dict[str, Scalar] | None:
        """The parameters of a quantization; None where it is not a point of the space."""
        path = self._space.path(spec)
        if path is None:
            return None
        chosen = {step.name: value for step, value in path}
        return {name: chosen.get(name, values[0]) for name, values in self._values.items()}

    def decode(self, params: Mapping[str, Scalar]) -> QuantSpec:
        """The point that the parameters encode."""

        def choose(dimension: Dimension) -> Scalar:
            value, offered = params[dimension.name], dimension.values
            if value in offered:
                return value
            if isinstance(value, (int, float)) and all(isinstance(v, (int, float)) for v in offered):
                return min(offered, key=lambda v: (abs(float(v) - float(value)), float(v)))
            return offered[self._values[dimension.name].index(value) % len(offered)]

        return self._space.sample(choose)
