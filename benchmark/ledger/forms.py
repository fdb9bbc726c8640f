"""What a row of the ledger must look like: a row of another form is not believed, whatever its checksum says.

A form is a type or a tuple of types, `NUMBER`, `{field: form}` (a field named `x?` may be missing, further fields are
welcome), `[form]` for lists and `Each(form)` for objects whose values are alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

NUMBER: Final = object()
"""A finite number; true and false are none."""
WHOLE: Final = object()
"""A whole number."""
NAME: Final = object()
"""What files are named by: letters, digits and `_ . -`, at most 128."""
DIGEST: Final = object()
"""A SHA-256 in hexadecimal, or null."""

_NAME = re.compile(r"[\w-][\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TYPES = {str: "text", dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
TEXT_OR_NULL = (str, type(None))


@dataclass(frozen=True)
class Each:
    """An object whose values all have one form."""

    form: Any


TOWER = {
    "layers": [{"shape": [WHOLE], "packed_bits": WHOLE, "bits": NUMBER, "name": str}],
    "skipped": Each(str),
    **dict.fromkeys(("weight_share", "mac_share", "float_bytes"), NUMBER),
    **dict.fromkeys(("bits_per_weight", "packed_bytes", "weight_relative_error"), (NUMBER, type(None))),
    **dict.fromkeys(("weight_sqnr_db", "cosine", "embedding_sqnr_db"), (NUMBER, type(None))),
}
SPEED = {
    **dict.fromkeys(("engine", "device", "cpu"), str),
    **dict.fromkeys(("batch", "threads", "rounds", "passes", "batches"), WHOLE),
    **dict.fromkeys(("images_per_second", "latency_ms_p50", "latency_ms_p95", "full_ms_p50"), NUMBER),
    **dict.fromkeys(("latency_ratio", "latency_ratio_low", "latency_ratio_high"), NUMBER),
    **dict.fromkeys(("runtime_ratio?", "runtime_ratio_low?", "runtime_ratio_high?"), (NUMBER, type(None))),
    "noisy": bool,
}
PROVENANCE = {
    **dict.fromkeys(("versions?", "settings?", "asked?"), dict),
    **dict.fromkeys(("templates_origin?", "data?"), Each(str)),
    **dict.fromkeys(("time?", "device?", "cpu?", "host?", "suite?", "quantized_model?", "traceback?"), str),
    "calibrated_on?": str,
    "published?": [
        {
            **dict.fromkeys(("metric", "data", "source"), str),
            **dict.fromkeys(("value", "low", "high", "published"), NUMBER),
            "agrees": bool,
        }
    ],
    "calibration?": TEXT_OR_NULL,
    "model?": {"ref": str, "digest?": str, "quantized?": bool, "notes?": [str]},
    "artifact?": Each({"files": [str]}),
    "limit?": (WHOLE, type(None)),
    "skipped?": Each({"count": WHOLE, "images": [str]}),
    "counts?": Each(dict.fromkeys(("images", "versions", "classes", "classes_present"), WHOLE)),
    "prompts?": Each({"prompts": WHOLE, "cut": (WHOLE, type(None)), "example": TEXT_OR_NULL, "equal": [[WHOLE]]}),
}
IDENTITY = {
    "model?": {"ref": str, "digest?": TEXT_OR_NULL},
    "quantization?": str,
    "task?": {"name?": str, "label?": str, "version?": WHOLE},
    **dict.fromkeys(("options?", "data?"), dict),
    "limit?": (WHOLE, type(None)),
}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "record": {
        "key": NAME,
        **dict.fromkeys(("configuration", "suite", "model", "quantization", "task", "dataset"), str),
        "status": str,
        "seconds": NUMBER,
        "metrics?": Each(NUMBER),
        "notes?": Each(str),
        "error?": TEXT_OR_NULL,
        "provenance?": PROVENANCE,
        "comparison_key?": str,
        "samples?": DIGEST,
        "replicates?": DIGEST,
        "identity?": IDENTITY,
    },
    "report": {
        "configuration": str,
        "report": {
            "towers": Each(TOWER),
            "weights": Each(WHOLE),
            "parameters": Each(WHOLE),
            "figures?": Each(NUMBER),
            "notes?": [str],
        },
    },
    "alias": {"key": NAME, **dict.fromkeys(("configuration", "suite", "model"), str), "identity": IDENTITY},
    "timing": {
        "configuration": str,
        "machine": str,
        "efficiency": {
            **dict.fromkeys(("quantization", "kernel"), str),
            **dict.fromkeys(("packed_bytes", "float_bytes"), NUMBER),
            "speed": (SPEED, type(None)),
            "error": TEXT_OR_NULL,
        },
    },
}
"""Kind of a row -> the form of its other fields."""
LEFT_OUT = ("efficiency",)
"""Kinds of rows that are no damage, and are not read: times that were measured in another way."""


def check_row(kind: object, row: Mapping[str, Any]) -> None:
    """Check a row of a kind of `KINDS`, without `kind` and checksum; nothing is asked of one of `LEFT_OUT`.

    Raises:
        ValueError: what is wrong, with the field.
    """
    if kind in LEFT_OUT:
        return
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind: {_shown(kind)}, expected {', '.join(KINDS)}")
    form = KINDS[kind]
    if unknown := sorted(set(row) - {name.removesuffix("?") for name in form}):
        raise ValueError(f"{unknown[0]}: unknown field")
    _check(row, form, "")
    if kind == "record" and row["status"] not in ("done", "failed"):
        raise ValueError(f"status: {_shown(row['status'])}, expected done or failed")


def _check(value: Any, form: Any, where: str) -> None:
    if isinstance(form, Mapping):
        _expect(isinstance(value, dict), value, "an object", where)
        for field, inner in form.items():
            name = field.removesuffix("?")
            if name in value:
                _check(value[name], inner, f"{where}.{name}" if where else name)
            elif name == field:
                raise ValueError(f"{where}.{name}: missing" if where else f"{name}: missing")
    elif isinstance(form, Each):
        _expect(isinstance(value, dict), value, "an object", where)
        for name, inner in value.items():
            _check(inner, form.form, f"{where}.{name}")
    elif isinstance(form, list):
        _expect(isinstance(value, list), value, "a list", where)
        for number, inner in enumerate(value):
            _check(inner, form[0], f"{where}[{number}]")
    elif isinstance(form, tuple):
        if type(None) not in form or value is not None:
            _check(value, form[0], where)
    else:
        _check_plain(value, form, where)


def _check_plain(value: Any, form: Any, where: str) -> None:
    if form is NUMBER:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(number and math.isfinite(value), value, "a finite number", where)
    elif form is WHOLE:
        _expect(type(value) is int and abs(value) < 2**63, value, "a whole number", where)
    elif form is NAME:
        _expect(isinstance(value, str) and bool(_NAME.fullmatch(value)), value, "a key", where)
    elif form is DIGEST:
        good = value is None or (isinstance(value, str) and bool(_DIGEST.fullmatch(value)))
        _expect(good, value, "a SHA-256", where)
    else:
        _expect(type(value) is form, value, _TYPES[form], where)


def _expect(good: bool, value: Any, what: str, where: str) -> None:
    if not good:
        raise ValueError(f"{where}: expected {what}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """A value in a few characters, by its type where it has more."""
    if isinstance(value, dict | list):
        return _TYPES[type(value)]
    return repr(value) if not isinstance(value, str | int) or isinstance(value, bool) else repr(str(value)[:40])
