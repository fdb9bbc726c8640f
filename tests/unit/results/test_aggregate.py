"""Means over groups: against references written another way, and what averaging must not do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.metrics.uncertainty import GROUPS, Measured, estimate
from benchmark.results import hypotheses
from benchmark.results.aggregate import (
    FEWEST_MODELS,
    Mean,
    by_model,
    changes,
    combine,
    needed,
    nested,
    relative_changes,
)
from benchmark.results.effects import Effect
from benchmark.results.groups import group_means
from tests.ledgers import TEN, W4, W8, Made, made_of, pattern, put_kinds

OCCUPIED = np.ones(GROUPS, dtype=bool)


def measured(value: float, error: float, *names: object, slack: float = 0.0) -> Measured:
    return Measured(value, value + error * pattern(*names), slack)


def effect(model: str, quantization: str, change: float, error: float, slack: float = 0.0, base: float = 0.5) -> Effect:
    """Of accuracy; all runs of a model share full precision's error."""
    before = measured(base, 0.01, model, slack=slack)
    now = Measured(base + change, before.replicates + change + error * pattern(model, quantization), slack)
    alone = estimate(lambda a, b: b - a, before, now, occupied=GROUPS)
    return Effect(model, quantization, "zero_shot/d/accuracy", "d", now, before, model, alone, OCCUPIED, 1000)


def some(models: int, runs: int, slack: float = 0.0, spread: float = 0.01) -> list[Effect]:
    rng = np.random.default_rng(models * 100 + runs)
    return [
        effect(f"m{m}", f"q{q}", float(spread * rng.standard_normal()), 0.004, slack, 0.4 + 0.05 * m)
        for m in range(models)
        for q in range(runs)
    ]


def mean_of(effects: list[Effect]) -> Mean:
    _, weights = by_model([each.model for each in effects])
    found = combine(changes(effects), weights)
    assert found is not None
    return found


NUMBERS = {"change": (changes, lambda b, q: q - b), "relative": (relative_changes, lambda b, q: (q - b) / abs(b))}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("slack", [0.0, 1e-6])
def test_a_mean_is_what_the_one_mechanism_says_of_the_mean_as_a_function(name: str, slack: float) -> None:
    """Four models, three runs each: `estimate` of a function of 16 metrics, full precision's once a model."""
    effects = some(4, 3, slack)
    stack, number = NUMBERS[name]
    bases = {each.model: each.before for each in effects}

    def function(*values: float | np.ndarray) -> float | np.ndarray:
        full, now = dict(zip(bases, values[:4], strict=True)), values[4:]
        own = [number(full[each.model], value) for each, value in zip(effects, now, strict=True)]
        return sum(sum(own[3 * m : 3 * m + 3]) / 3 for m in range(4)) / 4

    reference = estimate(function, *bases.values(), *(each.now for each in effects), occupied=GROUPS)
    _, weights = by_model([each.model for each in effects])
    found = combine(stack(effects), weights)
    assert found is not None
    assert found.these is not None
    assert reference is not None
    assert found.value == pytest.approx(reference.value, rel=1e-12)
    assert found.these.error == pytest.approx(reference.error, rel=1e-6)
    assert found.these.df == pytest.approx(reference.df, rel=1e-6)
    assert found.of_images == pytest.approx(reference.error**2, rel=1e-6)


def test_the_interval_of_models_of_this_kind_has_the_variance_of_the_formula() -> None:
    """V = V_images + max(V_models - V_own, 0) with loops in place of arrays."""
    effects = some(5, 2)
    mean = mean_of(effects)
    own = [[each for each in effects if each.model == f"m{m}"] for m in range(5)]
    values = [sum(e.now.value - e.before.value for e in runs) / 2 for runs in own]
    replicates = [sum(e.now.replicates - e.before.replicates for e in runs) / 2 for runs in own]
    center = sum(values) / 5
    merged = sum(replicates) / 5
    v_models = sum((value - center) ** 2 for value in values) / 4 / 5

    def variance(line: np.ndarray) -> float:
        return (GROUPS - 1) / GROUPS * sum((value - line.mean()) ** 2 for value in line)

    v_own = sum(variance(line - merged) for line in replicates) / 5 / 4
    v_images = variance(merged)
    assert v_models > v_own
    assert mean.kind is not None
    assert mean.kind.error**2 == pytest.approx(v_images + v_models - v_own, rel=1e-9)
    assert mean.these is not None
    free = (v_images + v_models - v_own) ** 2 / (
        v_images**2 / mean.these.df + v_models**2 / 4 + v_own**2 / mean.these.df
    )
    assert mean.kind.df == pytest.approx(free, rel=1e-9)
    assert mean.of_models == pytest.approx(v_models - v_own, rel=1e-9)


