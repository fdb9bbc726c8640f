"""Specifications: what is refused, how it is said, and that equal meanings have equal hashes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmark.errors import SpecError
from benchmark.spec import (
    FP32,
    BindingSpec,
    DataSpec,
    ModelSpec,
    QuantSpec,
    SuiteSpec,
    canonical,
    digest,
    digest_of,
    parse_spec,
)


def suite(**changes: Any) -> dict[str, Any]:
    """A small valid suite, with changes."""
    return {
        "name": "small",
        "version": 1,
        "models": ["demo"],
        "quantizations": ["fp32"],
        "data": {"scenes": {"source": "demo", "split": "test"}},
        "tasks": {"zero_shot": {"scenes": {"test": "scenes"}}},
    } | changes


def refused(kind: Any, data: Any) -> str:
    """The one-line message of a specification that must be refused."""
    with pytest.raises(SpecError) as caught:
        parse_spec(kind, data, "here")
    message = str(caught.value)
    assert message.startswith("here: ")
    assert "\n" not in message
    assert "pydantic" not in message
    return message


def test_implied_granularity_does_not_change_the_hash() -> None:
    short = QuantSpec(method="rtn", weight_bits=4, activation_bits=8)
    full = QuantSpec(
        method="rtn",
        weight_bits=4,
        activation_bits=8,
        weight_granularity="channel",
        activation_granularity="token",
    )
    assert short == full
    assert short.digest() == full.digest()
    assert QuantSpec(method="rtn", weight_bits=4, group_size=64).weight_granularity == "group"


def test_option_order_does_not_change_the_hash() -> None:
    first = parse_spec(QuantSpec, {"method": "rtn", "weight_bits": 4, "options": {"a": 1, "b": 2}}, "here")
    second = parse_spec(QuantSpec, {"method": "rtn", "weight_bits": 4, "options": {"b": 2, "a": 1}}, "here")
    assert first.digest() == second.digest()
    assert first.option("a") == 1
    assert first.option("missing", 5) == 5


CHANGES: list[dict[str, Any]] = [
    {"weight_bits": 3},
    {"activation_bits": 6},
    {"weight_granularity": "tensor"},
    {"group_size": 32},
    {"activation_granularity": "tensor"},
    {"symmetric": False},
    {"activation_symmetric": False},
    {"scope": "text"},
    {"skip": ("head*",)},
    {"overrides": ({"pattern": "head*", "bits": 8},)},
    {"options": {"alpha": 0.5}},
    {"method": "gptq"},
    {"calibration": "yfcc"},
]


def test_every_field_is_in_the_hash() -> None:
    """Rule 4 of the design."""
    base = {"method": "rtn", "weight_bits": 4, "activation_bits": 8}
    digests = {parse_spec(QuantSpec, {**base, **change}, "here").digest() for change in [{}, *CHANGES]}
    assert len(digests) == len(CHANGES) + 1
    assert {name for change in CHANGES for name in change} == set(QuantSpec.model_fields)


def test_each_tower_is_quantized_by_itself() -> None:
    both = QuantSpec(method="rtn", weight_bits=4, scope="vision+text")
    vision = QuantSpec(method="rtn", weight_bits=4, scope="vision")
    assert both.for_tower("vision") == vision.for_tower("vision") == vision
    assert vision.for_tower("text") == FP32
    assert both.for_tower("text").scope == "text"
    assert FP32.towers == ()
    assert FP32.for_tower("vision") == FP32


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"method": "rtn", "weight_bits": 9}, "weight_bits"),
        ({"method": "rtn", "weight_bits": 1}, "weight_bits"),
        ({"method": "rtn", "activation_bits": 3}, "activation_bits"),
        ({"method": "rtn", "activation_bits": 9}, "activation_bits"),
        ({"method": "rtn", "weight_bits": 4.5}, "weight_bits"),
        ({"method": "rtn", "weight_bits": "four"}, "weight_bits"),
        ({"method": "rtn", "weight_bits": 4, "group_size": 0}, "group_size"),
        ({"method": "rtn", "weight_bits": 4, "weight_granularity": "group"}, "group_size"),
        ({"method": "rtn", "weight_bits": 4, "weight_granularity": "channel", "group_size": 8}, "group_size"),
        ({"method": "rtn", "weight_bits": 4, "weight_granularity": "row"}, "weight_granularity"),
        ({"method": "rtn", "weight_granularity": "channel"}, "weight_bits"),
        ({"method": "rtn", "activation_granularity": "token"}, "activation_bits"),
        ({"method": "rtn", "symmetric": False}, "weight_bits"),
        ({"method": "rtn", "weight_bits": 4, "activation_symmetric": False}, "activation_bits"),
        ({"method": "rtn", "weight_bits": 4, "scope": "audio"}, "scope"),
        ({"method": "rtn", "weight_bits": 4, "skip": [""]}, "skip"),
        ({"method": "rtn", "weight_bits": 4, "overrides": [{"pattern": "", "bits": 4}]}, "pattern"),
        ({"method": "rtn", "weight_bits": 4, "overrides": [{"pattern": "x", "bits": 9}]}, "bits"),
        ({"method": "rtn", "weight_bits": 4, "options": {"Alpha": 1}}, "options"),
        ({"method": "rtn", "weight_bits": 4, "options": {"skip": "x"}}, "skip"),
        ({"method": "rtn", "weight_bits": 4, "options": {"bits": 3}}, "bits"),
        ({"method": "rtn", "weight_bits": 4, "options": {"alpha": ""}}, "alpha"),
        ({"method": "rtn", "weight_bits": 4, "options": {"alpha": float("nan")}}, "alpha"),
        ({"method": "rtn", "weight_bits": 4, "options": {"alpha": float("inf")}}, "alpha"),
        ({"method": "rtn", "weight_bits": 4, "options": {1: 2, "a": 3}}, "options"),
        ({"method": "rtn", "weight_bits": 4, "options": {"alpha": [1]}}, "options"),
        ({"method": "RTN"}, "method"),
        ({"method": "rtn-"}, "method"),
        ({"weight_bits": 4}, "fp32"),
        ({"method": "rtn", "wieght_bits": 4}, "Did you mean 'weight_bits'"),
        ("rtn", "QuantSpec"),
        (None, "QuantSpec"),
        ([1], "QuantSpec"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_quantizations(data: Any, says: str) -> None:
    assert says in refused(QuantSpec, data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "source"),
        ({"source": "demo", "splitt": "test"}, "Did you mean 'split'"),
        ({"source": "demo", "limit": 0}, "limit"),
        ({"source": "demo", "limit": -4}, "limit"),
        ({"source": "demo", "classes": []}, "classes"),
        ({"source": "demo", "templates": ""}, "templates"),
        ({"source": "demo", "severities": [0]}, "severities"),
        ({"source": "demo", "severities": [6]}, "severities"),
        ({"source": "demo", "severity": 3}, "corruption"),
        ({"source": "demo", "corruption": "fog"}, "severity"),
        ({"source": "demo", "corruption": "fog", "severity": 1, "corruptions": "all"}, "corruption"),
        ({"source": "demo", "corruptions": []}, "corruptions"),
        ({"source": "demo", "corruptions": "all", "severities": []}, "severities"),
        ({"source": "demo", "text": "class"}, "text"),
        ({"source": "demo", "options": {1: 2, "a": 3}}, "options"),
        ({"source": "demo", "options": "x"}, "options"),
        ({"source": 5}, "source"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_data(data: Any, says: str) -> None:
    assert says in refused(DataSpec, data)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"version": 0}, "version"),
        ({"version": "one"}, "version"),
        ({"models": []}, "models"),
        ({"models": [""]}, "models"),
        ({"quantizations": []}, "quantizations"),
        ({"tasks": {}}, "tasks"),
        ({"tasks": {"zero_shot": {}}}, "tasks.zero_shot"),
        ({"tasks": {"zero_shot": {"scenes": {"test": "secnes"}}}}, "Did you mean 'scenes'"),
        ({"tasks": {"zero_shot": {"scenes": {"test": []}}}}, "test"),
        ({"tasks": {"zero_shot": {"sce/nes": {"test": "scenes"}}}}, "tasks"),
        ({"tasks": {"zero_shot": {"scenes": "scenes"}}}, "tasks.zero_shot.scenes"),
        ({"calibration": "calib"}, "calibration"),
        ({"modles": ["demo"]}, "Did you mean 'models'"),
        ({"data": {"scenes": {"source": "demo", "spilt": "test"}}}, "Did you mean 'split'"),
        ({"data": {"scenes": {"source": "demo", "spilt": "test"}}}, "data.scenes.spilt"),
        ({"data": ["scenes"]}, "data"),
        ({"data": {5: {"source": "demo"}}}, "data"),
        ({"data": {"scenes": {"base": ["x"]}}}, "base"),
        ({"data": {"scenes": {"base": "nowhere"}}}, "nowhere"),
        ({"data": {"scenes": {"base": "scenes"}}}, "base"),
        ({"limit": 0}, "limit"),
        ({"limit": 10**400}, "limit"),
        ({"version": 10**400}, "version"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_suites(changes: dict[str, Any], says: str) -> None:
    assert says in refused(SuiteSpec, suite(**changes))


def test_a_valid_suite_is_accepted_and_frozen() -> None:
    spec = parse_spec(SuiteSpec, suite(), "here")
    assert spec.models == (ModelSpec(ref="demo"),)
    assert spec.tasks["zero_shot"]["scenes"].data("test") == ("scenes",)
    with pytest.raises(ValidationError):
        spec.name = "other"  # type: ignore[misc]


def test_bindings_are_short_or_long() -> None:
    short = BindingSpec.model_validate({"id": "a", "ood": ["b", "c"], "options": {"scores": ["mcm"]}})
    long = BindingSpec.model_validate({"roles": {"id": "a", "ood": ["b", "c"]}, "options": {"scores": ["mcm"]}})
    assert short == long
    assert short.data("ood") == ("b", "c")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)


@given(json_values)
def test_the_hash_does_not_depend_on_key_order(value: Any) -> None:
    def reversed_keys(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: reversed_keys(item[key]) for key in reversed(list(item))}
        return [reversed_keys(i) for i in item] if isinstance(item, list) else item

    assert digest(value) == digest(reversed_keys(value))
    assert len(digest(value)) == 64


def test_the_hash_tells_types_apart() -> None:
    values = [1, "1", [1], {"1": 1}, None, "null", 1.5, "1.5", True, "true"]
    assert len({digest(value) for value in values}) == len(values)


@pytest.mark.parametrize("kind", [QuantSpec, DataSpec, SuiteSpec, ModelSpec, BindingSpec], ids=lambda k: k.__name__)
@given(data=st.data())
def test_any_plain_data_is_a_specification_or_a_clear_error(kind: Any, data: st.DataObject) -> None:
    keys = st.one_of(st.sampled_from(sorted(kind.model_fields)), st.text(max_size=3), st.integers(), st.none())
    value = data.draw(st.one_of(json_values, st.dictionaries(keys, json_values, max_size=5)))
    try:
        message = parse_spec(kind, value, "here").digest()
    except SpecError as error:
        message = str(error)
    assert len(message.splitlines()) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_digest_of_parts_is_the_digest_of_the_whole(content: dict[str, Any]) -> None:
    assert digest_of({key: canonical(value) for key, value in content.items()}) == digest(content)
