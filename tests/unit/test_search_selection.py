"""What is chosen on and what is told on: disjoint, deterministic, and the same for an image's corrupted versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.rows import take_half
from benchmark.errors import DataError, SpecError
from benchmark.spec import SuiteSpec, parse_spec
from benchmark.suite import load_suite
from search.selection import halved, report_suite, selection_suite

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
    chosen, told = selection_suite(given_), report_suite(given_)
    assert (chosen.name, told.name) == ("mine.selection", "mine.report")
    assert chosen.data["photos"] == given_.data["chosen"]
    assert told.data["photos"] == given_.data["photos"]
    assert chosen.data["far"].option("half") == "a"
    assert told.data["far"].option("half") == "b"
    for name in ("pairs", "train"):
        assert chosen.data[name] == told.data[name] == given_.data[name]
    assert chosen.tasks == told.tasks == given_.tasks


def test_nothing_to_halve_tells_on_the_suite_itself() -> None:
    given_ = suite(validation={"photos": "chosen", "far": "far"})
    assert report_suite(given_) is given_
    assert selection_suite(given_).data["far"] == given_.data["far"]


def test_a_half_that_the_suite_chose_stays() -> None:
    data = {**PLAIN["data"], "far": {"source": "image_folder", "path": "/far", "options": {"half": "b"}}}  # type: ignore[dict-item]
    assert selection_suite(suite(data=data)).data["far"].option("half") == "b"


def test_validation_must_name_data_of_the_suite() -> None:
    with pytest.raises(SpecError, match=r"validation\.photos: unknown data set 'chosne'\. Did you mean 'chosen'"):
        suite(validation={"photos": "chosne"})
    with pytest.raises(SpecError, match=r"validation\.photo: unknown data set 'photo'"):
        suite(validation={"photo": "chosen"})


def test_the_demo_chooses_scenes_on_its_validation_split() -> None:
    demo = load_suite("demo")
    chosen = selection_suite(demo)
    assert chosen.data["scenes"].split == "validation"
    assert chosen.data["scenes-c"].split == "validation"
    assert report_suite(demo).data["scenes"].split == "test"
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
