"""Formats of the comparison table, from changes made by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from statistics import NormalDist
from typing import Any

import pytest

from benchmark.metrics.uncertainty import Estimate
from benchmark.results.compare import Change, adjust
from benchmark.results.formats import FORMATS

W4 = "rtn-w4a8-channel-token-vision"
BOTH = "rtn-w4a8-channel-token-vision+text"


def change(key: str, quantization: str, delta: float, p: float | None = 0.5, **fields: Any) -> Change:
    """A change whose estimate has this p value; None: without one."""
    better = "lower" if any(word in key for word in ("ece", "rsg", "vuln")) else "higher"
    reference = 0.0 if any(word in key for word in ("delta_rsg", "vuln")) else 0.5
    error = None if p is None else abs(delta) / -NormalDist().inv_cdf(p / 2.0)
    estimate = None if error is None else Estimate(delta, error, math.inf, delta)
    return Change("m", quantization, quantization, key, better, reference + delta, reference, delta, estimate, **fields)


ROWS = adjust(
    [
        change("zero_shot/scenes/accuracy", W4, -0.125, 1e-5),
        change("zero_shot/scenes/accuracy", BOTH, 0.25, 0.03),
        change("calibration/scenes/ece_15", W4, 0.01, None, reason="none"),
    ]
)


def test_csv_has_every_number() -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](ROWS))))
    assert [row["quantization"] for row in rows] == [W4, BOTH, W4]
    assert [float(row["change"]) for row in rows] == [-0.125, 0.25, 0.01]
    assert [float(row["relative_change"]) for row in rows[:2]] == [-0.25, 0.5]
    assert [float(row["q"]) for row in rows[:2]] == pytest.approx([2e-5, 0.03])
    assert rows[2]["q"] == ""
    assert [(row["stars"], row["direction"]) for row in rows] == [("***", "worse"), ("*", "better"), ("", "worse")]
    assert rows[2]["reason"] == "none"


def test_json_says_what_was_adjusted_together() -> None:
    content = json.loads(FORMATS["json"](ROWS))
    assert (content["tests"], content["level"]) == (2, 0.95)
    assert content["rows"][0]["q"] == pytest.approx(2e-5)
    assert content["rows"][2]["p"] is None


def test_markdown_has_one_row_a_change() -> None:
    text = FORMATS["md"](ROWS)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3
    assert all(line.count("|") == table[0].count("|") for line in table)
    assert f"| zero_shot/scenes/accuracy | {W4} | 0.3750 | 0.5000 | -0.1250 | [-0.1805, -0.0695] | <0.001 |" in text
    assert "all 2 tests of this table" in text


def test_the_terminals_table_fits_80_columns_and_says_everything() -> None:
    key = "corruption/a_data_set_with_a_long_name.and_more/gaussian_noise/accuracy"
    text = FORMATS["table"]([*ROWS, *adjust([change(key, "rtn-w4a8-channel-token-vision+text", 0.25, 1e-9)])])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2] == "zero_shot/scenes/accuracy (fp32: 0.5000, higher is better)"
    assert "0.3750  -0.1250 [-0.1805, -0.0695] q <0.001 -***" in lines[3]
    assert lines[-2].startswith("q: p adjusted over these 3 tests")
    at = lines.index(key)
    assert lines[at + 2].split()[0] + lines[at + 3].strip() == "rtn-w4a8-channel-token-vision+text"


def test_json_lines_are_one_object_a_change() -> None:
    rows = [json.loads(line) for line in FORMATS["jsonl"](ROWS).splitlines()]
    assert [(row["metric"], row["change"]) for row in rows] == [(c.key, c.change) for c in ROWS]


def test_latex_escapes_and_is_balanced() -> None:
    text = FORMATS["latex"](ROWS)
    assert r"zero\_shot/scenes/accuracy" in text
    assert r"95 \% interval" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {7}


@pytest.mark.parametrize("name", FORMATS)
def test_no_changes_give_an_empty_table(name: str) -> None:
    assert bool(FORMATS[name]([])) == (name != "jsonl")
