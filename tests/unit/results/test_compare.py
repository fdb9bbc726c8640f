"""Comparison with full precision: pairing, the tasks' significance, what is stored, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark.metrics.bootstrap import Comparison
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import Banks, Columns, FeatureBank, Metric, NoOptions, Outcome, Summary, Task, task
from benchmark.errors import DataError, NonFiniteError, PluginError
from benchmark.ledger.records import Ledger, Record
from benchmark.plugins import paired, tasks
from benchmark.results.compare import NO_INTERVAL, Change, Comparer, adjust, compare, plain_significance
from benchmark.results.tables import headline_metrics
from benchmark.testing import make_bank
from tests.contract.test_tasks import BUILT_IN, banks_of
from tests.unit.trackers.test_trackers import finished

IDENTICAL = Comparison(0.0, 0.0, 0.0, 1.0)


def noisy(banks: Banks, scale: float = 0.12) -> Banks:
    """The same images through a model that is a little worse: the same noise for the same image, whatever its role."""

    def spoil(bank: FeatureBank) -> FeatureBank:
        rng = np.random.default_rng([len(bank), sum(bank.dataset.encode())])
        image = bank.image + scale * rng.standard_normal(bank.image.shape)
        return replace(bank, image=(image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float32))

    return replace(banks, by_role={role: [spoil(bank) for bank in banks.all(role)] for role in banks})


def outcomes(name: str, **fields: Any) -> tuple[Task, Outcome, Outcome]:
    """A task with the outcome of a worse model, comparison metrics included, and that of full precision."""
    banks, built_in = banks_of(name, **fields), tasks.get(name)
    reference = built_in.run(banks)
    return built_in, against(built_in, built_in.run(noisy(banks)), reference), reference


def against(built_in: Task, quantized: Outcome, reference: Outcome) -> Outcome:
    compared = built_in.run_comparison(quantized.columns, reference.columns, built_in.options())
    return with_metrics(quantized, {**quantized.metrics, **compared.metrics})


def with_metrics(outcome: Outcome, metrics: dict[str, float]) -> Outcome:
    return replace(outcome, summary=replace(outcome.summary, metrics=metrics))


@pytest.fixture(scope="module")
def evaluated() -> dict[str, tuple[Task, Outcome, Outcome]]:
    return {name: outcomes(name) for name in BUILT_IN}


@pytest.mark.parametrize("name", BUILT_IN)
def test_identical_models_do_not_differ(name: str) -> None:
    """Change 0, interval [0, 0], p = 1, no stars, for every metric."""
    built_in = tasks.get(name)
    outcome = built_in.run(banks_of(name))
    found = compare(built_in, against(built_in, outcome, outcome), outcome)
    comparisons = [value for value in found.values() if isinstance(value, Comparison)]
    assert comparisons
    assert all(value == IDENTICAL for value in comparisons)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_order_of_images_changes_nothing(name: str, evaluated: Any) -> None:
    """Not the last digit: also random draws follow the ids."""
    built_in, quantized, reference = evaluated[name]
    first = compare(built_in, quantized, reference)
    assert compare(built_in, shuffled(quantized, 1), shuffled(reference, 2)) == first


def shuffled(outcome: Outcome, seed: int) -> Outcome:
    rng = np.random.default_rng(seed)
    rows = {name: rng.permutation(len(group["sample_id"])) for name, group in outcome.columns.groups.items()}
    return replace(outcome, columns=outcome.columns.take(rows))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_metric_with_a_direction_has_an_interval_or_a_reason(name: str, evaluated: Any) -> None:
    built_in, quantized, reference = evaluated[name]
    found = compare(built_in, quantized, reference)
    for key in quantized.metrics:
        if built_in.metric(key).better != "neither" and key in {**reference.metrics, **found}:
            assert key in found, key
    for value in found.values():
        if isinstance(value, Comparison):
            assert value.low <= value.delta + 0.2
            assert value.low <= value.high
            assert 0.0 < value.p <= 1.0
            assert value.method


def test_a_worse_model_is_significantly_worse(evaluated: Any) -> None:
    built_in, quantized, reference = evaluated["zero_shot"]
    found = compare(built_in, quantized, reference)["accuracy"]
    assert isinstance(found, Comparison)
    assert found.delta == pytest.approx(quantized.metrics["accuracy"] - reference.metrics["accuracy"])
    assert found.high < 0.0
    assert found.p < 0.001
    flips = quantized.metrics["flips_wrong_to_right"] - quantized.metrics["flips_right_to_wrong"]
    assert found.delta == pytest.approx(flips)


BANK = make_bank(seed=3)
AWKWARD: dict[str, FeatureBank] = {
    "fewer images than bins": make_bank(samples=9),
    "one image": make_bank(samples=1),
    "one class present": replace(BANK, label=np.zeros_like(BANK.label)),
    "all right": make_bank(accuracy=1.0),
    "all wrong": make_bank(accuracy=0.0),
    "constant scores": replace(BANK, image=np.tile(BANK.image[:1], (len(BANK), 1))),
    "a single class": make_bank(classes=1),
    "a group with one image": replace(BANK, group=np.minimum(np.arange(len(BANK)), 1)),
}
ROLES = {
    "zero_shot": ("test",),
    "calibration": ("test", "fit"),
    "selective": ("test",),
    "spurious": ("common", "counter"),
    "covariate_shift": ("source", "shifted"),
    "ood": ("id", "ood"),
}


@pytest.mark.parametrize("case", AWKWARD)
@pytest.mark.parametrize("name", ROLES)
def test_awkward_data_gives_a_number_or_a_reason(name: str, case: str) -> None:
    """Single class, ties, all right, all wrong, N < bins: defined values, or a note, and no warning on the way."""
    built_in = tasks.get(name)
    banks = Banks({role: [replace(AWKWARD[case], dataset=role)] for role in ROLES[name]}, built_in.options())
    reference = built_in.run(banks)
    quantized = against(built_in, built_in.run(noisy(banks)), reference)
    for key, found in compare(built_in, quantized, reference).items():
        assert isinstance(found, str) or np.isfinite([found.delta, found.low, found.high, found.p]).all(), key


@pytest.mark.parametrize("name", ROLES)
def test_nan_features_are_an_error_that_says_where(name: str) -> None:
    image = BANK.image.copy()
    image[7, 3] = np.nan
    banks = Banks({role: [replace(BANK, image=image)] for role in ROLES[name]}, tasks.get(name).options())
    with pytest.raises(NonFiniteError, match="7"):
        tasks.get(name).run(banks)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_ood_with_few_and_constant_scores(size: int) -> None:
    known = make_bank(seed=1, samples=size)
    flat = replace(known, image=np.tile(known.image[:1], (size, 1)))
    other = make_bank(seed=7, samples=size, dataset="other")
    built_in = tasks.get("ood")
    options = built_in.options()
    reference = built_in.run(Banks({"id": [known], "ood": [other]}, options))
    quantized = built_in.run(Banks({"id": [flat], "ood": [replace(other, image=flat.image)]}, options))
    assert quantized.metrics["mcm/auroc"] == 0.5
    for key, found in compare(built_in, quantized, reference).items():
        assert isinstance(found, str) or np.isfinite([found.delta, found.low, found.high, found.p]).all(), key


# --- pairing -----------------------------------------------------------------------------------------------------


def simple(ids: list[str], correct: list[bool]) -> Outcome:
    hits = np.array(correct)
    samples = {"sample_id": np.array(ids), "correct": hits}
    return Outcome(Columns({"test": samples}), Summary({"accuracy": float(hits.mean())}))


def test_rows_are_paired_by_id() -> None:
    columns = simple(["b", "a", "c"], [True, False, True]), simple(["c", "b", "a"], [False, True, True])
    now, before = (each["test"] for each in paired(*(outcome.columns for outcome in columns)))
    assert now["sample_id"].tolist() == before["sample_id"].tolist() == ["a", "b", "c"]
    assert now["correct"].tolist() == [False, True, True]
    assert before["correct"].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "d"], r"'c' is in one of them only; evaluate both on the same data \(the same --limit"),
        (["a", "b"], "full precision has 3, the quantized model 2"),
        (["a", "b", "b"], "in one of them only"),
    ],
)
def test_other_images_are_refused(ids: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        paired(simple(ids, [True] * len(ids)).columns, simple(["a", "b", "c"], [True] * 3).columns)


def test_columns_of_other_samples_must_be_there_in_both() -> None:
    plain = simple(["a"], [True]).columns
    more = Columns({**plain.groups, "ood:x": {"sample_id": np.array(["x"]), "score": np.ones(1)}})
    with pytest.raises(DataError, match="only one of them has samples of 'ood:x'"):
        paired(more, plain)


# --- tasks that declare nothing, and tasks that declare nonsense -------------------------------------------------


def plugin(inference: Any = None) -> Task:
    @task("strange", version=1, needs=("test",), metrics=[Metric("accuracy", "higher"), Metric("loss", "lower")])
    def strange(banks: Banks, options: NoOptions) -> Columns:
        """Nothing."""
        return Columns({})

    strange.inference = inference
    return strange


def outcome_of(correct: list[bool], loss: list[float]) -> Outcome:
    hits, losses = np.array(correct), np.array(loss)
    samples = {"sample_id": np.arange(len(hits)).astype(str), "correct": hits, "loss": losses}
    metrics = {"accuracy": float(hits.mean()), "loss": float(losses.mean())}
    return Outcome(Columns({"test": samples}), Summary(metrics))


RIGHT = outcome_of([True, True, True, False], [0.1, 0.2, 0.3, 0.4])
WRONG = outcome_of([False, True, False, False], [0.5, 0.2, 0.9, 0.4])


def test_without_a_declaration_means_of_columns_are_compared() -> None:
    found = compare(plugin(), WRONG, RIGHT)
    assert found["accuracy"] == plain_significance(WRONG, RIGHT)["accuracy"]
    accuracy, loss = found["accuracy"], found["loss"]
    assert isinstance(accuracy, Comparison)
    assert isinstance(loss, Comparison)
    assert (accuracy.delta, accuracy.p) == (-0.5, 0.5)
    assert loss.delta == pytest.approx(0.25)


def test_a_column_that_is_not_the_metric_is_not_used() -> None:
    other = with_metrics(WRONG, {"accuracy": 0.9, "loss": 0.5})
    assert "accuracy" not in plain_significance(other, RIGHT)


@pytest.mark.parametrize(
    ("inference", "message"),
    [
        (lambda q, f: {"accuracy": 0.5}, "significance of 'accuracy' is a float"),
        (lambda q, f: {"speed": "none"}, "declares no metric 'speed'"),
        (lambda q, f: {"accuracy": Comparison(0.1, 0.0, 0.2, 0.5)}, "belongs to a change of 0.1, but .* by -0.5"),
        (lambda q, f: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_a_broken_declaration_is_a_plugin_error(inference: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        compare(plugin(inference), WRONG, RIGHT)


# --- records and what is stored ----------------------------------------------------------------------------------


def record(quantization: str, outcome: Outcome, **fields: Any) -> Record:
    metrics = {f"strange/data/{key}": value for key, value in outcome.metrics.items()}
    about = {"suite": "s", "model": "m", "task": "strange", "dataset": "data", "status": "done", "seconds": 0.0}
    return Record(**{**about, "key": quantization, "configuration": quantization, "quantization": quantization,
                     "metrics": metrics, **fields})  # fmt: skip


def test_comparisons_are_stored_and_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    base, quantized = record("fp32", RIGHT), record("rtn-w4-channel-vision", WRONG)
    ledger.append(base, RIGHT)
    ledger.append(quantized, WRONG)
    first = Comparer(tmp_path).changes(plugin(), quantized, base, ledger.outcome)

    def unread(_: Record) -> Outcome:
        raise AssertionError("the outcome is not needed")

    assert Comparer(tmp_path).changes(plugin(), quantized, base, unread) == first
    (stored,) = (tmp_path / "comparisons").rglob("meta.json")
    content = json.loads(stored.read_text())["info"]
    assert (content["seed"], content["level"]) == (0, 0.95)
    stored.write_text("{" + stored.read_text()[:40])
    comparer = Comparer(tmp_path)
    assert comparer.changes(plugin(), quantized, base, ledger.outcome) == first
    assert len(comparer.store.damaged) == 1
    assert [change.key for change in first] == ["strange/data/accuracy", "strange/data/loss"]
    assert [change.direction for change in first] == ["worse", "worse"]
    assert first[0].relative == pytest.approx(-2 / 3)


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    comparer = Comparer(tmp_path)
    by_key = {"fp32": RIGHT, "q": simple(["x"], [True])}
    (change, _) = comparer.changes(
        plugin(), record("q", WRONG, key="q"), record("fp32", RIGHT), lambda wanted: by_key[wanted.key]
    )
    assert change.p is None
    assert "cannot be paired" in change.reason
    assert list(comparer.failures) == ["m, q: strange/data"]
    assert not (tmp_path / "comparisons").exists()


def test_metrics_without_interval_say_so(tmp_path: Path) -> None:
    comparer = Comparer(tmp_path)
    changes = comparer.changes(plugin(lambda q, f: {}), record("q", WRONG), record("fp32", RIGHT), lambda r: RIGHT)
    assert {change.reason for change in changes} == {NO_INTERVAL}


def change(p: float | None, **fields: Any) -> Change:
    return Change(**{"model": "m", "quantization": "q", "configuration": "c", "key": "t/d/x", "better": "higher",
                     "value": 0.5, "reference": 0.6, "change": -0.1, "p": p, **fields})  # fmt: skip


def test_q_values_by_hand() -> None:
    found = adjust([change(0.01), change(None), change(0.04), change(0.0001)])
    assert [row.q for row in found] == pytest.approx([0.015, None, 0.04, 0.0003])
    assert [row.stars for row in found] == ["*", "", "*", "***"]
    assert adjust([]) == []


@given(st.floats(-1, 1), st.sampled_from(["higher", "lower", "neither"]))
@settings(max_examples=50)
def test_the_direction_follows_the_metric(delta: float, better: str) -> None:
    found = change(0.5, change=delta, better=better).direction
    mirrored = change(0.5, change=-delta, better=better).direction
    pairs = {"better": "worse", "worse": "better", "same": "same", "changed": "changed"}
    assert mirrored == pairs[found]
    assert (found == "same") == (delta == 0)
    assert (found == "better") == (delta != 0 and better == ("higher" if delta > 0 else "lower"))


def test_trackers_get_headline_changes_and_p_values() -> None:
    tested = change(0.03, key="zero_shot/scenes/accuracy", configuration="any")
    metrics = headline_metrics(finished("some", changes=(tested,)))
    assert metrics["zero_shot/scenes/accuracy"] == 0.75
    assert metrics["change/zero_shot/scenes/accuracy"] == -0.125
    assert metrics["p/zero_shot/scenes/accuracy"] == 0.03
    assert not [key for key in metrics if key.startswith("p/") and "deep" in key]
