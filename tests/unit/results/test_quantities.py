"""Contrasts, differences between groups of models, shares and existence against references written another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmark.metrics.uncertainty import GROUPS, estimate
from benchmark.results.effects import Effect
from benchmark.results.groups import Run
from benchmark.results.hypotheses import FOUR
from benchmark.results.quantities import (
    ONE_SIDED,
    Found,
    all_at_once,
    average,
    between,
    contrast,
    each_run,
    frame_of,
    share,
)
from tests.ledgers import CONVNETS, LAION, TEN, W4, W8, WIT, Made, put_kinds

TENSOR4, TENSOR8 = "rtn-w4a8-tensor-tensor-vision", "rtn-w8a8-tensor-tensor-vision"


def four(run: Run) -> bool:
    return run.spec.weight_bits == 4


def eight(run: Run) -> bool:
    return run.spec.weight_bits == 8


def but_bits(run: Run) -> object:
    return run.spec.model_copy(update={"weight_bits": None})


def is_convnet(run: Run) -> bool:
    return run.facts.architecture == "convnet"


def is_transformer(run: Run) -> bool:
    return run.facts.architecture == "transformer"


def drawn(models: tuple[str, ...], names: tuple[str, ...], kinds: tuple[str, ...], seed: int = 0) -> Made:
    rng, made = np.random.default_rng(seed), Made()
    for model in models:
        for name in names:
            put_kinds(made, model, name, {kind: (float(0.02 * rng.standard_normal()), 0.004) for kind in kinds})
    return made


def found(measured: Found | str) -> Found:
    assert isinstance(measured, Found), measured
    return measured


def by_name(effects: list[Effect]) -> dict[tuple[str, str, str], Effect]:
    return {(each.model, each.quantization, each.key): each for each in effects}


def test_a_contrast_is_what_the_one_mechanism_says_of_it_as_a_function() -> None:
    """One model: full precision's error drops out, as the function does not know it."""
    made = drawn(WIT[:1], (W4, W8, TENSOR4, TENSOR8), ("rsg",))
    effects = by_name(made.effects())
    own = [effects[WIT[0], name, "rsg"].now for name in (W4, W8, TENSOR4, TENSOR8)]
    reference = estimate(lambda a, b, c, d: (a - b + c - d) / 2, *own, occupied=GROUPS)
    assert reference is not None
    seen = found(contrast(frame_of(made.effects(), made.runs()), {"rsg": 1.0}, "", (four, eight), but_bits))
    assert seen.value == pytest.approx(reference.value, abs=1e-12)
    assert (seen.low, seen.high) == pytest.approx(reference.interval(), abs=1e-9)


def test_a_contrast_leaves_out_what_only_one_side_has() -> None:
    made = drawn(TEN[:4], (W4, W8), ("rsg",))
    whole = found(contrast(frame_of(made.effects(), made.runs()), {"rsg": 1.0}, "", (four, eight), but_bits))
    put_kinds(made, TEN[0], TENSOR4, {"rsg": (0.9, 0.004)})
    put_kinds(made, TEN[5], W8, {"rsg": (0.9, 0.004)})
    again = found(contrast(frame_of(made.effects(), made.runs()), {"rsg": 1.0}, "", (four, eight), but_bits))
    assert (again.value, again.low, again.high) == pytest.approx((whole.value, whole.low, whole.high))
    assert again.models == whole.models == (4,)


def test_groups_of_models_differ_by_welchs_interval_where_pictures_bring_nothing() -> None:
    """Without an error over pictures the interval is that of Welch's t test between the models' means."""
    rng, made = np.random.default_rng(3), Made()
    values = {model: float(0.03 * rng.standard_normal()) for model in (*CONVNETS, *LAION, *WIT)}
    for model, value in values.items():
        put_kinds(made, model, W4, {"ece": (value, 1e-9)})
    seen = found(
        between(frame_of(made.effects(), made.runs()), {"ece": 1.0}, "", (is_convnet, is_transformer), ("a", "b"))
    )
    sides = [[values[model] for model in names] for names in (CONVNETS, (*LAION, *WIT))]
    reference = stats.ttest_ind(*sides, equal_var=False).confidence_interval()
    assert seen.value == pytest.approx(np.mean(sides[0]) - np.mean(sides[1]), abs=1e-9)
    assert (seen.low, seen.high) == pytest.approx((reference.low, reference.high), rel=1e-5)
    assert seen.models == (3, 6)


