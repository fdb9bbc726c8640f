"""The plugin interface: a task that breaks its promise is told which and how."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmark import Banks, Columns, Metric, NoOptions, Summary, Task, task
from benchmark.errors import DataError, PluginError, SpecError
from benchmark.spec import Frozen
from benchmark.testing import TaskContract, make_bank, shuffle

BANKS = Banks({"test": [make_bank(samples=20)]})
SEEN = Columns({"test": {"sample_id": np.array(["a", "b", "c"])}})


def task_that_returns(summary: Any, columns: Any = SEEN) -> Task:
    """A task with one declared metric `x`."""

    @task("t", version=1, needs=("test",), metrics=[Metric("x", "higher"), Metric("y", "lower", unit="ratio")])
    def t(banks: Banks, options: NoOptions) -> Columns:
        """Return what it was told."""
        return columns  # type: ignore[no-any-return]

    t.summarise(lambda columns, options: summary)
    return t


def test_the_decorator_makes_a_task() -> None:
    made = task_that_returns(Summary({"x": 0.5}))
    assert isinstance(made, Task)
    assert made.title == "Return what it was told."
    assert made.run(BANKS).metrics == {"x": 0.5}
    assert made.metric("a.dataset/deep/x").name == "x"
    assert dict(made.run_comparison(SEEN, SEEN, NoOptions()).metrics) == {}


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Summary({"z": 1.0}), "declares no metric 'z'"),
        (Summary({"a/z": 1.0}), "declares no metric 'z'"),
        (Summary({"x": float("nan")}), "'x' is nan"),
        (Summary({"x": float("inf")}), "'x' is inf"),
        (Summary({"x": None}), "'x' is None"),  # type: ignore[dict-item]
        (Summary({"x": "0.5"}), "'x' is '0.5'"),  # type: ignore[dict-item]
        (Summary({"x": np.array([0.5, 0.6])}), "'x' is"),  # type: ignore[dict-item]
        (Summary({5: 0.5}), "5"),  # type: ignore[dict-item]
        (Summary({"a b=c/x": 0.5}), "a b=c/x"),
        (Summary({"a//x": 0.5}), "a//x"),
        (Summary({"../x": 0.5}), "../x"),
        (Summary({"/x": 0.5}), "/x"),
        ({"x": 0.5}, "returned a dict, expected a Summary"),
        (None, "returned a NoneType"),
    ],
    ids=str,
)
def test_a_broken_promise_is_named(outcome: Any, says: str) -> None:
    with pytest.raises(PluginError) as caught:
        task_that_returns(outcome).run(BANKS)
    assert says in str(caught.value)
    assert "task 't'" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (Columns({"a": {"correct": np.zeros(3)}}), "group 'a' has no column 'sample_id'"),
        (
            Columns({"a": {"sample_id": np.zeros(3), "correct": np.zeros(4)}}),
            "group 'a': column 'correct' has 4 rows, its ids 3",
        ),
        (Columns({"a": {"sample_id": np.zeros(3), "correct": np.array(1.0)}}), "column 'correct' is one value"),
        (Columns({"a": {"sample_id": np.array(3)}}), "column 'sample_id' is one value"),
        (Columns({"a|b": {"sample_id": np.zeros(3)}}), "'a|b'"),
        (Columns({"about": {"sample_id": np.zeros(3)}}), "'about'"),
        (Summary({"x": 0.5}), "returned a Summary, expected Columns"),
        (None, "returned a NoneType, expected Columns"),
    ],
    ids=str,
)
def test_broken_columns_are_named(columns: Any, says: str) -> None:
    with pytest.raises(PluginError) as caught:
        task_that_returns(Summary({"x": 0.5}), columns).run(BANKS)
    assert says in str(caught.value)
    assert "task 't'" in str(caught.value)


def test_a_task_without_summarise_says_what_is_missing() -> None:
    made = task("t", version=1, needs=("test",), metrics=[Metric("x", "higher")])(lambda banks, options: SEEN)
    with pytest.raises(PluginError, match="decorate a function with @t"):
        made.run(BANKS)


def test_columns_know_the_picture_behind_a_sample() -> None:
    """The bank's, where it has them; else each sample is its own."""
    assert SEEN["test"]["base_id"].tolist() == ["a", "b", "c"]
    bank = make_bank(samples=3, base_id=np.array(["p", "q", "p"]))
    assert bank.columns(x=np.arange(3))["base_id"].tolist() == ["p", "q", "p"]
    assert bank.take(np.array([2, 1])).columns()["base_id"].tolist() == ["p", "q"]
    assert make_bank(samples=2).columns()["base_id"].tolist() == ["synthetic/00000", "synthetic/00001"]
    few = SEEN.take({"test": np.array([True, False, True])})
    assert few["test"]["sample_id"].tolist() == ["a", "c"]
    assert few["test"]["base_id"].tolist() == ["a", "c"]


