"""The plugin interface: a task that breaks its promise is told which and how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmark import Banks, Metric, Outcome, Task, task
from benchmark.errors import DataError, PluginError, SpecError
from benchmark.spec import Frozen
from benchmark.testing import TaskContract, make_bank, shuffle

BANKS = Banks({"test": [make_bank(samples=20)]})


def task_that_returns(outcome: Any, **fields: Any) -> Task:
    """A task with one declared metric `x`."""

    @task("t", version=1, needs=("test",), metrics=[Metric("x", "higher"), Metric("y", "lower", unit="ratio")])
    def t(banks: Banks) -> Outcome:
        """Return what it was told."""
        return outcome  # type: ignore[no-any-return]

    return t


def test_the_decorator_makes_a_task() -> None:
    made = task_that_returns(Outcome({"x": 0.5}))
    assert isinstance(made, Task)
    assert made.summary == "Return what it was told."
    assert made.run(BANKS).metrics == {"x": 0.5}
    assert made.metric("a.dataset/deep/x").name == "x"
    assert dict(made.run_comparison(Outcome({}), Outcome({})).metrics) == {}


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Outcome({"z": 1.0}), "declares no metric 'z'"),
        (Outcome({"a/z": 1.0}), "declares no metric 'z'"),
        (Outcome({"x": float("nan")}), "'x' is nan"),
        (Outcome({"x": float("inf")}), "'x' is inf"),
        (Outcome({"x": None}), "'x' is None"),  # type: ignore[dict-item]
        (Outcome({"x": "0.5"}), "'x' is '0.5'"),  # type: ignore[dict-item]
        (Outcome({"x": np.array([0.5, 0.6])}), "'x' is"),  # type: ignore[dict-item]
        (Outcome({5: 0.5}), "5"),  # type: ignore[dict-item]
        (Outcome({"a b=c/x": 0.5}), "a b=c/x"),
        (Outcome({"a//x": 0.5}), "a//x"),
        (Outcome({"../x": 0.5}), "../x"),
        (Outcome({"/x": 0.5}), "/x"),
        (Outcome({"x": 0.5}, {"correct": np.zeros(3)}), "sample_id"),
        (Outcome({"x": 0.5}, {"sample_id": np.zeros(3), "correct": np.zeros(4)}), "'correct' has 4 rows, its ids 3"),
        (
            Outcome({"x": 0.5}, {"sample_id": np.zeros(3), "c": np.zeros(3), "c.sample_id": np.zeros(2)}),
            "'c' has 3 rows, its ids 2",
        ),
        (Outcome({"x": 0.5}, {"sample_id": np.zeros(3), "correct": np.array(1.0)}), "'correct'"),
        (Outcome({"x": 0.5}, {"sample_id": np.array(3), "correct": np.zeros(3)}), "'sample_id'"),
        ({"x": 0.5}, "returned a dict, expected an Outcome"),
        (None, "returned a NoneType"),
    ],
    ids=str,
)
def test_a_broken_promise_is_named(outcome: Any, says: str) -> None:
    with pytest.raises(PluginError) as caught:
        task_that_returns(outcome).run(BANKS)
    assert says in str(caught.value)
    assert "task 't'" in str(caught.value)


def test_comparisons_are_checked_likewise() -> None:
    made = task_that_returns(Outcome({"x": 0.5}))
    made.compare(lambda quantized, reference: Outcome({"y": float("nan")}))
    with pytest.raises(PluginError, match="'y' is nan"):
        made.run_comparison(Outcome({}), Outcome({}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Bad Name"}, "lower-case"),
        ({"name": "a/b"}, "lower-case"),
        ({"name": ""}, "lower-case"),
        ({"version": 0}, "version"),
        ({"needs": ()}, "role"),
        ({"needs": "test"}, "needs"),
        ({"optional": "fit"}, "optional"),
        ({"needs": ("options",)}, "options"),
        ({"needs": ("test",), "optional": ("test",)}, "twice"),
        ({"metrics": ()}, "metric"),
        ({"metrics": [Metric("x", "higher"), Metric("x", "lower")]}, "twice"),
    ],
    ids=str,
)
def test_a_bad_declaration_is_refused(changes: dict[str, Any], says: str) -> None:
    fields = {"name": "t", "version": 1, "needs": ("test",), "metrics": [Metric("x", "higher")], **changes}
    with pytest.raises(PluginError) as caught:
        task(fields.pop("name"), **fields)(lambda banks: Outcome({"x": 1.0}))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "better", "says"),
    [("a/b", "higher", "a/b"), ("acc@1", "higher", "acc@1"), ("", "higher", "metric name"), ("x", "bigger", "bigger")],
)
def test_a_bad_metric_is_refused(name: str, better: Any, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        Metric(name, better)


def test_options_are_validated() -> None:
    class Options(Frozen):
        k: int = 5

    made = task("t", version=1, needs=("test",), metrics=[Metric("x", "higher")], options=Options)(
        lambda banks: Outcome({"x": float(banks.options.k)})
    )
    assert made.parse_options({"k": 3}, "here") == Options(k=3)
    with pytest.raises(SpecError, match=r"here: kk: unknown field 'kk'\. Did you mean 'k'\?|here: kk: unknown field"):
        made.parse_options({"kk": 3}, "here")
    with pytest.raises(SpecError, match=r"here: k: .*got 'three'"):
        made.parse_options({"k": "three"}, "here")
    with pytest.raises(SpecError, match="k"):
        task_that_returns(Outcome({})).parse_options({"k": 3}, "here")


def test_roles_hold_one_bank_or_several() -> None:
    a, b = make_bank(seed=1, samples=5), make_bank(seed=2, samples=6)
    banks = Banks({"one": [a], "two": [a, b]})
    assert banks["one"] is a
    assert banks.all("two") == [a, b]
    assert "one" in banks
    assert "three" not in banks
    assert list(banks) == ["one", "two"]
    with pytest.raises(SpecError, match="role 'two' takes one data set, 2 are bound"):
        banks["two"]
    with pytest.raises(SpecError, match="role 'three' is not bound; bound are: one, two"):
        banks["three"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label": np.zeros(4, np.int64)}, "label has 4 rows, image has 5"),
        ({"sample_id": np.array(["a"])}, "sample_id has 1 rows"),
        ({"group": np.zeros(6, np.int64)}, "group has 6 rows"),
        ({"image": np.zeros((0, 8), np.float32)}, "rows|empty"),
        ({"class_names": ("a",)}, "1 class names for 8 class weights"),
        ({"label": np.array([0, 1, 2, 3, 8])}, "label 8 is outside its 8 classes"),
        ({"label": np.array([0, 1, 2, 3, -2])}, "label -2"),
    ],
    ids=str,
)
def test_a_bank_that_does_not_fit_together(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        make_bank(samples=5, dimension=8, **changes)


def test_an_empty_bank_is_said() -> None:
    empty = {"image": np.zeros((0, 8), np.float32), "label": np.zeros(0, np.int64), "sample_id": np.array([], np.str_)}
    with pytest.raises(DataError, match="'synthetic' is empty"):
        make_bank(samples=5, dimension=8, **empty)


def test_synthetic_banks_have_the_accuracy_they_promise() -> None:
    for share in (0.0, 0.25, 1.0):
        bank = make_bank(samples=40, accuracy=share)
        assert (bank.cosines().argmax(axis=1) == bank.label).mean() == share
    np.testing.assert_allclose(np.linalg.norm(make_bank().image, axis=1), 1.0, atol=1e-6)


def test_taking_rows_keeps_columns_together() -> None:
    bank = make_bank(samples=9, group=np.arange(9), taps={"local": np.arange(9.0)[:, None]})
    part = bank.take(np.array([7, 2]))
    assert part.sample_id.tolist() == ["synthetic/00007", "synthetic/00002"]
    assert part.group is not None
    assert part.group.tolist() == [7, 2]
    assert part.taps["local"][:, 0].tolist() == [7, 2]
    np.testing.assert_array_equal(part.image, bank.image[[7, 2]])
    assert bank.take(bank.label == bank.label[0]).label.tolist() == [bank.label[0]] * int(
        (bank.label == bank.label[0]).sum()
    )


def contract_of(made: Task, banks: Banks = BANKS) -> TaskContract:
    """The contract's checks of a task."""
    return type("Contract", (TaskContract,), {"task": made, "banks": banks})()  # type: ignore[no-any-return]


