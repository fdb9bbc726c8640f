"""What every registered quantizer must keep, a stranger's included: one contract class for each in the registry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmark.quantization import Quantizer, quantize, quantizers
from benchmark.quantization.graphs.quantizer import GraphQuantizer
from benchmark.spec import FP32, QuantSpec
from benchmark.testing import QuantizerContract, toy_model

METHODS = [name for name, method in quantizers if method.kind == "quantization" and name != "fp32"]
OTHERS = sorted(set(quantizers.names()) - set(METHODS))
SPECIAL: dict[str, dict[str, Any]] = {"bnb-int8": {"batch_options": {"threshold": 0.0}}}
"""LLM.int8() chooses outlier columns for a whole batch; without outliers it does not look beyond a row."""

for _name in METHODS:
    _class = "Test" + "".join(part.capitalize() for part in _name.split("-"))
    _attributes = {"quantizer": quantizers.get(_name), "__module__": __name__, **SPECIAL.get(_name, {})}
    if isinstance(quantizers.get(_name), GraphQuantizer):
        _attributes["pytestmark"] = pytest.mark.slow  # each converts both towers several times
    globals()[_class] = type(_class, (QuantizerContract,), _attributes)


@pytest.mark.parametrize("name", OTHERS)
def test_declarations_of_full_precision_and_of_the_controls(name: str) -> None:
    method = quantizers.get(name)
    assert isinstance(method, Quantizer)
    assert method.name == name
    assert method.version >= 1
    assert method.title
    assert method.paper
    assert method.required <= method.fields <= set(QuantSpec.model_fields) - {"method"}
    assert json.loads(json.dumps(method.describe()))["name"] == name


def test_full_precision_takes_nothing() -> None:
    model = toy_model()
    same, report = quantize(model, FP32)
    assert same is model
    assert report.towers == {}
