"""Short names of quantizations: `rtn-w4a8-channel-token-vision` <-> QuantSpec.

Grammar (tokens joined by `-`, in this order; all but the method optional)::

    METHOD  [wBITS][aBITS]  tensor|channel|gSIZE  tensor|token  asym  actasym
    OPTION_VALUE ...  skip_PATTERN ...  bits_PATTERN_BITS ...  calibration_NAME  vision|text|vision+text

The weight granularity comes before the activation granularity. Patterns, names and option values are percent-encoded,
so that a short name is also a file name. What is left out takes its default: channel, token, symmetric, vision.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from benchmark.errors import SpecError, UnknownNameError
from benchmark.spec.scalars import Scalar, plain_scalar

if TYPE_CHECKING:
    from benchmark.spec.base import QuantSpec

_BITS = re.compile(r"(?=.)(?:w(\d+))?(?:a(\d+))?")
LONGEST = 4000
"""Characters of a short name; one that gives every block of a large model its own bits has about a thousand."""
_SCOPES = ("vision", "text", "vision+text")


def dotted(name: str) -> str:
    """A quantization's short name as the value of `like`: `rtn-w4a8-vision` -> `rtn.w4a8.vision`, `.` -> `..`."""
    return name.replace(".", "..").replace("-", ".")


def undotted(value: str) -> str:
    """The short name that a value of `like` means; one written with its own hyphens is taken as it is.

    >>> undotted("percentile.w4.percentile_99..9"), undotted("rtn-w4")
    ('percentile-w4-percentile_99.9', 'rtn-w4')
    """
    if "-" in value:
        return value
    return re.sub(r"\.\.?", lambda match: "." if match[0] == ".." else "-", value)


def format_short_name(spec: QuantSpec) -> str:
    """The canonical short name of a quantization."""
    if spec.method == "fp32":
        return "fp32"
    tokens = [spec.method]
    if spec.weight_bits is not None or spec.activation_bits is not None:
        weight = f"w{spec.weight_bits}" if spec.weight_bits is not None else ""
        tokens.append(weight + (f"a{spec.activation_bits}" if spec.activation_bits is not None else ""))
    if spec.weight_granularity:
        tokens.append(f"g{spec.group_size}" if spec.weight_granularity == "group" else spec.weight_granularity)
    if spec.activation_granularity:
        tokens.append(spec.activation_granularity)
    tokens += ["asym"] * (not spec.symmetric) + ["actasym"] * (not spec.activation_symmetric)
    tokens += [f"{key}_{_encode(_text(value))}" for key, value in spec.options]
    tokens += [f"skip_{_encode(pattern)}" for pattern in spec.skip]
    tokens += [f"bits_{_encode(item.pattern)}_{item.bits}" for item in spec.overrides]
    tokens += [f"calibration_{_encode(spec.calibration)}"] if spec.calibration else []
    return "-".join([*tokens, spec.scope])


def calibration_names(short_name: str) -> set[str]:
    """The calibration sets that a short name names; a control's are those of the quantization that it imitates.

    >>> calibration_names("mse-w8a8-tensor-tensor-calibration_yfcc-vision")
    {'yfcc'}
    """
    found: set[str] = set()
    for token in short_name.split("-"):
        key, _, rest = token.partition("_")
        if key == "calibration" and rest:
            found.add(unquote(rest))
        elif key == "like" and rest:
            found |= calibration_names(undotted(unquote(rest)))
    return found


def read_short_name(text: str, methods: Collection[str]) -> dict[str, Any]:
    """The fields of the QuantSpec that a short name means, not yet validated.

    Args:
        text: e.g. `gptq-w4-g128-vision+text`.
        methods: the known methods (the quantizer registry's names).

    Raises:
        UnknownNameError: the method is not known. SpecError: a token is not understood or out of range.
    """
    if len(text) > LONGEST:
        raise SpecError(f"quantization '{text[:40]}...': a short name has at most {LONGEST} characters")
    method = max((m for m in methods if text == m or text.startswith(m + "-")), key=len, default=None)
    if method is None:
        guess = re.split(r"-(?=w\d|a\d|vision|text|g\d|channel|tensor)", text)[0]
        raise UnknownNameError("quantizer", guess, methods)
    fields: dict[str, Any] = {"method": method}
    tokens = text[len(method) + 1 :].split("-") if text != method else []
    for token in tokens:
        _read(token, fields, text)
    return fields


def _read(token: str, fields: dict[str, Any], text: str) -> None:
    key, value = _token(token, fields, text)
    if key in ("skip", "overrides"):
        fields[key] = (*fields.get(key, ()), value)
    elif key == "options":
        if value[0] in fields.setdefault("options", {}):
            raise SpecError(f"quantization '{text}': option '{value[0]}' stands twice")
        fields["options"][value[0]] = value[1]
    elif key == "bits":
        fields |= {k: v for k, v in zip(("weight_bits", "activation_bits"), value, strict=True) if v is not None}
    elif key in fields:
        raise SpecError(f"quantization '{text}': token '{token}' stands twice")
    elif key == "group_size":
        if "weight_granularity" in fields:
            raise SpecError(f"quantization '{text}': '{token}' (per group) and another weight granularity")
        fields |= {"group_size": value, "weight_granularity": "group"}
    else:
        fields[key] = value


def _token(token: str, fields: dict[str, Any], text: str) -> tuple[str, Any]:
    """Field name and value of one token."""
    if match := _BITS.fullmatch(token):
        if "weight_bits" in fields or "activation_bits" in fields:
            raise SpecError(f"quantization '{text}': token '{token}' stands twice")
        return "bits", [None if digits is None else _number(digits, text) for digits in match.groups()]
    if token in _SCOPES:
        return "scope", token
    if token == "channel" or (token == "tensor" and "weight_bits" in fields and "weight_granularity" not in fields):
        return "weight_granularity", token
    if re.fullmatch(r"g\d+", token):
        return "group_size", _number(token[1:], text)
    if token in ("token", "tensor"):
        return "activation_granularity", token
    if token in ("asym", "actasym"):
        return ("symmetric" if token == "asym" else "activation_symmetric"), False
    name, _, rest = token.partition("_")
    if name == "skip" and rest:
        return "skip", unquote(rest)
    if name == "bits" and re.search(r"_\d+$", rest):
        pattern, _, bits = rest.rpartition("_")
        return "overrides", {"pattern": unquote(pattern), "bits": _number(bits, text)}
    if name == "calibration" and rest:
        return "calibration", unquote(rest)
    if name.isalnum() and rest:
        return "options", (name, plain_scalar(unquote(rest)))
    raise SpecError(
        f"quantization '{text}': token '{token}' is not understood; the form is METHOD-wBITSaBITS-"
        "(tensor|channel|gSIZE)-(tensor|token)-[asym]-[OPTION_VALUE]-(vision|text|vision+text)"
    )


def _number(digits: str, text: str) -> int:
    if len(digits) > 9:
        raise SpecError(f"quantization '{text[:40]}...': the number {digits[:9]}... is out of range")
    return int(digits)


def _encode(text: str) -> str:
    return quote(text, safe="").replace("-", "%2D").replace("_", "%5F").replace("~", "%7E")


def _text(value: Scalar) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
