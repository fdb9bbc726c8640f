"""Classes of a binding's data sets against what a task declares about its roles."""

from __future__ import annotations

import pytest

from benchmark.engine.label_spaces import check_classes
from benchmark.errors import SpecError
from benchmark.plugins import tasks

WHERE = "suite 'x': tasks.y.z"


def refused(task: str, names: dict[str, dict[str, tuple[str, ...]]]) -> str:
    with pytest.raises(SpecError) as caught:
        check_classes(tasks.get(task), names, WHERE)
    return str(caught.value)


def test_an_optional_role_that_is_not_bound_has_no_classes_to_check() -> None:
    check_classes(tasks.get("calibration"), {"test": {"photos": ("ant", "bee")}}, WHERE)


def test_a_role_with_classes_needs_some_in_each_of_its_data_sets() -> None:
    names = {"test": {"photos": ("ant", "bee")}, "fit": {"pairs": ()}}
    assert refused("calibration", names) == f"{WHERE}: role 'fit': data set 'pairs' has no classes (text: none)"
    check_classes(tasks.get("ood"), {"id": {"photos": ("ant",)}, "ood": {"far": ()}}, WHERE)


def test_the_same_classes_in_another_order_are_others() -> None:
    same = {"common": {"a": ("ant", "bee")}, "counter": {"b": ("ant", "bee")}}
    check_classes(tasks.get("spurious"), same, WHERE)
    said = refused("spurious", {"common": {"a": ("ant", "bee")}, "counter": {"b": ("bee", "ant")}})
    assert said == f"{WHERE}: role 'counter': data set 'b' has other classes than 'a'"
    shorter = refused("spurious", {"common": {"a": ("ant", "bee")}, "counter": {"b": ("ant",)}})
    assert "data set 'b' has other classes than 'a'" in shorter


def test_one_shared_class_with_the_first_is_enough_and_each_data_set_needs_it() -> None:
    names = {"source": {"a": ("ant", "bee")}, "shifted": {"b": ("bee", "cat"), "c": ("dog", "ant")}}
    check_classes(tasks.get("covariate_shift"), names, WHERE)
    names["shifted"]["c"] = ("cat", "dog")
    said = refused("covariate_shift", names)
    assert said == f"{WHERE}: role 'shifted': data set 'c' shares no class with 'a'"
