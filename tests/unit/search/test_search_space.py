"""The space: every point is valid, nothing valid is unreachable, names of choices never clash."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import SpecError, UnknownNameError
from benchmark.quantization import parse, quantizers
from benchmark.spec import QuantSpec, Tower
from search.space import Choices, Dimension, Space
from search.study import CUSTOMARY, suggest
from tests.search_stub import MEDIUM, SMALL

METHODS = tuple(n for n in quantizers.names() if n != "fp32" and quantizers.get(n).kind == "quantization")
EVERYTHING = Space(Choices(METHODS))
HARMFUL: tuple[tuple[Tower, str], ...] = (("vision", "visual.a"), ("text", "text.b"), ("vision", "visual.c"))
MIXED = Space(Choices(("rtn", "bnb-nf4"), harmful=HARMFUL))


def drawn(space: Space, rng: random.Random) -> tuple[QuantSpec, dict[str, object]]:
    chosen: dict[str, object] = {}

    def choose(dimension: Dimension) -> object:
        assert len(dimension.values) > 1
        assert dimension.name not in chosen
        return chosen.setdefault(dimension.name, rng.choice(dimension.values))

    return space.sample(choose), chosen  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([EVERYTHING, MIXED]))
def test_every_sampled_point_is_valid_and_reads_back(rng: random.Random, space: Space) -> None:
    spec, chosen = drawn(space, rng)
    assert parse(spec.name) == spec  # parse checks it with its method
    params = space.encode(spec)
    assert params is not None
    assert chosen.items() <= params.items()
    assert params.keys() == space.parameters.keys()
    assert space.decode(params) == spec


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([Space(MEDIUM), MIXED]))
def test_any_values_of_the_parameters_are_a_point(seed: int, space: Space) -> None:
    rng = random.Random(seed)
    params = {name: rng.choice(values) for name, values in space.parameters.items()}
    spec = space.decode(params)
    assert space.decode(space.encode(spec) or {}) == spec


def test_values_that_are_not_offered_become_the_closest() -> None:
    def check(spec: QuantSpec) -> None:
        quantizers.get(spec.method).check(spec)
        if spec.weight_bits in (6, 7) or spec.group_size == 64:
            raise SpecError("not with this model")

    space = Space(Choices(("rtn",), ("vision",)), check)
    base = space.encode(parse("rtn-w2-tensor-vision")) or {}
    spec = space.decode({**base, "weight_bits": 6, "weight_granularity": "group", "group_size": 64})
    assert (spec.weight_bits, spec.group_size) == (5, 32)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_optuna_samples_valid_points_without_warning(seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    params = {name: suggest(trial, name, kind) for name, kind in EVERYTHING.parameters.items()}
    spec = EVERYTHING.decode(params)
    assert parse(spec.name) == spec
    assert trial.params == params


def test_the_points_are_the_product_of_what_the_method_takes() -> None:
    names = [spec.name for spec in Space(SMALL).points()]
    expected = {
        f"rtn-w{bits}-{grain}{symmetry}-vision"
        for bits in (3, 4)
        for grain in ("tensor", "channel", "g32")
        for symmetry in ("", "-asym")
    }
    assert len(names) == len(expected)
    assert set(names) == expected
    assert Space(SMALL).size(100) == 12
    assert Space(SMALL).size(5) == 6


def test_points_differ() -> None:
    space = Space(replace(MEDIUM, weight_bits=(4, 8), activation_bits=(8,)))
    points = list(space.points())
    assert len({spec.digest() for spec in points}) == len(points) > 200


def test_the_customary_configurations_are_points() -> None:
    assert all(EVERYTHING.encode(parse(name)) is not None for name in CUSTOMARY)


def test_what_is_no_point_has_no_parameters() -> None:
    space = Space(SMALL)
    for name in ("rtn-w8-channel-vision", "gptq-w4-vision", "rtn-w4-skip_head-vision", "rtn-w4a8-vision"):
        assert space.encode(parse(name)) is None


def test_only_choices_that_lead_to_a_valid_point_are_offered() -> None:
    """A model whose layers 64 does not divide, and no calibration data."""

    def check(spec: QuantSpec) -> None:
        quantizers.get(spec.method).check(spec)
        if spec.group_size == 64 or spec.activation_granularity == "tensor":
            raise SpecError("not with this model")

    space = Space(MEDIUM, check)
    dimensions = [space.next({"method": "rtn", "scope": "vision", "weight_bits": 4, "weight_granularity": "group"})]
    assert dimensions[0] == Dimension("group_size", (32, 128))
    assert all(spec.group_size != 64 and spec.activation_granularity != "tensor" for spec in space.points())


def test_fixed_formats_offer_only_their_own() -> None:
    assert {spec.name for spec in Space(Choices(("bnb-nf4",), ("vision",))).points()} == {
        "bnb-nf4-vision",
        "bnb-nf4-doublequant_true-vision",
    }
    assert all(spec.weight_bits == 8 for spec in Space(Choices(("fp8",), ("vision",))).points())


def test_mixed_precision_protects_the_most_harmful_layers_of_the_towers_in_scope() -> None:
    params = {"method": "rtn", "scope": "vision", "weight_bits": 4, "weight_granularity": "channel"}
    params |= {"symmetric": True, "activations": "none"}  # type: ignore[dict-item]
    spec = MIXED.spec({**params, "protected": 2, "protected_bits": 8})
    assert [(o.pattern, o.bits) for o in spec.overrides] == [("visual.a", 8), ("visual.c", 8)]
    both = MIXED.spec({**params, "scope": "vision+text", "protected": 2, "protected_bits": 6})
    assert [(o.pattern, o.bits) for o in both.overrides] == [("visual.a", 6), ("text.b", 6)]
    assert MIXED.spec({**params, "protected": 0}).overrides == ()
    assert MIXED.next({**params, "protected": 1, "weight_bits": 6}) == Dimension("protected_bits", (8,))
    assert MIXED.next({**params, "weight_bits": 8}) is None  # nothing has more bits


def test_a_space_without_a_point_says_why() -> None:
    with pytest.raises(SpecError, match=r"no valid point \(.*fp8 has 8 bits"):
        Space(Choices(("fp8",), weight_bits=(3, 4)))


def test_unknown_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown quantizer 'rnt'\. Did you mean 'rtn'"):
        Space(Choices(("rnt",)))
    with pytest.raises(UnknownNameError, match=r"unknown scope 'visual'\. Did you mean 'vision'"):
        Space(Choices(("rtn",), scopes=("visual",)))


def test_the_digest_is_that_of_the_choices() -> None:
    assert Space(SMALL).digest() == Space(replace(SMALL)).digest()
    assert Space(SMALL).digest() != Space(replace(SMALL, weight_bits=(3, 4, 5))).digest()


@dataclass
class _Counter:
    checks: int = 0

    def __call__(self, spec: QuantSpec) -> None:
        self.checks += 1
        quantizers.get(spec.method).check(spec)


def test_many_layers_cost_few_checks() -> None:
    counter = _Counter()
    layers: tuple[tuple[Tower, str], ...] = tuple(("vision", f"visual.blocks.{i}.fc") for i in range(24))
    space = Space(Choices(("rtn",), ("vision",), harmful=layers), counter)
    drawn(space, random.Random(0))
    assert counter.checks < 500
