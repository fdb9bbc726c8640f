"""The search space: a tree of choices built from what the quantizers declare and accept.

A value is only offered where some quantization below it passes the check, so no sampled point is invalid and no trial
is wasted. A choice with a single valid value is made without asking.

Samplers see the tree as a fixed set of `parameters`, one for each choice anywhere in it: `decode` turns
any values into a point, `encode` a point into values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from benchmark.errors import ReliquantError, SpecError, UnknownNameError
from benchmark.quantization import Quantizer, quantizers
from benchmark.spec import QuantSpec, Tower, digest
from benchmark.spec.scalars import Scalar

Params = Mapping[str, Scalar]
Choose = Callable[["Dimension"], Scalar]
_OPENING = ("method", "scope", "weight_granularity", "activations")
"""The choices that decide which other choices there are."""
PROTECTED, PROTECTED_BITS = "protected", "protected_bits"
"""The choices of mixed precision: how many of the most harmful layers get more bits, and how many bits."""
_COMPLETIONS = 2000
"""Completions that are tried before a prefix counts as invalid."""


@dataclass(frozen=True)
class Choices:
    """The values to choose from; each method uses those that it declares and accepts.

    Attributes:
        methods: quantizers by name. scopes: towers.
        harmful: tower and name of the layers that may get more bits than the others, the most harmful first.
    """

    methods: tuple[str, ...]
    scopes: tuple[str, ...] = ("vision", "text", "vision+text")
    weight_bits: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    weight_granularity: tuple[str, ...] = ("tensor", "channel", "group")
    group_size: tuple[int, ...] = (32, 64, 128)
    symmetric: tuple[bool, ...] = (True, False)
    activations: tuple[str, ...] = ("none", "token", "tensor")
    activation_bits: tuple[int, ...] = (4, 5, 6, 7, 8)
    harmful: tuple[tuple[Tower, str], ...] = ()
    protected_bits: tuple[int, ...] = (6, 8)


@dataclass(frozen=True)
class Dimension:
    """One choice. `name`: `weight_bits`, `option percentile`. `values`: those that lead to a valid quantization."""

    name: str
    values: tuple[Scalar, ...]


def check_method(spec: QuantSpec) -> None:
    """Accept a quantization if its method does.

    Raises:
        SpecError: the method's reason.
    """
    quantizers.get(spec.method).check(spec)


class Space:
    """The tree of choices.

    Raises:
        UnknownNameError: no such method or scope. SpecError: no point is valid; gives the first reason.
    """

    def __init__(self, choices: Choices, check: Callable[[QuantSpec], None] = check_method) -> None:
        for scope in choices.scopes:
            if scope not in Choices(()).scopes:
                raise UnknownNameError("scope", scope, Choices(()).scopes)
        self._methods = {name: quantizers.get(name) for name in choices.methods}
        self.choices, self._check = choices, check
        self._known: dict[tuple[tuple[str, Scalar], ...], bool] = {}
        self._reason: str | None = None
        first = self.next({})
        if first is None or not first.values:
            raise SpecError(
                f"search space: it has no valid point ({self._reason or 'no method is given'}). "
                "Allow more with --method or --scope."
            )

    def next(self, params: Params) -> Dimension | None:
        """The first choice that is not made yet, with its valid values; None when all are made."""
        for dimension in self._dimensions(params):
            if dimension.name not in params:
                values = tuple(v for v in dimension.values if self._has_valid_completion({**params, dimension.name: v}))
                return Dimension(dimension.name, values)
        return None

    def sample(self, choose: Choose) -> QuantSpec:
        """Walk down the tree; `choose` decides wherever there are two valid values or more."""
        params: dict[str, Scalar] = {}
        while (dimension := self.next(params)) is not None:
            params[dimension.name] = dimension.values[0] if len(dimension.values) == 1 else choose(dimension)
        return self.spec(params)

    def points(self) -> Iterator[QuantSpec]:
        """Every point, the first choice varying slowest."""
        yield from (self.spec(params) for params in self._leaves({}))

    def size(self, at_most: int) -> int:
        """Number of points, counted up to `at_most + 1`."""
        count = 0
        for _ in self._leaves({}):
            count += 1
            if count > at_most:
                break
        return count

    @cached_property
    def parameters(self) -> dict[str, tuple[Scalar, ...]]:
        """Parameter -> its values; without choices that have a single value."""
        return {name: values for name, values in self._declared.items() if len(values) > 1}

    def path(self, spec: QuantSpec) -> dict[str, Scalar] | None:
        """The choices that lead to a quantization; None where it is no point of this space."""
        chosen: dict[str, Scalar] = {}
        while (dimension := self.next(chosen)) is not None:
            value = self._read(spec, dimension.name)
            if value is None or value not in dimension.values:
                return None
            chosen[dimension.name] = value
        return chosen if self.spec(chosen) == spec else None

    def encode(self, spec: QuantSpec) -> dict[str, Scalar] | None:
        """The parameters of a quantization, one that it lacks with its middle value; None where it is no point."""
        path = self.path(spec)
        if path is None:
            return None
        return {name: path.get(name, values[len(values) // 2]) for name, values in self.parameters.items()}

    def decode(self, params: Params) -> QuantSpec:
        """The point that any values of the parameters stand for.

        Walking down the tree, a choice takes its parameter's value, or where that is not offered there the closest
        number, else the value at the same place. `decode(encode(spec)) == spec`.
        """

        def choose(dimension: Dimension) -> Scalar:
            value, offered = params[dimension.name], dimension.values
            if value in offered:
                return value
            if isinstance(value, (int, float)) and all(isinstance(v, (int, float)) for v in offered):
                return min(offered, key=lambda v: (abs(float(v) - float(value)), float(v)))
            return offered[self._declared[dimension.name].index(value) % len(offered)]

        return self.sample(choose)

    def same_images(self, spec: QuantSpec) -> QuantSpec | None:
        """The point that differs only in whether it quantizes the text tower; None where there is none."""
        other = {"vision": "vision+text", "vision+text": "vision"}.get(spec.scope)
        if other is None or not spec.towers:
            return None
        sibling = spec.model_copy(update={"scope": other})
        return None if self.encode(sibling) is None else sibling

    @cached_property
    def _declared(self) -> dict[str, tuple[Scalar, ...]]:
        """Every choice of the space -> all its values, below whatever other choices."""
        found: dict[str, tuple[Scalar, ...]] = {}
        waiting: list[dict[str, Scalar]] = [{}]
        while waiting:
            params = waiting.pop()
            dimension = next((d for d in self._dimensions(params) if d.name not in params), None)
            if dimension is None:
                continue
            found[dimension.name] = tuple(dict.fromkeys((*found.get(dimension.name, ()), *dimension.values)))
            opening = dimension.values if dimension.name in _OPENING else dimension.values[:1]
            opening = dimension.values[1:2] if dimension.name == PROTECTED else opening
            waiting += [{**params, dimension.name: value} for value in opening]
        return found

    def spec(self, params: Params) -> QuantSpec:
        """The quantization of a complete set of choices.

        Raises:
            ValueError: pydantic's, for fields that do not go together.
        """
        fields: dict[str, Any] = {}
        for name, value in params.items():
            if name == "activations":
                fields |= {"activation_granularity": value} if value != "none" else {}
            elif name.startswith("option "):
                key = name.removeprefix("option ")
                if value != _default(self._methods[str(params["method"])], key):
                    fields.setdefault("options", {})[key] = value
            elif name == PROTECTED_BITS:
                layers = self._in_scope(params)[: int(params[PROTECTED])]
                fields["overrides"] = tuple({"pattern": layer, "bits": value} for layer in layers)
            elif name != PROTECTED:
                fields[name] = value
        return QuantSpec.model_validate(fields)

    def digest(self) -> str:
        """Content hash of the choices and the methods' versions: a study is bound to it."""
        versions = {name: method.version for name, method in self._methods.items()}
        return digest([asdict(self.choices), versions])

    def _leaves(self, params: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
        dimension = self.next(params)
        if dimension is None:
            yield params
            return
        for value in dimension.values:
            yield from self._leaves({**params, dimension.name: value})

    def _dimensions(self, params: Params) -> Iterator[Dimension]:
        """The choices in order; each is computed only after those before it are made."""
        given = self.choices
        yield Dimension("method", given.methods)
        method = self._methods[str(params["method"])]
        if "scope" in method.fields:
            yield Dimension("scope", given.scopes)
        if "weight_bits" in method.fields:
            yield Dimension("weight_bits", given.weight_bits)
            yield Dimension("weight_granularity", given.weight_granularity)
            if params["weight_granularity"] == "group":
                yield Dimension("group_size", given.group_size)
            if "symmetric" in method.fields:
                yield Dimension("symmetric", given.symmetric)
        if "activation_bits" in method.fields:
            yield Dimension("activations", given.activations)
            if params["activations"] != "none":
                yield Dimension("activation_bits", given.activation_bits)
                if "activation_symmetric" in method.fields:
                    yield Dimension("activation_symmetric", given.symmetric)
        yield from _options(method)
        more = tuple(bits for bits in given.protected_bits if bits > int(params.get("weight_bits", 0)))
        layers = self._in_scope(params)
        if "overrides" in method.fields and "weight_bits" in method.fields and more and layers:
            yield Dimension(PROTECTED, tuple(range(len(layers) + 1)))
            if params[PROTECTED]:
                yield Dimension(PROTECTED_BITS, more)

    def _in_scope(self, params: Params) -> list[str]:
        """The harmful layers of the towers that are quantized."""
        towers = str(params.get("scope", "vision")).split("+")
        return [layer for tower, layer in self.choices.harmful if tower in towers]

    def _read(self, spec: QuantSpec, name: str) -> Scalar | None:
        """The value that a quantization has for a choice."""
        if name == "activations":
            return spec.activation_granularity or "none"
        if name.startswith("option "):
            key = name.removeprefix("option ")
            return spec.option(key, _default(self._methods[spec.method], key))
        if name == PROTECTED:
            return len(spec.overrides)
        if name == PROTECTED_BITS:
            return spec.overrides[0].bits if spec.overrides else None
        value: Scalar | None = getattr(spec, name)
        return value

    def _has_valid_completion(self, params: dict[str, Scalar]) -> bool:
        """Whether some quantization with these choices passes the check."""
        key = tuple(params.items())
        if key not in self._known:
            self._known[key] = any(map(self._valid, islice(self._completions(params), _COMPLETIONS)))
        return self._known[key]

    def _completions(self, params: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
        """Completions, the plainest first."""
        dimension = next((d for d in self._dimensions(params) if d.name not in params), None)
        if dimension is None:
            yield params
            return
        for value in dimension.values:
            yield from self._completions({**params, dimension.name: value})

    def _valid(self, params: dict[str, Scalar]) -> bool:
        try:
            self._check(self.spec(params))
        except (ReliquantError, ValueError) as error:
            self._reason = self._reason or str(error)
            return False
        return True


def _options(method: Quantizer) -> Iterator[Dimension]:
    """A method's own options: switches, and those whose declaration names values to search (`search`)."""
    for key, info in method.options.model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        values = extra.get("search", [False, True] if info.annotation is bool else None)
        if isinstance(values, list):
            yield Dimension(f"option {key}", tuple(v for v in values if isinstance(v, Scalar)))


def _default(method: Quantizer, key: str) -> Any:
    return method.options.model_fields[key].default
