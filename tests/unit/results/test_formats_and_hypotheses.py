"""Formats of the comparison table, and the paragraph about the study's claims, from changes made by hand."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from benchmark.results import hypotheses
from benchmark.results.compare import Change, adjust
from benchmark.results.formats import FORMATS
from benchmark.results.hypotheses import Finding, paragraph, runs_of

W8, W4 = "rtn-w8a8-channel-token-vision", "rtn-w4a8-channel-token-vision"
BOTH, ROTATION = "rtn-w4a8-channel-token-vision+text", "rotation-w4a8-channel-token-vision"


def change(key: str, quantization: str, delta: float, p: float | None = 0.5, **fields: Any) -> Change:
    better = "lower" if any(word in key for word in ("ece", "rsg", "vuln")) else "higher"
    reference = 0.0 if any(word in key for word in ("delta_rsg", "vuln")) else 0.5
    return Change(**{"model": "m", "quantization": quantization, "configuration": quantization, "key": key,
                     "better": better, "value": reference + delta, "reference": reference, "change": delta, "low":
                     delta - 0.1, "high": delta + 0.1, "p": p, **fields})  # fmt: skip


ROWS = adjust(
    [
        change("zero_shot/scenes/accuracy", W4, -0.125, 1e-5),
        change("zero_shot/scenes/accuracy", BOTH, 0.25, 0.03),
        change("calibration/scenes/ece_15", W4, 0.01, None, low=None, high=None, reason="none"),
    ]
)


def test_csv_has_every_number() -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](ROWS))))
    assert [row["quantization"] for row in rows] == [W4, BOTH, W4]
    assert [float(row["change"]) for row in rows] == [-0.125, 0.25, 0.01]
    assert [float(row["relative_change"]) for row in rows[:2]] == [-0.25, 0.5]
    assert [row["q"] for row in rows] == ["2e-05", "0.03", ""]
    assert [(row["stars"], row["direction"]) for row in rows] == [("***", "worse"), ("*", "better"), ("", "worse")]
    assert rows[2]["reason"] == "none"


def test_json_says_what_was_adjusted_together() -> None:
    content = json.loads(FORMATS["json"](ROWS))
    assert (content["tests"], content["level"], content["seed"]) == (2, 0.95, 0)
    assert content["rows"][0]["q"] == pytest.approx(2e-5)
    assert content["rows"][2]["p"] is None


def test_markdown_has_one_row_a_change() -> None:
    text = FORMATS["md"](ROWS)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3
    assert all(line.count("|") == table[0].count("|") for line in table)
    assert f"| zero_shot/scenes/accuracy | {W4} | 0.3750 | 0.5000 | -0.1250 | [-0.2250, -0.0250] | <0.001 |" in text
    assert "all 2 tests of this table" in text


def test_the_terminals_table_fits_80_columns_and_says_everything() -> None:
    key = "corruption/a_data_set_with_a_long_name.and_more/gaussian_noise/accuracy"
    text = FORMATS["table"]([*ROWS, *adjust([change(key, "rtn-w4a8-channel-token-vision+text", 0.25, 1e-9)])])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2] == "zero_shot/scenes/accuracy (fp32: 0.5000, higher is better)"
    assert "0.3750  -0.1250 [-0.2250, -0.0250] q <0.001 -***" in lines[3]
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


# --- claims ------------------------------------------------------------------------------------------------------

FOUR = ("zero_shot/s/accuracy", "calibration/s/ece_15", "ood/s.far/mcm/auroc", "corruption/s/accuracy")


def found(function: Any, *changes: Change) -> Finding:
    result: Finding = function(runs_of(list(changes)))
    return result


def four(quantization: str, *deltas: float, p: float = 1e-6) -> list[Change]:
    return [change(key, quantization, delta, p) for key, delta in zip(FOUR, deltas, strict=True)]


def test_all_at_once() -> None:
    good, bad = four(W8, 0.1, -0.1, 0.1, 0.1), four(W4, 0.1, 0.1, 0.1, 0.1)
    finding = found(hypotheses.all_at_once, *good, *bad)
    assert finding.verdict == "holds"
    assert f"1 of 2 runs: {W8}; significantly so in 1" in finding.evidence
    assert found(hypotheses.all_at_once, *four(W8, 0.1, -0.1, 0.1, 0.1, p=0.5)).verdict == "open"
    assert found(hypotheses.all_at_once, *bad).verdict == "fails"
    assert found(hypotheses.all_at_once, *good[:3]).verdict == "open"


@pytest.mark.parametrize(("better", "runs", "verdict"), [(8, 20, "holds"), (1, 20, "fails"), (2, 4, "open")])
def test_share_of_calibrated_runs(better: int, runs: int, verdict: str) -> None:
    changes = [change("calibration/s/ece_15", W8, -0.1 if i < better else 0.1, model=f"m{i}") for i in range(runs)]
    assert found(hypotheses.share_calibrated, *changes).verdict == verdict


def test_text_tower() -> None:
    changes = [change("calibration/s/ece_15", BOTH, 0.4, 1e-6), change("calibration/s/ece_15_tuned", BOTH, -0.1)]
    assert found(hypotheses.untuned_text, *changes).verdict == "holds"
    assert "+80%" in found(hypotheses.untuned_text, *changes).evidence
    assert "0.400 against 0.500" in found(hypotheses.tuned_text, *changes).evidence
    assert found(hypotheses.tuned_text, *changes).verdict == "holds"
    assert found(hypotheses.untuned_text, change("calibration/s/ece_15", W4, 0.4)).verdict == "open"


@pytest.mark.parametrize("order", [1, -1])
def test_tuned_and_full_precision_are_paired_by_data_set(order: int) -> None:
    """The tuned ECE of `b` is undefined: only `a` is compared, with its own full precision, and the text says so."""
    ece = [change("calibration/b/ece_15", BOTH, 0.4, reference=0.05), change("calibration/a/ece_15", BOTH, 0.4)]
    finding = found(hypotheses.tuned_text, change("calibration/a/ece_15_tuned", BOTH, -0.2), *ece[::order])
    assert finding.verdict == "holds"
    assert "0.300 against 0.500" in finding.evidence
    assert f"left out, tuned ECE undefined: {BOTH} on b" in finding.evidence


def test_no_tuned_ece_at_all() -> None:
    finding = found(hypotheses.tuned_text, change("calibration/a/ece_15", BOTH, 0.4))
    assert finding == Finding(finding.claim, "open", f"left out, tuned ECE undefined: {BOTH} on a")
    alone = found(hypotheses.tuned_text, change("calibration/a/ece_15_tuned", BOTH, -0.2))
    assert (alone.verdict, alone.evidence) == ("open", "no run quantizes both towers and tunes the scale")


@pytest.mark.parametrize(
    ("delta", "p", "verdict"), [(0.05, 1e-5, "holds"), (-0.05, 1e-5, "fails"), (0.05, 0.6, "open")]
)
def test_corruption_gain(delta: float, p: float, verdict: str) -> None:
    assert found(hypotheses.corruption_gain, change("corruption/s/accuracy", W8, delta, p)).verdict == verdict


@pytest.mark.parametrize(
    ("delta", "p", "verdict"),
    [(0.05, 1e-5, "fails"), (-0.05, 1e-5, "holds"), (-0.05, 0.6, "open"), (0.05, 0.6, "open")],
)
def test_shift(delta: float, p: float, verdict: str) -> None:
    assert found(hypotheses.no_help_under_shift, change("covariate_shift/s/accuracy", W8, delta, p)).verdict == verdict
    assert found(hypotheses.no_help_against_bias, change("spurious/s/delta_rsg", W8, -delta, p)).verdict == verdict


def test_bias_and_bits() -> None:
    def spurious(name: str, delta: float) -> list[Change]:
        return [change(f"spurious/s/{key}", name, delta, 1e-6) for key in ("delta_rsg", "vuln_add")]

    assert found(hypotheses.bias_grows, *spurious(W8, 0.02), *spurious(W4, 0.1)).verdict == "holds"
    assert found(hypotheses.bias_grows, *spurious(W8, 0.1), *spurious(W4, 0.02)).verdict == "fails"
    assert found(hypotheses.bias_grows, *spurious(W8, 0.1)).verdict == "open"
    assert found(hypotheses.rotation_protects, *spurious(W4, 0.1), *spurious(ROTATION, 0.02)).verdict == "holds"
    assert found(hypotheses.rotation_protects, *spurious(W4, 0.1)).verdict == "open"


def test_groups_are_compared_on_the_data_that_both_have() -> None:
    """The 4-bit run on the hard data set `t` is missing: its 8-bit bias must not hide that bias grows on `s`."""

    def spurious(name: str, data: str, delta: float) -> list[Change]:
        return [change(f"spurious/{data}/{key}", name, delta, 1e-6) for key in ("delta_rsg", "vuln_add")]

    known = [*spurious(W8, "s", 0.02), *spurious(W4, "s", 0.1)]
    finding = found(hypotheses.bias_grows, *known, *spurious(W8, "t", 0.9))
    assert finding.verdict == "holds"
    assert "dRSG +0.020 at W8A8, +0.100 at W4A8" in finding.evidence
    assert found(hypotheses.bias_grows, *spurious(W8, "t", 0.9), *spurious(W4, "s", 0.1)).verdict == "open"
    rotated = [*spurious(ROTATION, "s", 0.05), *spurious(ROTATION, "t", 0.9)]
    assert found(hypotheses.rotation_protects, *known, *rotated).verdict == "holds"


def test_the_paragraph_counts_every_claim_once_and_leaves_controls_out() -> None:
    changes = [*four(W8, 0.1, -0.1, 0.1, 0.1), *four("control-noise-w4a8-channel-token-vision", 0.1, -0.1, 0.1, 0.1)]
    text = " ".join(paragraph("demo", changes).split())
    assert "On suite demo (1 model, 1 quantizations against full precision, 4 tests" in text
    counts = [int(part.split()[-1]) for part in text.split(" of the study's claims")[:-1]]
    assert sum(counts) == len(hypotheses.CLAIMS)
    assert "cannot be told" in paragraph("demo", [])
