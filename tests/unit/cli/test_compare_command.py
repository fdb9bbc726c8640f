"""`reliquant compare` on a small ledger written by hand: no model, no data."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from benchmark import Banks
from benchmark.cli.app import app
from benchmark.errors import ReliquantError
from benchmark.ledger.records import Ledger, Record
from benchmark.metrics.uncertainty import Estimate
from benchmark.plugins import tasks
from benchmark.results.compare import Change
from benchmark.results.formats import to_table
from benchmark.testing import make_bank

W8, W4 = "rtn-w8a8-channel-token-vision", "rtn-w4a8-channel-token-vision"


def write(ledger: Ledger, quantization: str, noise: float, samples: int = 60, comparison_key: str = "full") -> Record:
    task, bank = tasks.get("zero_shot"), make_bank(seed=1, samples=samples)
    reference = task.run(Banks({"test": [bank]}))
    image = bank.image + noise * np.random.default_rng(2).standard_normal(bank.image.shape)
    bank = replace(bank, image=(image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float32))
    outcome = task.run(Banks({"test": [bank]}))
    compared = (
        task.run_comparison(outcome.columns, reference.columns, task.options()).metrics
        if quantization != "fp32"
        else {}
    )
    record = Record(
        key=f"{quantization}-{comparison_key}",
        configuration=quantization,
        suite="small",
        model="tiny",
        quantization=quantization,
        task="zero_shot",
        dataset="scenes",
        status="done",
        seconds=0.0,
        metrics={f"zero_shot/scenes/{key}": value for key, value in {**outcome.metrics, **compared}.items()},
        comparison_key=comparison_key,
    )
    ledger.append(record, outcome)
    return record


@pytest.fixture
def home(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path)
    for name, noise in (("fp32", 0.0), (W8, 0.0), (W4, 0.3)):
        write(ledger, name, noise)
    return tmp_path


def run(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments, "--suite", "small", "--home", str(home)])


def rows(home: Path, *arguments: str) -> list[dict[str, str]]:
    result = run(home, *arguments, "--format", "csv")
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_headline_metrics_of_all_quantizations(home: Path) -> None:
    first, second = rows(home)
    assert (first["quantization"], first["metric"], first["change"]) == (W8, "zero_shot/scenes/accuracy", "0.0")
    assert (first["p"], first["stars"], first["direction"]) == ("1.0", "", "same")
    assert float(second["change"]) < 0.0
    assert float(second["q"]) == pytest.approx(2 * float(second["p"]))
    assert second["direction"] == "worse"


def test_runs_and_metrics_are_chosen_by_name(home: Path) -> None:
    assert {row["quantization"] for row in rows(home, "rtn-w4*")} == {W4}
    assert {row["quantization"] for row in rows(home, "rtn-{w8,w4}a8-channel-token-vision")} == {W8, W4}
    flips = {row["metric"] for row in rows(home, "--metric", "zero_shot/scenes/flips")}
    assert flips == {"zero_shot/scenes/flips_right_to_wrong", "zero_shot/scenes/flips_wrong_to_right"}
    assert {"zero_shot/scenes/mean_per_class_recall", "zero_shot/scenes/accuracy_top5"} < {
        row["metric"] for row in rows(home, "--all")
    }


def test_it_writes_a_file_and_all_formats(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    assert run(home, "--format", "json", "-o", str(out)).exit_code == 0
    assert json.loads(out.read_text())["tests"] == 2
    for name, mark in (("md", "| metric |"), ("latex", r"\begin{tabular}")):
        assert mark in run(home, "--format", name).stdout


@pytest.mark.parametrize("scale", [1.0, 87.65432, 12345.6, 1.5e9])
def test_the_table_fits_80_columns_with_the_marks_at_the_end(scale: float) -> None:
    """Counts and long names make room for each other; the last column is never cut off."""
    long = "smoothquant-w4a8-channel-token-bits_visual.transformer.resblocks.%5B0%2D9%5D_8-vision+text"
    key = "corruption/a-data-set-with-a-name/gaussian_noise/5/accuracy"
    estimate = Estimate(-scale, 0.25 * scale, 60.0, -scale)
    change = Change("", "ViT-B-32/laion2b_s34b_b79k", W4, key, "higher", scale, 2 * scale, -scale, estimate, q=1e-4)
    changes = [change, replace(change, quantization=long)]
    lines = to_table(changes).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.endswith(" q <0.001 -***") for line in lines) == 2
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith("smoothquant-"))
    assert "".join(line.split()[0] for line in lines[start : lines.index("", start)]) == long


def test_machines_get_json_lines_on_stdout_alone(home: Path) -> None:
    result = run(home, "--all", "--json", "--quiet")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(row["quantization"] != "fp32" and row["change"] == row["value"] - row["reference"] for row in rows)
    assert len(rows) > 2
    assert result.stderr == ""
    told = [json.loads(line) for line in run(home, "--claims", "--json").stdout.splitlines()]
    assert len({one["claim"] for one in told}) == 12  # the claim on fewer bits has a line for each step
    assert {one["verdict"] for one in told} == {"not shown", "cannot tell"}


def test_the_claims(home: Path) -> None:
    assert "Of the study's 12 claims on suite small" in " ".join(run(home, "--claims").stdout.split())


def test_a_quantization_is_compared_with_the_full_precision_of_the_same_data(home: Path) -> None:
    """A later run with a limit does not disturb what was done before."""
    before = rows(home, W4)
    write(Ledger(home), "fp32", 0.0, samples=20, comparison_key="limited")
    assert rows(home, W4) == before


def test_a_quantization_without_its_full_precision_is_said(home: Path) -> None:
    write(Ledger(home), W4, 0.3, samples=20, comparison_key="limited")
    result = run(home)
    assert result.exit_code == 3
    assert "no full-precision evaluation on the same data" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rtn-w3*"], "unknown run in the results of 'small' 'rtn-w3*'"),
        (["--model", "tinny"], "Did you mean 'tiny'?"),
        (["--format", "xls"], "Known: csv, json, jsonl, latex, md, table"),
        (["--metric", "ood/"], "no metric begins with ood/"),
        (["-o", "/no/such/folder/x"], "cannot be written"),
    ],
)
def test_bad_input_is_one_clear_line(home: Path, arguments: list[str], message: str) -> None:
    result = run(home, *arguments)
    assert isinstance(result.exception, ReliquantError)
    assert message in str(result.exception)


def test_other_homes_and_suites(home: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compare", "--suite", "smal", "--home", str(home)])
    assert "Did you mean 'small'?" in str(result.exception)
    result = CliRunner().invoke(app, ["compare", "--suite", "demo", "--home", str(home)])
    assert "suite 'demo' has no results" in str(result.exception)
    result = CliRunner().invoke(app, ["compare", "--home", str(home)])
    assert (result.exit_code, "suite 'small', the last that ran" in result.stderr) == (0, True)
    result = CliRunner().invoke(app, ["compare", "--home", str(tmp_path / "none")])
    assert "holds no results" in str(result.exception)
    assert not (tmp_path / "none").exists()