def test_models_that_differ_by_no_more_than_their_own_error_add_nothing() -> None:
    mean = mean_of([effect(f"m{m}", "q", 0.01, 0.01) for m in range(5)])
    assert mean.these is not None
    assert mean.kind is not None
    assert (mean.of_models, mean.kind.error) == (0.0, mean.these.error)


@pytest.mark.parametrize("models", [1, 2, 3])
def test_models_of_their_kind_take_three(models: int) -> None:
    mean = mean_of(some(models, 2))
    assert (mean.kind is not None) == (models >= FEWEST_MODELS)
    assert mean.widest is (mean.kind if models >= FEWEST_MODELS else mean.these)


def test_runs_of_one_model_are_no_independent_runs() -> None:
    """700 copies of a quantization, or of 70 in 10 models, say what one of them says; no interval shrinks."""
    one = [effect(f"m{m}", "q", 0.001 * m, 0.004) for m in range(10)]
    copies = [replace(each, quantization=f"{each.quantization}{copy}") for each in one for copy in range(70)]
    few, many = mean_of(one), mean_of(copies)
    for kind in ("these", "kind"):
        assert getattr(many, kind).error == pytest.approx(getattr(few, kind).error, rel=1e-9)
        assert getattr(many, kind).df == pytest.approx(getattr(few, kind).df, rel=1e-6)


def test_a_model_counts_once_however_many_runs_it_has() -> None:
    mean = mean_of([effect("a", "q", 0.1, 0.01), *(effect("b", f"q{at}", 0.0, 0.01) for at in range(9))])
    assert mean.value == pytest.approx(0.05)


def test_the_same_pictures_are_the_same_groups_in_all_records() -> None:
    """Errors that two runs share do not average out; those that they do not share do."""
    alike = [replace(effect("a", "q", 0.01, 0.004), model=model, full=model) for model in "ab"]
    apart = [effect(model, "q", 0.01, 0.004) for model in "ab"]
    shared, own = mean_of(alike).these, mean_of(apart).these
    assert shared is not None
    assert own is not None
    assert shared.error == pytest.approx(0.004, rel=1e-6)
    assert own.error < 0.9 * shared.error


def test_the_added_flips_of_full_precision_stay_however_many_runs_share_it() -> None:
    still = [
        replace(e, now=Measured(0.5, np.full(GROUPS, 0.5), 1e-6), before=Measured(0.5, np.full(GROUPS, 0.5), 1e-6))
        for e in some(1, 50)
    ]
    found = mean_of(still).these
    assert found is not None
    assert found.error**2 == pytest.approx(1e-6 + 1e-6 / 50)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.sampled_from("uvw")), min_size=1, max_size=30)
)
def test_nested_weights_are_means_of_means(rows: list[tuple[str, str, str]]) -> None:
    values = np.arange(len(rows), dtype=np.float64) ** 1.5

    def mean(chosen: list[int], level: int) -> float:
        if level == 3:
            return float(np.mean([values[at] for at in chosen]))
        labels = dict.fromkeys(rows[at][level] for at in chosen)
        return float(np.mean([mean([at for at in chosen if rows[at][level] == label], level + 1) for label in labels]))

    weights = nested(*zip(*rows, strict=True))
    assert weights @ values == pytest.approx(mean(list(range(len(rows))), 0))
    assert weights.sum() == pytest.approx(1.0)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(12)))
def test_the_order_of_the_runs_does_not_matter(order: list[int]) -> None:
    effects = some(4, 3, 1e-7)
    first, second = mean_of(effects), mean_of([effects[at] for at in order])
    assert first.kind is not None
    assert second.kind is not None
    assert second.value == pytest.approx(first.value, abs=1e-12)
    assert (second.kind.error, second.kind.df) == pytest.approx((first.kind.error, first.kind.df), rel=1e-9)


