"""What a user asks for: suites, models, data, quantizations, and their names."""

from benchmark.spec.base import (
    FP32,
    HUB_ID,
    BindingSpec,
    ClassList,
    DataSpec,
    Frozen,
    ModelSpec,
    Name,
    Override,
    QuantSpec,
    Scope,
    SuiteSpec,
    Tower,
    check_name,
    parse_short_name,
    parse_spec,
)
from benchmark.utils.content_hash import canonical, digest, digest_of

__all__ = [
    "FP32",
    "HUB_ID",
    "BindingSpec",
    "ClassList",
    "DataSpec",
    "Frozen",
    "ModelSpec",
    "Name",
    "Override",
    "QuantSpec",
    "Scope",
    "SuiteSpec",
    "Tower",
    "canonical",
    "check_name",
    "digest",
    "digest_of",
    "parse_short_name",
    "parse_spec",
]
