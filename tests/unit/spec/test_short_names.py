"""Short names of quantizations: both ways, for any specification and any text."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import InputError, ReliquantError, SpecError, UnknownNameError
from benchmark.spec import FP32, Override, QuantSpec, parse_short_name
from benchmark.spec.short_name import calibration_names, dotted

METHODS = ("fp32", "rtn", "gptq", "awq", "bnb-int8", "bnb-nf4", "bnb-fp4", "torchao-int8wo", "control-noise")

patterns = st.text(min_size=1, max_size=12).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)
option_names = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
option_values = st.one_of(
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    patterns,
)


@st.composite
def specs(draw: st.DrawFn) -> QuantSpec:
    """Any valid QuantSpec."""
    method = draw(st.sampled_from(METHODS))
    if method == "fp32":
        return FP32
    fields: dict[str, Any] = {"method": method, "scope": draw(st.sampled_from(["vision", "text", "vision+text"]))}
    if draw(st.booleans()):
        fields["weight_bits"] = draw(st.integers(2, 8))
        fields["weight_granularity"] = draw(st.sampled_from(["tensor", "channel", "group", None]))
        if fields["weight_granularity"] == "group":
            fields["group_size"] = draw(st.integers(1, 65536))
        fields["symmetric"] = draw(st.booleans())
        fields["overrides"] = tuple(
            Override(pattern=pattern, bits=bits)
            for pattern, bits in draw(st.lists(st.tuples(patterns, st.integers(2, 8)), max_size=3))
        )
    if draw(st.booleans()):
        fields["activation_bits"] = draw(st.integers(4, 8))
        fields["activation_granularity"] = draw(st.sampled_from(["tensor", "token", None]))
        fields["activation_symmetric"] = draw(st.booleans())
    fields["skip"] = tuple(draw(st.lists(patterns, max_size=3)))
    fields["calibration"] = draw(st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True))
    names = option_names.filter(lambda name: name not in ("skip", "bits", "calibration"))
    fields["options"] = draw(st.dictionaries(names, option_values, max_size=3))
    return QuantSpec.model_validate(fields)


@given(specs())
@settings(max_examples=300)
def test_a_name_parses_back_to_its_specification(spec: QuantSpec) -> None:
    again = parse_short_name(spec.name, METHODS)
    assert again == spec
    assert again.name == spec.name
    assert again.digest() == spec.digest()
    assert {type(v) for _, v in again.options} == {type(v) for _, v in spec.options}


@given(specs())
def test_a_name_is_a_file_name_and_a_run_name(spec: QuantSpec) -> None:
    """Nothing that a shell, a file system, a URL path or MLflow treats specially."""
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.%+_-]*", spec.name)
    assert ".." not in unquote(spec.name) or "%2F" in spec.name or "/" not in unquote(spec.name)


@given(st.one_of(st.text(max_size=60), st.from_regex(r"(rtn|gptq|bnb-nf4)(-[a-z0-9_.%+]{0,12}){0,6}", fullmatch=True)))
@settings(max_examples=500)
def test_any_text_is_a_quantization_or_a_clear_error(text: str) -> None:
    try:
        spec = parse_short_name(text, METHODS)
    except InputError as error:
        message = str(error)
    else:
        message = f"is {spec.digest()}"
        assert parse_short_name(spec.name, METHODS) == spec
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("fp32", {}),
        (
            "rtn-w4a8-channel-token-vision",
            {
                "method": "rtn",
                "weight_bits": 4,
                "activation_bits": 8,
                "weight_granularity": "channel",
                "activation_granularity": "token",
                "scope": "vision",
            },
        ),
        (
            "gptq-w4-g128-vision+text",
            {
                "method": "gptq",
                "weight_bits": 4,
                "weight_granularity": "group",
                "group_size": 128,
                "scope": "vision+text",
            },
        ),
        ("bnb-nf4-vision", {"method": "bnb-nf4", "scope": "vision"}),
        (
            "rtn-w8a8-tensor-tensor-text",
            {
                "method": "rtn",
                "weight_bits": 8,
                "activation_bits": 8,
                "weight_granularity": "tensor",
                "activation_granularity": "tensor",
                "scope": "text",
            },
        ),
        (
            "rtn-a8-tensor-vision",
            {"method": "rtn", "activation_bits": 8, "activation_granularity": "tensor", "scope": "vision"},
        ),
    ],
)
def test_the_names_of_the_design(name: str, fields: dict[str, Any]) -> None:
    spec = QuantSpec.model_validate(fields)
    assert parse_short_name(name, METHODS) == spec
    assert spec.name == name


@given(specs())
def test_the_calibration_sets_of_a_name_can_be_read_without_its_method(spec: QuantSpec) -> None:
    """Also through the control that imitates it."""
    wanted = {spec.calibration} - {None}
    assert calibration_names(spec.name) == wanted
    like = QuantSpec(method="control-noise", options={"like": dotted(spec.name)})  # type: ignore[arg-type]
    assert calibration_names(like.name) == wanted


def test_what_is_left_out_takes_its_default() -> None:
    short = parse_short_name("rtn-w4a8", METHODS)
    assert short == parse_short_name("rtn-w4a8-channel-token-vision", METHODS)
    assert short.digest() == parse_short_name("rtn-w4a8-channel-token-vision", METHODS).digest()
    assert parse_short_name("rtn-w4-asym", METHODS).symmetric is False


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("rnt-w4a8", UnknownNameError, "Did you mean 'rtn'"),
        ("gtpq-w4-g128-vision", UnknownNameError, "Did you mean 'gptq'"),
        ("", UnknownNameError, "unknown quantizer"),
        ("rtn-w9", SpecError, "weight_bits"),
        ("rtn-w1", SpecError, "weight_bits"),
        ("rtn-w4a3", SpecError, "activation_bits"),
        ("rtn-w4a16", SpecError, "activation_bits"),
        ("rtn-w4-g0", SpecError, "group_size"),
        ("rtn-g128", SpecError, "weight_bits"),
        ("rtn-w4-w4", SpecError, "twice"),
        ("rtn-w4-vision-text", SpecError, "twice"),
        ("rtn-w4-channel-channel", SpecError, "twice"),
        ("rtn-w4-channel-g64", SpecError, "group"),
        ("rtn-w4-asym-asym", SpecError, "twice"),
        ("rtn-w4-alpha_0.5-alpha_0.6", SpecError, "twice"),
        ("rtn-w4-viison", SpecError, "viison"),
        ("rtn-asym", SpecError, "symmetric"),
        ("rtn-w4-actasym", SpecError, "activation_bits"),
        ("rtn--w4", SpecError, "not understood"),
        ("rtn-", SpecError, "not understood"),
        ("fp32-w4", SpecError, "fp32"),
        ("rtn-w" + "9" * 3900, SpecError, "out of range"),
        ("rtn-w4-g" + "9" * 3900, SpecError, "out of range"),
        ("rtn-w4-bits_x_" + "9" * 3900, SpecError, "out of range"),
        ("rtn-w" + "9" * 5000, SpecError, "at most 4000 characters"),
        ("rtn-w4-bits_x_9", SpecError, "bits"),
        ("rtn-w4-alpha_nan", SpecError, "alpha"),
        ("rtn-w4-alpha_inf", SpecError, "alpha"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_bad_names_are_refused_in_one_line(text: str, kind: type[ReliquantError], says: str) -> None:
    with pytest.raises(kind) as caught:
        parse_short_name(text, METHODS)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_the_longest_method_wins() -> None:
    assert parse_short_name("bnb-int8-vision", ("bnb", "bnb-int8")).method == "bnb-int8"
    assert parse_short_name("rtn-w4", ("r", "rt", "rtn")).method == "rtn"
