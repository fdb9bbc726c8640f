"""Validation and test splits: disjoint, deterministic, and the same for an image's corrupted versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.rows import take_half
from benchmark.errors import DataError, SpecError
from benchmark.spec import SuiteSpec, parse_spec
from benchmark.spec.suite import load_suite
from search.splits import halved, suite_on_test, suite_on_validation

PLAIN = {
    "name": "mine",
    "version": 1,
    "models": ["demo"],
    "quantizations": ["fp32"],
    "calibration": "pairs",
    "validation": {"photos": "chosen"},
    "data": {
        name: {"source": "image_folder", "path": f"/data/{name}"}
        for name in ("photos", "chosen", "pairs", "train", "far")
    },
    "tasks": {
        "zero_shot": {"photos": {"test": "photos"}},
        "ood": {"photos.far": {"id": "photos", "ood": "far", "fit": "train"}},
        "calibration": {"photos": {"test": "photos", "fit": "pairs"}},
    },
}


def suite(**changes: object) -> SuiteSpec:
    return parse_spec(SuiteSpec, {**PLAIN, **changes}, "test")


def test_mapped_data_is_replaced_the_rest_is_halved_and_what_is_fitted_stays() -> None:
    given_ = suite()
    assert halved(given_) == {"far"}
    validation, test = suite_on_validation(given_), suite_on_test(given_)
    assert (validation.name, test.name) == ("mine.validation", "mine.test")
    assert validation.data["photos"] == given_.data["chosen"]
    assert test.data["photos"] == given_.data["photos"]
    assert validation.data["far"].option("half") == "a"
    assert test.data["far"].option("half") == "b"
    for name in ("pairs", "train"):
        assert validation.data[name] == test.data[name] == given_.data[name]
    assert validation.tasks == test.tasks == given_.tasks


BOTH = {  # what is scored is fitted and calibrated on as well, and has a mapped set of its own images beside it
    "calibration": "photos",
    "validation": {"crops": "pairs"},
    "data": {**PLAIN["data"], "crops": {"base": "photos", "limit": 5}},  # type: ignore[dict-item]
    "tasks": {
        "zero_shot": {"photos": {"test": "photos"}, "crops": {"test": "crops"}},
        "calibration": {"photos": {"test": "photos", "fit": "photos"}},
    },
}


def test_what_is_scored_is_fitted_and_calibrated_on_the_choosing_half_only() -> None:
    given_ = suite(**BOTH)
    validation, test = suite_on_validation(given_), suite_on_test(given_)
    assert halved(given_) == {"photos", "crops"}
    assert validation.data["photos"].option("half") == "a"
    assert validation.data["crops"] == given_.data["pairs"]
    assert validation.calibration == "photos"
    assert {test.data[name].option("half") for name in ("photos", "crops")} == {"b"}
    binding = test.tasks["calibration"]["photos"]
    assert (binding.data("test"), binding.data("fit")) == (("photos",), ("photos.fit",))
    assert test.calibration == "photos.fit"
    assert test.data["photos.fit"] == validation.data["photos"]
    assert test.tasks["zero_shot"] == given_.tasks["zero_shot"]


def test_a_mapped_set_is_fitted_on_what_stands_in_for_it() -> None:
    tasks = {"calibration": {"photos": {"test": "photos", "fit": "photos"}}}
    given_ = suite(tasks=tasks)
    validation, test = suite_on_validation(given_), suite_on_test(given_)
    assert test.tasks["calibration"]["photos"].roles == {"test": "photos", "fit": "photos.fit"}
    assert test.data["photos"] == given_.data["photos"]
    assert test.data["photos.fit"] == validation.data["photos"] == given_.data["chosen"]


def test_a_set_that_stands_in_for_another_and_is_scored_itself_is_split() -> None:
    tasks = {"zero_shot": {"photos": {"test": "photos"}, "chosen": {"test": "chosen"}}}
    given_ = suite(tasks=tasks)
    assert halved(given_) == {"chosen"}
    validation, test = suite_on_validation(given_), suite_on_test(given_)
    assert {validation.data[name].option("half") for name in ("photos", "chosen")} == {"a"}
    assert (test.data["photos"].option("half"), test.data["chosen"].option("half")) == (None, "b")


FAMILIES = ("photos", "chosen", "pairs", "train", "far", "crops")


@given(
    st.dictionaries(st.sampled_from(FAMILIES), st.sampled_from(FAMILIES), max_size=3),
    st.sampled_from([None, *FAMILIES]),
    st.lists(st.tuples(st.sampled_from(FAMILIES), st.sampled_from([None, *FAMILIES])), min_size=1, max_size=4),
)
def test_no_image_is_on_both_sides(
    validation: dict[str, str], calibration: str | None, bound: list[tuple[str, str | None]]
) -> None:
    """The test split has no image of the validation split; both calibrate and fit on the same images."""
    validation = {name: other for name, other in validation.items() if name != other}
    tasks = {
        "calibration": {f"t{i}": {"test": test} | ({"fit": fit} if fit else {}) for i, (test, fit) in enumerate(bound)}
    }
    given_ = suite(
        validation=validation,
        tasks=tasks,
        data={**PLAIN["data"], "crops": {"base": "photos", "limit": 5}},  # type: ignore[dict-item]
        **({"calibration": calibration} if calibration else {"calibration": None}),
    )
    validation, test = suite_on_validation(given_), suite_on_test(given_)

    def images(side: SuiteSpec, roles: tuple[str, ...]) -> set[tuple[str | None, object]]:
        bindings = [b for labels in side.tasks.values() for b in labels.values()]
        names = [n for b in bindings for role in roles if role in b.roles for n in b.data(role)]
        specs = [side.data[name] for name in names]
        halves = [("a", "b") if spec.option("half") is None else (spec.option("half"),) for spec in specs]
        return {(spec.path, half) for spec, some in zip(specs, halves, strict=True) for half in some}

    def calibrated(side: SuiteSpec) -> object:
        return side.data[side.calibration] if side.calibration else None

    assert images(test, ("fit",)) == images(validation, ("fit",))
    assert calibrated(test) == calibrated(validation)
    seen = images(validation, ("test", "fit"))
    if validation.calibration:
        spec = validation.data[validation.calibration]
        seen |= {(spec.path, half) for half in (("a", "b") if spec.option("half") is None else (spec.option("half"),))}
    assert not seen & images(test, ("test",))


def test_nothing_to_halve_tells_on_the_suite_itself() -> None:
    given_ = suite(validation={"photos": "chosen", "far": "far"})
    assert suite_on_test(given_) is given_
    assert suite_on_validation(given_).data["far"] == given_.data["far"]


def test_a_half_that_the_suite_chose_stays() -> None:
    data = {**PLAIN["data"], "far": {"source": "image_folder", "path": "/far", "options": {"half": "b"}}}  # type: ignore[dict-item]
    assert suite_on_validation(suite(data=data)).data["far"].option("half") == "b"


def test_validation_must_name_data_of_the_suite() -> None:
    with pytest.raises(SpecError, match=r"validation\.photos: unknown data set 'chosne'\. Did you mean 'chosen'"):
        suite(validation={"photos": "chosne"})
    with pytest.raises(SpecError, match=r"validation\.photo: unknown data set 'photo'"):
        suite(validation={"photo": "chosen"})


def test_the_demo_chooses_scenes_on_its_validation_split() -> None:
    demo = load_suite("demo")
    validation = suite_on_validation(demo)
    assert validation.data["scenes"].split == "validation"
    assert validation.data["scenes-c"].split == "validation"
    assert suite_on_test(demo).data["scenes"].split == "test"
    assert {"scenes", "scenes-c", "calibration"}.isdisjoint(halved(demo))


ids = st.lists(st.text(min_size=1, max_size=8), min_size=12, max_size=60, unique=True)


@given(ids)
def test_halves_are_disjoint_and_depend_on_the_id_alone(names: list[str]) -> None:
    array, rows = np.array(names), np.arange(len(names))
    labels = np.arange(len(names)) % 3
    try:
        a, labels_a = take_half("a", rows, labels, array)
        b, _ = take_half("b", rows, labels, array)
    except DataError:
        return
    assert sorted([*a, *b]) == rows.tolist()
    assert (labels_a == labels[a]).all()
    part = rows[::-1][:10][::-1]
    alone = [i for i in part if i in a]
    if 0 < len(alone) < len(part):
        assert take_half("a", part, labels[part], array)[0].tolist() == alone


def test_halves_are_about_equal() -> None:
    names = np.array([f"scene-{i:05d}" for i in range(4000)])
    rows = np.arange(4000)
    assert 1850 < len(take_half("a", rows, rows, names)[0]) < 2150
    assert take_half(None, rows, rows, names)[0] is rows


def test_an_empty_half_is_refused() -> None:
    rows, ids_ = np.arange(1), np.array(["x"])
    empty = "b" if _has(rows, ids_, "a") else "a"
    with pytest.raises(DataError, match="too few to split"):
        take_half(empty, rows, rows, ids_)


def _has(rows: np.ndarray, names: np.ndarray, half: str) -> bool:
    try:
        return len(take_half(half, rows, rows, names)[0]) > 0
    except DataError:
        return False
