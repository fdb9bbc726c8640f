"""Comparison with full precision: pairing, intervals, what is stored, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from benchmark import Answers, Banks, Columns, Errors, FeatureBank, Metric, NoOptions, Outcome, Summary, Task, task
from benchmark.errors import DataError, NonFiniteError, PluginError
from benchmark.ledger.records import Ledger, Record
from benchmark.metrics.uncertainty import PROPORTIONS, Estimate
from benchmark.plugins import paired, tasks
from benchmark.results.compare import Change, Comparer, adjust, compare
from benchmark.results.evidence import gather, pack, unpack
from benchmark.results.tables import headline_metrics
from benchmark.testing import make_bank
from tests.contract.test_tasks import BUILT_IN, banks_of
from tests.unit.trackers.test_trackers import finished


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
def test_identical_models_are_not_told_apart(name: str) -> None:
    """Shares of right answers keep an interval around 0; what does not vary has a reason and no interval."""
    built_in = tasks.get(name)
    outcome = built_in.run(banks_of(name))
    found = compare(built_in, outcome, outcome)
    assert found
    for key, each in found.items():
        if isinstance(each, Estimate):
            low, high = each.interval()
            assert low < each.value == 0.0 < high, key
            assert each.p > 0.9
        else:
            assert each, key


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_order_of_images_changes_nothing(name: str, evaluated: Any) -> None:
    built_in, quantized, reference = evaluated[name]
    first = compare(built_in, quantized, reference)
    again = compare(built_in, shuffled(quantized, 1), shuffled(reference, 2))
    assert again.keys() == first.keys()
    for key, each in first.items():
        other = again[key]
        if isinstance(each, Estimate):
            assert isinstance(other, Estimate)
            assert other.interval() == pytest.approx(each.interval(), rel=1e-9, abs=1e-12), key
        else:
            assert other == each


def shuffled(outcome: Outcome, seed: int) -> Outcome:
    rng = np.random.default_rng(seed)
    rows = {name: rng.permutation(len(group["sample_id"])) for name, group in outcome.columns.groups.items()}
    return replace(outcome, columns=outcome.columns.take(rows))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_metric_has_an_interval_with_width_or_a_reason(name: str, evaluated: Any) -> None:
    built_in, quantized, reference = evaluated[name]
    found = compare(built_in, quantized, reference)
    assert found.keys() == quantized.metrics.keys() & {**reference.metrics, **found}.keys()
    assert any(isinstance(each, Estimate) for each in found.values())
    for key, each in found.items():
        if isinstance(each, Estimate):
            low, high = each.interval()
            assert low < high, key
            assert 0.0 <= each.p <= 1.0
            assert each.value == pytest.approx(quantized.metrics[key] - reference.metrics.get(key, 0.0), abs=1e-12) or (
                built_in.metric(key).neutral is not None
            )
        else:
            assert each


def test_a_worse_model_is_significantly_worse(evaluated: Any) -> None:
    built_in, quantized, reference = evaluated["zero_shot"]
    found = compare(built_in, quantized, reference)["accuracy"]
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(quantized.metrics["accuracy"] - reference.metrics["accuracy"])
    assert found.interval()[1] < 0.0
    assert found.p < 0.001
    assert found.method == PROPORTIONS
    flips = quantized.metrics["flips_wrong_to_right"] - quantized.metrics["flips_right_to_wrong"]
    assert found.value == pytest.approx(flips)


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
        assert isinstance(found, str) or np.isfinite([found.value, *found.interval(), found.p]).all(), key


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
        assert isinstance(found, str) or np.isfinite([found.value, *found.interval(), found.p]).all(), key


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


def plugin(errors: Any = None) -> Task:
    @task("strange", version=1, needs=("test",), metrics=[Metric("accuracy", "higher"), Metric("loss", "lower")])
    def strange(banks: Banks, options: NoOptions) -> Columns:
        """Nothing."""
        return Columns({})

    @strange.summarise
    def summarise(columns: Columns, options: NoOptions) -> Summary:
        test = columns["test"]
        return Summary({"accuracy": float(test["correct"].mean()), "loss": float(test["loss"].mean())})

    if errors:
        strange.errors(errors)
    return strange


def outcome_of(correct: list[bool], loss: list[float]) -> Outcome:
    hits, losses = np.array(correct), np.array(loss)
    samples = {"sample_id": np.arange(len(hits)).astype(str), "correct": hits, "loss": losses}
    metrics = {"accuracy": float(hits.mean()), "loss": float(losses.mean())}
    return Outcome(Columns({"test": samples}), Summary(metrics))


RIGHT = outcome_of([True, True, True, False] * 5, [0.1, 0.2, 0.3, 0.4] * 5)
WRONG = outcome_of([False, True, False, False] * 5, [0.5, 0.2, 0.9, 0.4] * 5)


def test_a_task_without_any_statistics_has_intervals() -> None:
    """The share of right answers counts flips; the mean of a column has replicates."""
    found = compare(plugin(), WRONG, RIGHT)
    accuracy, loss = found["accuracy"], found["loss"]
    assert isinstance(accuracy, Estimate)
    assert isinstance(loss, Estimate)
    assert accuracy.method == PROPORTIONS
    assert accuracy.value == pytest.approx(-0.5)
    assert loss.value == pytest.approx(0.25)
    difference = WRONG.columns["test"]["loss"] - RIGHT.columns["test"]["loss"]
    assert loss.error == pytest.approx(difference.std() / np.sqrt(20), rel=0.3)


def test_a_column_that_is_not_the_metric_is_not_used() -> None:
    other = with_metrics(WRONG, {"accuracy": 0.9, "loss": 0.5})
    found = compare(plugin(), other, RIGHT)["accuracy"]
    assert isinstance(found, str) or found.method != PROPORTIONS


def answers(right: Any) -> Any:
    return lambda c, o, g: Errors(answers={"accuracy": Answers("test", right)})


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (lambda c, o, g: {"accuracy": 0.5}, "errors returned a dict, expected Errors"),
        (lambda c, o, g: Errors(replicates={"loss": np.zeros(5)}), r"replicates of 'loss' have shape \(5,\)"),
        (answers(np.ones(3, bool)), "answers of 'accuracy' are not one bool for each row of 'test'"),
        (answers(np.ones(20)), "answers of 'accuracy' are not one bool for each row of 'test'"),
        (lambda c, o, g: Errors(slack={"loss": -1.0}), "slack of 'loss' is -1.0"),
        (lambda c, o, g: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_a_broken_declaration_is_a_plugin_error(errors: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        compare(plugin(errors), WRONG, RIGHT)


# --- records and what is stored ----------------------------------------------------------------------------------


def record(quantization: str, outcome: Outcome, **fields: Any) -> Record:
    metrics = {f"strange/data/{key}": value for key, value in outcome.metrics.items()}
    about = {"suite": "s", "model": "m", "task": "strange", "dataset": "data", "status": "done", "seconds": 0.0}
    return Record(**{**about, "key": quantization, "configuration": quantization, "quantization": quantization,
                     "metrics": metrics, **fields})  # fmt: skip


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> Task:
    """The plugin, installed."""
    own, known = plugin(), tasks.get
    monkeypatch.setattr(type(tasks), "get", lambda self, name: own if name == "strange" else known(name))
    return own


def written(home: Path, task: Task, *pairs: tuple[str, Outcome]) -> tuple[Ledger, list[Record]]:
    ledger = Ledger(home)
    for name, outcome in pairs:
        ledger.append(record(name, outcome), outcome, pack(gather(task, outcome, NoOptions())))
    return ledger, [ledger.records[name] for name, _ in pairs]


def test_evidence_survives_its_file(tmp_path: Path) -> None:
    evidence = gather(plugin(), WRONG, NoOptions())
    again = unpack(pack(evidence))
    assert again.reasons == evidence.reasons
    assert (again.images, again.samples) == (20, evidence.samples)
    np.testing.assert_array_equal(again.occupied, evidence.occupied)
    np.testing.assert_array_equal(again.answers["accuracy"], evidence.answers["accuracy"])
    for key, each in evidence.measured.items():
        np.testing.assert_array_equal(again.measured[key].replicates, each.replicates)
        assert (again.measured[key].value, again.measured[key].slack) == (each.value, each.slack)


@pytest.mark.parametrize("damage", ["none", "changed", "missing"])
def test_changes_come_from_stored_replicates_or_from_the_columns(tmp_path: Path, strange: Task, damage: str) -> None:
    ledger, (base, quantized) = written(tmp_path, strange, ("fp32", RIGHT), ("rtn-w4-channel-vision", WRONG))
    expected = compare(strange, WRONG, RIGHT)
    (tmp_path / "samples").rename(tmp_path / "elsewhere") if damage == "none" else None
    for path in (tmp_path / "replicates").rglob("*.npz") if damage != "none" else ():
        path.write_bytes(path.read_bytes()[:-5]) if damage == "changed" else path.unlink()
    changes = Comparer(ledger).changes(quantized, base)
    assert [change.key for change in changes] == ["strange/data/accuracy", "strange/data/loss"]
    assert [change.direction for change in changes] == ["worse", "worse"]
    assert [change.images for change in changes] == [20, 20]
    for change in changes:
        found = expected[change.key.rsplit("/", 1)[1]]
        assert isinstance(found, Estimate)
        assert (change.low, change.high) == pytest.approx(found.interval())
        assert change.p == pytest.approx(found.p)
    assert len(ledger.mended) == (0 if damage == "none" else 2)
    again = Ledger(tmp_path)
    assert Comparer(again).changes(quantized, base) == changes
    assert again.mended == [], "the files are whole again"
    assert changes[0].relative == pytest.approx(-2 / 3)


def test_lost_replicates_of_a_comparison_are_made_again(tmp_path: Path, evaluated: Any) -> None:
    built_in, quantized, reference = evaluated["spurious"]
    ledger, options = Ledger(tmp_path), built_in.options()
    for name, outcome in (("fp32", reference), ("q", quantized)):
        metrics = {f"spurious/data/{key}": value for key, value in outcome.metrics.items()}
        ledger.append(record(name, outcome, task="spurious", metrics=metrics, comparison_key="pair"), outcome)
    found = {change.key: change for change in Comparer(ledger).changes(ledger.records["q"], ledger.records["fp32"])}
    expected = compare(built_in, quantized, reference, options)["delta_rsg"]
    assert isinstance(expected, Estimate)
    assert found["spurious/data/delta_rsg"].estimate == expected


def test_what_cannot_be_compared_says_why(tmp_path: Path, strange: Task) -> None:
    other = outcome_of([True, False], [0.1, 0.2])
    ledger, (base, quantized) = written(tmp_path, strange, ("fp32", RIGHT), ("q", other))
    comparer = Comparer(ledger)
    (change, _) = comparer.changes(quantized, base)
    assert change.p is None
    assert "full precision has 20 images, the quantized model 2" in change.reason
    assert list(comparer.failures) == ["m, q: strange/data"]


def with_p(p: float) -> Estimate:
    center = float(norm.isf(p / 2))
    return Estimate(center, 1.0, math.inf, center)


def change(p: float | None, **fields: Any) -> Change:
    return Change(**{"model": "m", "quantization": "q", "configuration": "c", "key": "t/d/x", "better": "higher",
                     "value": 0.5, "reference": 0.6, "change": -0.1,
                     "estimate": None if p is None else with_p(p), **fields})  # fmt: skip


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
    assert metrics["p/zero_shot/scenes/accuracy"] == pytest.approx(0.03)
    assert not [key for key in metrics if key.startswith("p/") and "deep" in key]
