"""`--override PATTERN=BITS` on the command line."""

import pytest

from benchmark.errors import SpecError
from benchmark.quantization import parse
from benchmark.request import with_overrides


def test_bits_of_some_layers_change() -> None:
    name = with_overrides("rtn-w4-vision", ["visual.blocks.[0-3].*=8", "visual.conv1=6"])
    spec = parse(name)
    assert [(o.pattern, o.bits) for o in spec.overrides] == [("visual.blocks.[0-3].*", 8), ("visual.conv1", 6)]
    assert (spec.method, spec.weight_bits, spec.name) == ("rtn", 4, name)


@pytest.mark.parametrize("name", ["fp32", "bnb-nf4-vision"])
def test_methods_without_weight_bits_stay(name: str) -> None:
    assert with_overrides(name, ["*=8"]) == name


@pytest.mark.parametrize("item", ["visual.*", "=4", "visual.*=x", "visual.*=9", "visual.*="])
def test_a_wrong_override_names_itself(item: str) -> None:
    with pytest.raises(SpecError, match="--override"):
        with_overrides("rtn-w4-vision", [item])
