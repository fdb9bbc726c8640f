"""Units, patterns, quantizations of one unit and of all but one, resumed passes, and the effects against arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmark.errors import QuantizationError, SpecError
from benchmark.ledger.records import Record
from benchmark.metrics.uncertainty import GROUPS, Measured
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.models.resume import Resuming
from benchmark.quantization import parse, quantize
from benchmark.results.evidence import Evidence
from benchmark.sensitivity.effects import Evaluated, differences, evaluated
from benchmark.sensitivity.measure import half_of
from benchmark.sensitivity.model import OVERALL
from benchmark.sensitivity.units import Unit, cover, protecting, quantizations, units_of
from benchmark.spec.suite import load_suite
from benchmark.testing.models import toy_model

BASE = parse("rtn-w4-channel-vision")
NAMES = st.lists(
    st.from_regex(r"\A(v\.)?(blocks\.(1?[0-9])|conv|proj)(\.(fc[12]|qkv|out))?\Z"), min_size=1, unique=True
)


@pytest.fixture(scope="module")
def model() -> ClipModel:
    return toy_model()


def matched(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


@given(NAMES, st.data())
def test_a_cover_matches_all_that_is_wanted_and_nothing_else(names: list[str], data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    patterns = cover(wanted, [name for name in names if name not in wanted])
    assert matched(patterns, names) == set(wanted)
    assert all(matched([pattern], names) for pattern in patterns)  # a quantizer refuses patterns without a match


@pytest.mark.parametrize(("by", "expected"), [
    ("layer", 10),
    ("block", 4),  # the stem, two blocks, the projection
    ("kind", 6),
])  # fmt: skip
def test_every_layer_is_in_one_unit(model: ClipModel, by: str, expected: int) -> None:
    units = units_of(model, BASE, by)  # type: ignore[arg-type]
    layers = [layer for unit in units for layer in unit.layers]
    assert sorted(layers) == sorted(model.layers("vision"))
    assert len(units) == expected
    assert sum(unit.weights for unit in units) == sum(m.weight.numel() for m in model.layers("vision").values())
    if by == "kind":
        assert {u.name for u in units if "*" in u.name} >= {"visual.blocks.*.fc1", "visual.blocks.*.qkv"}


@pytest.mark.parametrize("by", ["layer", "block", "kind"])
@pytest.mark.parametrize("base", ["rtn-w4-channel-vision", "rtn-w4a8-channel-token-vision+text"])
def test_quantizations_round_what_their_unit_says(model: ClipModel, by: str, base: str) -> None:
    """The layers that the quantizer's own report names."""
    spec = parse(base)
    units = units_of(model, spec, by)  # type: ignore[arg-type]
    quants = quantizations(spec, units)
    every = {layer for unit in units for layer in unit.layers}

    def rounded(name: str) -> set[str]:
        report = quantize(model, parse(name))[1]
        return {layer.name for tower in report.towers.values() for layer in tower.layers}

    for unit in (units[0], units[len(units) // 2], units[-1]):
        assert rounded(quants.only[unit.name].name) == set(unit.layers)
        assert rounded(quants.but[unit.name].name) == every - set(unit.layers)
    assert quants.names[0] == base
    assert len(quants.names) == 1 + 2 * len(units)


def test_the_line_protects_what_it_says_by_name(model: ClipModel) -> None:
    for by, expected in (
        ("layer", "visual.conv=8"),
        ("block", "visual.blocks.0.*=8"),
        ("kind", "visual.blocks.*.qkv=8"),
    ):
        units = units_of(model, BASE, by)  # type: ignore[arg-type]
        chosen = [next(u for u in units if expected in (f"{u.name}=8", f"{u.name}.*=8"))]
        assert protecting(chosen, units, 8) == (expected,)
    twins = (Unit("a", "vision", ("a", "a.b"), 1), Unit("a.c", "vision", ("a.c",), 1))
    [pattern] = protecting(twins[:1], twins, 8)[:1]
    assert not fnmatchcase("a.c", pattern.removesuffix("=8"))


def test_a_name_that_would_be_too_long_is_refused() -> None:
    layers = [f"{letter * 90}{i}" for i, letter in enumerate("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")]
    units = [Unit(str(i), "vision", (layer,), 1) for i, layer in enumerate(layers)]
    long = BASE.model_copy(update={"skip": ("x" * 3990,)})
    with pytest.raises(SpecError, match="--by block"):
        quantizations(long, units)


def resuming(model: ClipModel, budget: int = 10**9) -> tuple[ClipModel, Resuming]:
    encoder = Resuming(model.image_encoder, model.blocks["vision"], model.towers["vision"], budget)
    return replace(model, image_encoder=encoder), encoder


def pictures(count: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))


def test_resumed_passes_give_the_same_bits(model: ClipModel) -> None:
    """One layer at a time and all but one, twice: the first pass from a block is compared, the second one resumed."""
    lent, encoder = resuming(model)
    lent.encode_image(pictures())
    quants = quantizations(BASE, units_of(model, BASE, "layer"))
    for name in quants.names:
        made = quantize(lent, parse(name))[0]
        plain = replace(made, image_encoder=encoder.encoder)
        for _ in range(2):
            assert torch.equal(made.encode_image(pictures()), plain.encode_image(pictures()))
    assert encoder.exact
    assert encoder.skipped > 0
    assert encoder.run > encoder.skipped


def test_a_changed_weight_or_setting_is_not_resumed_over(model: ClipModel) -> None:
    """Also one that was written behind the version counters."""
    lent, encoder = resuming(model)
    first = lent.encode_image(pictures())
    changed = lent.clone()
    changed.module.get_submodule("visual.blocks.0.fc1").weight.data.mul_(1.5)
    again = changed.encode_image(pictures())
    assert torch.equal(again, replace(changed, image_encoder=encoder.encoder).encode_image(pictures()))
    assert not torch.equal(first, again)
    with_eps = lent.clone()
    with_eps.module.get_submodule("visual.blocks.0.ln_1").eps = 0.1
    plain = replace(with_eps, image_encoder=encoder.encoder).encode_image(pictures())
    assert torch.equal(with_eps.encode_image(pictures()), plain)


def test_watched_modules_and_other_towers_run_whole(model: ClipModel) -> None:
    """Taps and hooks see every block; where blocks are no chain, nothing is resumed."""
    lent, encoder = resuming(model)
    lent.encode_image(pictures())
    seen: list[int] = []
    handle = model.module.get_submodule("visual.blocks.0").register_forward_hook(lambda *_: seen.append(1))
    lent.encode_image(pictures())
    handle.remove()
    assert seen == [1]
    assert encoder.skipped == 0

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def parallel(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        first, second = module.blocks  # type: ignore[misc]
        return first(x) + second(x)  # type: ignore[no-any-return, has-type]

    module = Beside()
    other = Resuming(parallel, ("blocks.0", "blocks.1"), ("blocks",), 10**6)
    x = torch.ones(2, 4)
    expected = parallel(module, x)
    for _ in range(3):
        assert torch.equal(other(module, x), expected)
    assert not other.exact


def test_memory_stays_within_its_budget(model: ClipModel) -> None:
    lent, encoder = resuming(model, budget=0)
    assert torch.equal(lent.encode_image(pictures()), lent.encode_image(pictures()))
    assert encoder.kept == {}


def evaluation(metric: float, seed: int, samples: str = "s") -> Evaluated:
    replicates = metric + 0.001 * np.random.default_rng(seed).standard_normal(GROUPS)
    measured = {"accuracy": Measured(metric, replicates)}
    evidence = Evidence(measured, {}, np.ones(GROUPS, bool), 100, samples)
    return Evaluated({"zero_shot/x/accuracy": metric}, {"zero_shot/x": evidence})


def test_effects_are_the_jackknife_of_the_difference() -> None:
    terms = [
        (0.5, evaluation(0.8, 1)),
        (-0.5, evaluation(0.6, 2)),
        (-0.5, evaluation(0.7, 3)),
        (0.5, evaluation(0.9, 4)),
    ]
    found = differences(terms, ["zero_shot/x/accuracy"])
    assert found[OVERALL] == found["zero_shot"]
    assert found[OVERALL].value == pytest.approx(20.0)
    columns = np.array([each.evidence["zero_shot/x"].measured["accuracy"].replicates for _, each in terms])
    joint = 100 * np.array([c for c, _ in terms]) @ columns
    error = np.sqrt((GROUPS - 1) / GROUPS * ((joint - joint.mean()) ** 2).sum())
    low, high = found[OVERALL].low, found[OVERALL].high
    assert low is not None
    assert high is not None
    assert 1.9 * error < (high - low) / 2 < 2.2 * error  # Student's t


def test_what_has_no_interval_says_why() -> None:
    one, other = evaluation(0.8, 1), evaluation(0.7, 2, samples="others")
    assert "other samples" in differences([(1.0, one), (-1.0, other)], ["zero_shot/x/accuracy"])[OVERALL].reason
    same = differences([(1.0, one), (-1.0, one)], ["zero_shot/x/accuracy"])[OVERALL]
    assert (same.value, same.low, same.reason) == (0.0, None, "it does not vary over the images")
    undefined = differences([(1.0, one), (-1.0, one)], ["zero_shot/y/accuracy"])
    assert undefined == {}


def test_a_failed_evaluation_gives_its_reason() -> None:
    failed = Record(
        key="k", configuration="c", suite="s", model="m", quantization="rtn-w4-channel-vision", task="zero_shot",
        dataset="x", comparison_key="p", status="failed", seconds=0.0, error="out of memory", metrics={}, notes={},
    )  # fmt: skip
    with pytest.raises(QuantizationError, match="zero_shot/x: out of memory"):
        evaluated([failed], lambda key: pytest.fail("not asked"))


def test_the_two_halves_share_no_image_and_what_is_fitted_on_stays_whole() -> None:
    suite = load_suite("planted")
    first, second = half_of(suite, "a"), half_of(suite, "b")
    assert first.data["calibration"] == second.data["calibration"] == suite.data["calibration"]
    assert dict(first.data["test"].options)["half"] == "a"
    assert dict(second.data["test-c"].options)["half"] == "b"
    assert first.name != second.name
    assert resolve("planted").name == "planted-gain"