def test_what_does_not_vary_has_no_interval() -> None:
    still = [replace(e, now=e.before) for e in some(3, 1)]
    mean = mean_of(still)
    assert (mean.value, mean.these, mean.kind) == (0.0, None, None)


def test_a_relative_change_of_nothing_is_none() -> None:
    stack = relative_changes([effect("a", "q", 0.1, 0.01, base=0.0), effect("a", "r", 0.1, 0.01)])
    assert math.isnan(stack.value[0])
    assert stack.value[1] == pytest.approx(0.2)


def test_without_an_interval_of_one_run_the_mean_has_none() -> None:
    effects = some(3, 2)
    effects[0] = replace(effects[0], now=Measured(0.5, np.full(GROUPS, np.nan)), reason="none")
    mean = mean_of(effects)
    assert math.isfinite(mean.value)
    assert (mean.these, mean.kind) == (None, None)


# --- what it would take ----------------------------------------------------------------------------------------------


def with_variances(models: int, of_images: float, of_models: float) -> Mean:
    return Mean(0.0, None, None, (models,), 1000, of_images, of_models)


@pytest.mark.parametrize(
    ("mean", "distance", "told"),
    [
        (with_variances(10, 1e-4, 0.0), 0.01, "about 7,900 images"),  # (2.8 * 0.01 / 0.01)^2 = 7.85 times
        (with_variances(1, 1e-4, 0.0), 0.01, "about 7,900 images"),
        (with_variances(10, 0.0, 1e-4), 0.01, "about 81 models"),
        (with_variances(10, 1e-4, 1e-3), 0.01, "about 1574 models and about 16,000 images"),
        (with_variances(10, 1e-4, 0.0), 0.0, ""),
        (with_variances(10, 1e-4, 0.0), 1e-9, ""),
    ],
)
def test_needed(mean: Mean, distance: float, told: str) -> None:
    assert needed(mean, distance) == told


@given(st.floats(1e-7, 1e-3), st.floats(0.0, 1e-3), st.floats(1e-3, 0.1), st.integers(3, 20))
def test_so_many_would_do(of_images: float, of_models: float, distance: float, models: int) -> None:
    """With what it says, the bound is 2.8 standard errors away."""
    words = needed(with_variances(models, of_images, of_models), distance).replace(",", "").split()
    if not words:
        return
    images = int(words[words.index("images") - 1]) if "images" in words else 1000
    count = int(words[words.index("models") - 1]) if "models" in words else models
    error = math.sqrt(of_images * 1000 / images + of_models * models / count)
    assert error * 2.8 <= distance * 1.01


# --- size ------------------------------------------------------------------------------------------------------------


def sweep(runs: int) -> Made:
    """Ten models under so many quantizations, eight evaluations each."""
    made = Made()
    kinds = {kind: (-0.01, 0.004) for kind in hypotheses.KINDS if "," not in kind}
    for model in TEN:
        for at in range(runs):
            put_kinds(made, model, f"hqq-w4-g{8 * (at + 1)}-vision", kinds)
            put_kinds(
                made, model, f"hqq-w4-g{8 * (at + 1)}-vision", {k: kinds[k] for k in ("auroc", "corruption")}, "e"
            )
    return made


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def test_time_grows_with_the_records_and_not_faster() -> None:
    """Ten times the records, ten times the time: no pairing of runs with runs. Twice that is allowed for noise."""
    small, large = sweep(4), sweep(40)
    few, many = (
        min(seconds(lambda made=made: hypotheses.examine(made.effects(), made.runs())) for _ in range(2))
        for made in (small, large)
    )
    assert many < 25 * few


def test_a_group_of_one_run_has_the_interval_of_that_run() -> None:
    made = made_of(TEN[:1], {W4: {"accuracy": -0.02}, W8: {"accuracy": 0.01}})
    effects = [replace(each, key="zero_shot/d/accuracy") for each in made.effects()]
    found = {mean.group: mean for mean in group_means(effects, made.runs(), ("bits",))}
    assert found["W4A8",].change.these is effects[0].alone
    assert [mean.runs for mean in found.values()] == [1, 1]