def test_margins_and_points_have_the_usual_defaults() -> None:
    """Two points and one of a fraction; a metric in another unit has what it declares."""
    assert (Metric("x", "higher").margin, Metric("x", "higher").point) == (0.02, 0.01)
    assert (Metric("x", "lower", margin=0.01).margin, Metric("x", "lower", unit="nats").margin) == (0.01, None)
    assert Metric("x", "lower", unit="nats", point=0.1).point == 0.1
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(PluginError, match=r"margin .* is not a positive number"):
            Metric("x", "higher", margin=wrong)


def test_a_plain_accuracy_is_of_a_role_that_the_task_has() -> None:
    metrics = [Metric("x", "higher", top1_of="tset")]
    with pytest.raises(PluginError, match="'x' is of a role it lacks: tset"):
        task("t", version=1, needs=("test",), metrics=metrics)(lambda banks, options: SEEN)


def test_comparisons_are_checked_likewise() -> None:
    made = task_that_returns(Summary({"x": 0.5}))
    made.compare(lambda quantized, reference, options: Summary({"y": float("nan")}))
    with pytest.raises(PluginError, match="'y' is nan"):
        made.run_comparison(SEEN, SEEN, NoOptions())


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
        task(fields.pop("name"), **fields)(lambda banks, options: SEEN)
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
        lambda banks, options: SEEN
    )
    assert made.parse_options({"k": 3}, "here") == Options(k=3)
    with pytest.raises(SpecError, match=r"here: kk: unknown field 'kk'\. Did you mean 'k'\?|here: kk: unknown field"):
        made.parse_options({"kk": 3}, "here")
    with pytest.raises(SpecError, match=r"here: k: .*got 'three'"):
        made.parse_options({"k": "three"}, "here")
    with pytest.raises(SpecError, match="k"):
        task_that_returns(Summary({})).parse_options({"k": 3}, "here")


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


def first_only(banks: Banks, options: NoOptions) -> Columns:
    """Depends on the order of the images."""
    bank = banks["test"]
    return Columns({"test": bank.columns(x=np.full(len(bank), bank.image[0, 0]))})


def writes(banks: Banks, options: NoOptions) -> Columns:
    """Changes its banks."""
    banks["test"].image[:] *= 2.0
    return SEEN_X


def drifts(banks: Banks, options: NoOptions) -> Columns:
    """Other columns each time."""
    return Columns({"test": banks["test"].columns(x=np.random.default_rng().random(len(banks["test"])))})


def honest(banks: Banks, options: NoOptions) -> Columns:
    """One number a sample."""
    return Columns({"test": banks["test"].columns(x=banks["test"].image[:, 0])})


def forgets(banks: Banks, options: NoOptions) -> Columns:
    """Makes up pictures of its own."""
    return Columns({"test": {"sample_id": np.char.add("z", banks["test"].sample_id), "x": banks["test"].image[:, 0]}})


def total(banks: Banks, options: NoOptions) -> Columns:
    """Sees all images in each row."""
    bank = banks["test"]
    return Columns({"test": bank.columns(x=np.full(len(bank), bank.image.sum()))})


def undocumented(banks: Banks, options: NoOptions) -> Columns:
    return SEEN_X


SEEN_X = Columns({"test": {"sample_id": np.array(["a", "b"]), "x": np.array([0.5, 1.0])}})


def mean(columns: Columns, options: NoOptions) -> Summary:
    return Summary({"x": float(columns["test"]["x"].mean())})


def first_row(columns: Columns, options: NoOptions) -> Summary:
    return Summary({"x": float(columns["test"]["x"][0])})


def writes_columns(columns: Columns, options: NoOptions) -> Summary:
    columns["test"]["x"][:] = 0.0
    return Summary({"x": 0.0})


def random_summary(columns: Columns, options: NoOptions) -> Summary:
    return Summary({"x": float(np.random.default_rng().random())})


