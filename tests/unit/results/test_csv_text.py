"""CSV that a spreadsheet reads as data: no formula, no control character, numbers and texts as they were."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.results.compare import Change
from benchmark.results.csv_text import cell, to_csv
from benchmark.results.formats import to_csv as changes_to_csv
from benchmark.results.sweep import to_csv as summary_to_csv

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "=cmd|' /C calc'!A0", "＝1"]
CHANGE = Change("m", "q", "c", "a/b/c", "higher", 0.5, 0.25, 0.25)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_a_text(text: str) -> None:
    tables = [
        to_csv([text], [[text]]),
        summary_to_csv([{"quantization": text, text: 1.0}]),
        changes_to_csv([replace(CHANGE, model=text, quantization=text, reason=text)]),
    ]
    for table in tables:
        for row in csv.reader(io.StringIO(table)):
            assert not any(value.lstrip().startswith(("=", "+", "-", "@", "\t", "＝")) for value in row), row
    assert cell(text).startswith("'")


@given(st.text())
def test_any_text_is_one_cell_without_control_characters(text: str) -> None:
    [[head], *rows] = csv.reader(io.StringIO(to_csv(["x"], [[text]])))
    assert head == "x"
    found = rows[0][0] if rows and rows[0] else ""
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in found)
    if text.isalnum():
        assert found == text


def test_numbers_stay_numbers() -> None:
    values = [-0.5, np.float32(0.1), np.float64("nan"), None, True, np.int64(-3), 1e-12]
    assert to_csv(["a"] * 7, [values]).splitlines()[1] == "-0.5,0.1,,,True,-3,1e-12"
