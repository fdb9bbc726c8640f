"""The methods by name, and what a short name means. Imports no method, and no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.registry import Registry
from benchmark.spec import QuantSpec, parse_short_name

if TYPE_CHECKING:
    from benchmark.quantization.base import Quantizer

quantizers: Registry[Quantizer] = Registry("quantizer", "reliquant.quantizers", "benchmark.quantization.base:Quantizer")


def parse(short_name: str) -> QuantSpec:
    """The quantization that a short name means, checked by its method; loads no model.

    Raises:
        UnknownNameError: no such method. SpecError: a token or a field that the method does not take.
    """
    spec = read(short_name)
    quantizers.get(spec.method).check(spec)
    return spec


def read(short_name: str) -> QuantSpec:
    """The quantization that a recorded short name means; its method is not asked.

    Raises:
        UnknownNameError: no such method here. SpecError: a token is not understood.
    """
    return parse_short_name(short_name, quantizers.names())
