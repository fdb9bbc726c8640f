"""`--override PATTERN=BITS` on the command line."""

import pytest

from benchmark.engine.requested import all_with_overrides, with_overrides
from benchmark.errors import SpecError
from benchmark.quantization import parse


def test_bits_of_some_layers_change() -> None:
    name = with_overrides("rtn-w4-vision", ["visual.blocks.[0-3].*=8", "visual.conv1=6"])
    spec = parse(name)
    assert [(o.pattern, o.bits) for o in spec.overrides] == [("visual.blocks.[0-3].*", 8), ("visual.conv1", 6)]
    assert (spec.method, spec.weight_bits, spec.name) == ("rtn", 4, name)


@pytest.mark.parametrize("name", ["fp32", "bnb-nf4-vision"])
def test_methods_without_weight_bits_stay(name: str) -> None:
    assert with_overrides(name, ["*=8"]) == name


def test_what_has_no_bits_to_override_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    names = all_with_overrides(["fp32", "rtn-w4-vision", "bnb-nf4-vision", "rtn-a8-vision"], ["*=8"])
    assert names == ("fp32", with_overrides("rtn-w4-vision", ["*=8"]), "bnb-nf4-vision", "rtn-a8-vision")
    said = capsys.readouterr().err
    assert said == "--override changes nothing of bnb-nf4-vision, rtn-a8-vision: no weight bits\n"
    with pytest.raises(SpecError, match="--override: none of fp32, bnb-nf4-vision has weight bits"):
        all_with_overrides(["fp32", "bnb-nf4-vision"], ["*=8"])


@pytest.mark.parametrize("item", ["visual.*", "visual.*=²", "=4", "visual.*=x", "visual.*=9", "visual.*="])
def test_a_wrong_override_names_itself(item: str) -> None:
    with pytest.raises(SpecError, match="--override"):
        with_overrides("rtn-w4-vision", [item])
