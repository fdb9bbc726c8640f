"""`reliquant sensitivity` on the positive control, whose sensitive layer is known."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.test_cli import call

Reliquant = Callable[..., tuple[int, str, str]]


@pytest.fixture
def reliquant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reliquant:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capsys, "sensitivity", *arguments, "--home", "home", "--quiet")


PLANTED = ("planted", "--model", "planted:mirror", "--quant", "rtn-w4-tensor-vision", "--tracker", "jsonl")


@pytest.mark.slow
def test_the_layer_with_the_gains_is_found_and_its_protection_helps(reliquant: Reliquant, tmp_path: Path) -> None:
    """Rounding the diagonal of gains is the filter that hurts; the permutation behind it hurts nothing."""
    status, out, err = reliquant(*PLANTED, "--task", "zero_shot", "--limit", "800", "--protect", "1", "--json")
    assert status == 0, err
    study = json.loads(out)
    worst, *others = study["units"]
    assert worst["name"] == "visual.blocks.1"
    assert worst["harm"]["reliability"]["low"] > 1
    for unit in others:
        assert abs(unit["harm"]["reliability"]["value"]) < 1
    check = study["check"]
    assert check["overrides"] == ["visual.blocks.1=8"]
    assert check["gain"]["reliability"]["low"] > 1
    assert abs(check["control"]["reliability"]["value"]) < 1
    assert 5 < check["effective_bits"][0] < check["effective_bits"][1] < 6
    rows = list(
        csv.DictReader(io.StringIO((tmp_path / "home/sensitivity/planted-mirror.planted/sensitivity.csv").read_text()))
    )
    assert len(rows) == 3 * 2
    assert float(rows[0]["harm"]) == pytest.approx(worst["harm"]["reliability"]["value"], rel=1e-4)
    again = reliquant(*PLANTED, "--task", "zero_shot", "--limit", "800", "--protect", "1", "--json", "--cache", "0")
    assert json.loads(again[1])["units"] == study["units"]  # from the ledger, and without the cache


def test_it_prints_a_line_that_run_takes(reliquant: Reliquant, tmp_path: Path) -> None:
    status, out, err = reliquant(*PLANTED, "--task", "zero_shot", "--limit", "40", "--by", "kind", "-o", "found")
    assert status == 0, err
    [line] = [line.strip() for line in out.splitlines() if line.strip().startswith("--quant")]
    assert line.startswith("--quant rtn-w4-tensor-vision --override 'visual.")
    assert "checked on 40 other images" in out
    assert {path.name for path in (tmp_path / "found").iterdir()} == {
        "sensitivity.json",
        "sensitivity.csv",
        "sensitivity.png",
    }


@pytest.mark.parametrize(("arguments", "words"), [
    (("--quant", "bnb-nf4-vision"), "--quant bnb-nf4-vision: it has no weight bits"),
    (("--bits", "8"), "--protected-bits 8: must be above --bits 8"),
    (("--task", "zero_shoot"), "Did you mean 'zero_shot'"),
    (("--cache", "much"), "--cache 'much': expected a size"),
])  # fmt: skip
def test_bad_input_gets_one_line(reliquant: Reliquant, arguments: tuple[str, ...], words: str) -> None:
    status, _, err = reliquant("planted", *arguments)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1