def test_terms_are_added_over_the_runs_that_have_all_of_them() -> None:
    made = drawn(TEN, (W4, W8), tuple(FOUR))
    put_kinds(made, TEN[0], TENSOR4, {"accuracy": (0.9, 0.004)})
    effects = by_name(made.effects())
    seen = found(average(frame_of(made.effects(), made.runs()), FOUR, ""))
    expected = np.mean(
        [
            sum(
                factor * (effects[model, name, kind].now.value - effects[model, name, kind].before.value)
                for kind, factor in FOUR.items()
            )
            for model in TEN
            for name in (W4, W8)
        ]
    )
    assert seen.value == pytest.approx(expected, abs=1e-12)


def test_existence_is_holms_procedure_over_the_largest_p_of_each_run() -> None:
    made = Made()
    rng = np.random.default_rng(1)
    for model in TEN:
        for name in (W4, W8, TENSOR4):
            size = float(rng.uniform(0.005, 0.02))
            put_kinds(made, model, name, {kind: (factor * size, 0.004) for kind, factor in FOUR.items()})
    frame = frame_of(made.effects(), made.runs())
    largest = {}
    for name in {frame.name(row) for row in range(len(frame.effects))}:
        p = []
        for kind, factor in FOUR.items():
            known = each_run(frame, kind, factor)[name]
            assert known is not None
            p.append(float(stats.t.sf(known.value / known.error, known.df)))
        largest[name] = max(p)
    rejected, adjusted, _, _ = multipletests(list(largest.values()), ONE_SIDED, method="holm")
    shown = all_at_once(frame, FOUR)
    assert shown is not None
    assert 0 < sum(rejected) < len(rejected)
    assert set(shown.shown) == {name for name, yes in zip(largest, rejected, strict=True) if yes}
    assert shown.p == pytest.approx(min(adjusted), rel=1e-9)
    assert shown.tested == len(shown.better) == 30


def test_a_share_is_a_mean_of_models_shares() -> None:
    """Shares 1/4, 2/4, 3/4 with known directions: the interval is of five weighted values, two of them half ones."""
    made = Made()
    for model, better in zip(WIT, (1, 2, 3), strict=True):
        for at, name in enumerate((W4, W8, TENSOR4, TENSOR8)):
            put_kinds(made, model, name, {"ece": (-0.05 if at < better else 0.05, 0.001)})
    seen = found(share(frame_of(made.effects(), made.runs()), "ece", -1.0, ""))
    assert (seen.value, seen.models) == (0.5, (3,))
    values, weights = np.array([0.25, 0.5, 0.75, 0.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.5, 0.5])
    variance = np.cov(values, aweights=None, fweights=(2 * weights).astype(int), ddof=0) * 4 / 3
    half = stats.t.ppf(0.975, 3) * math.sqrt(float(variance) / 4)
    assert (seen.low, seen.high) == pytest.approx((max(0.5 - half, 0.0), min(0.5 + half, 1.0)))


@pytest.mark.parametrize("error", [0.05, 1.0])
def test_what_is_not_known_widens_a_share(error: float) -> None:
    made = Made()
    for model in TEN:
        for name in (W4, W8):
            put_kinds(made, model, name, {"ece": (-0.01, error)})
    seen = found(share(frame_of(made.effects(), made.runs()), "ece", -1.0, ""))
    assert seen.value == 1.0
    assert (seen.low, seen.high) == (pytest.approx(0.0, abs=0.01), 1.0)