def first_only(banks: Banks) -> Outcome:
    """Depends on the order."""
    return Outcome({"x": float(banks["test"].image[0, 0])})


def writes(banks: Banks) -> Outcome:
    """Changes its banks."""
    banks["test"].image[:] *= 2.0
    return Outcome({"x": 1.0})


def drifts(banks: Banks) -> Outcome:
    """Another number each time."""
    return Outcome({"x": float(np.random.default_rng().random())})


def nothing(banks: Banks) -> Outcome:
    """No metric."""
    return Outcome({})


def undocumented(banks: Banks) -> Outcome:
    return Outcome({"x": 1.0})


@pytest.mark.parametrize(
    ("function", "check"),
    [
        (first_only, "test_does_not_depend_on_the_order_of_samples"),
        (writes, "test_leaves_its_banks_alone"),
        (drifts, "test_is_deterministic"),
        (nothing, "test_metrics_are_finite_and_declared"),
        (undocumented, "test_has_a_docstring"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_contract_catches(function: Any, check: str) -> None:
    """Each check of the contract fails on a task made to break it."""
    made = task("t", version=1, needs=("test",), metrics=[Metric("x", "higher")])(function)
    banks = Banks({"test": [make_bank(samples=20)]})
    with pytest.raises(AssertionError):
        getattr(contract_of(made, banks), check)()


def test_the_contract_catches_a_model_that_differs_from_itself() -> None:
    made = task_that_returns(Outcome({"x": 0.5}))
    made.compare(lambda quantized, reference: Outcome({"y": 0.9}))
    with pytest.raises(AssertionError):
        contract_of(made).test_identical_models_do_not_differ()


def test_shuffling_moves_rows_and_nothing_else() -> None:
    bank = make_bank(samples=50)
    moved = shuffle(Banks({"test": [bank]}), seed=1)["test"]
    assert moved.sample_id.tolist() != bank.sample_id.tolist()
    order = np.argsort(moved.sample_id)
    np.testing.assert_array_equal(moved.image[order], bank.image)
    np.testing.assert_array_equal(moved.label[order], bank.label)


@pytest.mark.parametrize("field", ["classes", "same_classes", "shared_classes"])
def test_label_spaces_are_declared_for_its_own_roles(field: str) -> None:
    with pytest.raises(PluginError, match="declares the classes of 'fit', which is none of its roles"):
        task("t", version=1, needs=("test",), metrics=[Metric("x", "higher")], **{field: ("fit",)})(
            lambda _: Outcome({})
        )
    with pytest.raises(PluginError, match=f"{field}='test' is text"):
        task("t", version=1, needs=("test",), metrics=[Metric("x", "higher")], **{field: "test"})(lambda _: Outcome({}))