def nothing(columns: Columns, options: NoOptions) -> Summary:
    return Summary({})


@pytest.mark.parametrize(
    ("observe", "summarise", "check"),
    [
        (first_only, mean, "test_does_not_depend_on_the_order_of_samples"),
        (honest, first_row, "test_does_not_depend_on_the_order_of_rows"),
        (writes, mean, "test_leaves_its_banks_alone"),
        (honest, writes_columns, "test_takes_columns_that_cannot_be_written"),
        (drifts, nothing, "test_is_deterministic"),
        (honest, random_summary, "test_is_deterministic"),
        (honest, nothing, "test_metrics_are_finite_and_declared"),
        (honest, nothing, "test_half_of_the_samples_is_enough"),
        (forgets, mean, "test_every_sample_has_its_picture"),
        (total, mean, "test_a_picture_can_be_left_out"),
        (undocumented, mean, "test_has_a_docstring"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_contract_catches(observe: Any, summarise: Any, check: str) -> None:
    """Each check of the contract fails on a task made to break it."""
    made = task("t", version=1, needs=("test",), metrics=[Metric("x", "higher")])(observe)
    made.summarise(summarise)
    banks = Banks({"test": [make_bank(samples=20)]})
    with pytest.raises((AssertionError, ValueError)):
        getattr(contract_of(made, banks), check)()


def test_the_contract_catches_a_model_that_differs_from_itself() -> None:
    made = task_that_returns(Summary({"x": 0.5}))
    made.compare(lambda quantized, reference, options: Summary({"y": 0.9}))
    with pytest.raises(AssertionError):
        contract_of(made).test_identical_models_do_not_differ()


def test_shuffling_moves_rows_and_nothing_else() -> None:
    bank = make_bank(samples=50)
    moved = shuffle(Banks({"test": [bank]}), seed=1)["test"]
    assert moved.sample_id.tolist() != bank.sample_id.tolist()
    order = np.argsort(moved.sample_id)
    np.testing.assert_array_equal(moved.image[order], bank.image)
    np.testing.assert_array_equal(moved.label[order], bank.label)


def test_captions_move_with_their_images() -> None:
    bank = make_bank(samples=12, captions=3)
    assert bank.caption is not None
    assert bank.caption_image is not None
    order = np.random.default_rng(0).permutation(36)  # captions in any order
    mixed = replace(bank, caption=bank.caption[order], caption_image=bank.caption_image[order])
    for index in (np.array([7, 2, 2]), np.arange(12) > 8, np.random.default_rng(1).permutation(12)):
        taken = mixed.take(index)
        assert taken.caption is not None
        assert taken.caption_image is not None
        for place, image in enumerate(np.arange(12)[index]):
            expected = mixed.caption[mixed.caption_image == image]
            np.testing.assert_array_equal(taken.caption[taken.caption_image == place], expected)
    with pytest.raises(DataError, match="caption_image does not name the image of each caption"):
        replace(bank, caption_image=bank.caption_image[1:])


def test_full_precision_is_shuffled_lent_and_checked_with_the_others() -> None:
    banks = Banks({"test": [make_bank()]}, full_precision={"test": [make_bank(seed=1)]})
    assert not banks.read_only().full_precision["test"][0].image.flags.writeable
    moved = shuffle(banks, seed=3)
    assert moved["test"].sample_id.tolist() == moved.full_precision["test"][0].sample_id.tolist()
    before = banks.checksums()
    banks.full_precision["test"][0].image[0, 0] += 1
    assert [name for name, value in banks.checksums().items() if value != before[name]] == [
        "full precision's test synthetic"
    ]


@pytest.mark.parametrize("field", ["classes", "same_classes", "shared_classes", "captions", "full_precision"])
def test_what_a_task_wants_of_a_role_is_declared_for_its_own_roles(field: str) -> None:
    with pytest.raises(PluginError, match=f"declares {field} of 'fit', which is none of its roles"):
        task("t", version=1, needs=("test",), metrics=[Metric("x", "higher")], **{field: ("fit",)})(
            lambda banks, options: SEEN
        )
    with pytest.raises(PluginError, match=f"{field}='test' is text"):
        task("t", version=1, needs=("test",), metrics=[Metric("x", "higher")], **{field: "test"})(
            lambda banks, options: SEEN
        )
