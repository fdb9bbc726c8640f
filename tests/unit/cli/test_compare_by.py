"""`reliquant compare --by`: tables of means from a results folder, in all formats, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmark.cli.app import app
from benchmark.results.group_formats import FORMATS
from tests.ledgers import LAION, ROTATED, TEN, W4, W4_BOTH, W8, WIT, Made, made_of, put_kinds

CONTROL = "control-noise-w4a8-channel-token-vision"
KINDS = {"accuracy": -0.02, "ece": 0.03, "auroc": -0.01, "corruption": 0.01, "shift": -0.03, "rsg": 0.05}
STUDY = "method_family,bits,scope"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    names = (W8, W4, W4_BOTH, ROTATED, "mse-w4a8-channel-token-vision", "hqq-w4-g64-vision")
    made = made_of((*WIT, *LAION[:1]), dict.fromkeys(names, KINDS) | {CONTROL: {"accuracy": -0.5}})
    made.write(folder)
    return folder


def run(home: Path, *arguments: str, suite: str = "made") -> Result:
    return CliRunner().invoke(app, ["compare", *arguments, "--suite", suite, "--home", str(home)])


def rows(home: Path, *arguments: str) -> list[dict[str, str]]:
    result = run(home, *arguments, "--format", "csv")
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_a_table_like_the_studys(home: Path) -> None:
    """Six metrics side by side, a row for each method family, bits and scope; then both intervals of each metric."""
    result = run(home, "--by", STUDY, "--quiet")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    overview = "\n".join(lines[: lines.index("zero_shot/d/accuracy (higher is better)")])
    for word in ("accuracy", "ece_15_", "debiased", "auroc", "corruption", "shift", "rsg"):
        assert word in overview
    row = next(line for line in lines if line.startswith("rotation"))
    assert row.split()[-6:] == ["-0.020***", "+0.030***", "+0.010***", "-0.030***", "+0.050***", "-0.010***"]
    assert (
        sum(line.split() == ["change", "of", "these", "models", "of", "their", "kind", "relative"] for line in lines)
        == 6
    )
    assert CONTROL not in result.stdout


def test_every_number_is_in_the_csv(home: Path) -> None:
    table = rows(home, "--by", STUDY)
    groups = {(row["method_family"], row["bits"], row["scope"]) for row in table}
    assert groups == {
        ("hqq", "W4", "vision"),
        ("rotation", "W4A8", "vision"),
        ("simple", "W4A8", "vision"),
        ("simple", "W4A8", "vision+text"),
        ("simple", "W8A8", "vision"),
    }
    [row] = [r for r in table if r["metric"].endswith("shift/d/accuracy") and r["method_family"] == "rotation"]
    assert (row["runs"], row["models"], row["images"], row["direction"]) == ("4", "4", "2400", "worse")
    assert float(row["change"]) == pytest.approx(-0.03, abs=1e-9)
    assert float(row["relative_change"]) == pytest.approx(-0.05, abs=1e-9)
    assert float(row["change_these_low"]) < float(row["change"]) < float(row["change_these_high"])
    assert float(row["change_kind_low"]) <= float(row["change_these_low"])
    assert float(row["relative_change_kind_high"]) < 0
    simple = next(r for r in table if (r["method_family"], r["bits"], r["scope"]) == ("simple", "W4A8", "vision"))
    assert (simple["runs"], simple["models"]) == ("8", "4")  # rtn and mse


def test_an_ece_is_shown_by_its_debiased_companion(home: Path) -> None:
    metrics = {row["metric"] for row in rows(home, "--by", "bits")}
    assert "calibration/d/ece_15_debiased" in metrics
    assert "calibration/d/ece_15" not in metrics


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("method", {"rtn", "mse", "rotation", "hqq"}),
        ("weight_bits", {"4", "8"}),
        ("activation_bits", {"8", "-"}),
        ("granularity", {"channel-token", "g64"}),
        ("scope", {"vision", "vision+text"}),
        ("family", {"ViT"}),
        ("architecture", {"transformer"}),
        ("pretraining", {"WIT", "LAION"}),
        ("model", {*WIT, LAION[0]}),
        ("quantization", {W8, W4, W4_BOTH, ROTATED, "mse-w4a8-channel-token-vision", "hqq-w4-g64-vision"}),
    ],
)
def test_every_key(home: Path, by: str, groups: set[str]) -> None:
    assert {row[by] for row in rows(home, "--by", by, "--metric", "zero_shot/")} == groups


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(home: Path, name: str) -> None:
    result = run(home, "--by", "bits", "--format", name, "--quiet")
    assert result.exit_code == 0, result.output
    for word in ("W8A8", "W4A8", "0.03"):
        assert word in result.stdout


def test_formats_for_programs(home: Path) -> None:
    lines = [json.loads(line) for line in run(home, "--by", "bits", "--json", "--quiet").stdout.splitlines()]
    whole = json.loads(run(home, "--by", "bits", "--format", "json", "--quiet").stdout)
    assert whole["rows"] == lines
    assert (whole["by"], whole["tests"], whole["level"]) == (["bits"], len(lines), 0.95)
    markdown = run(home, "--by", "bits", "--format", "md", "--quiet").stdout.splitlines()
    table = [line for line in markdown if line.startswith("|")]
    assert len(table) == 2 + 3
    assert {line.count("|") for line in table} == {1 + 1 + 6}
    latex = run(home, "--by", "bits", "--format", "latex", "--quiet").stdout
    assert latex.count(r"\begin{tabular}{lrrrrrr}") == 1


def test_runs_models_and_metrics_are_chosen_as_without_groups(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    arguments = ("rtn-*", "--model", WIT[0], "--metric", "ood/", "--by", "bits", "-o", str(out), "--format", "csv")
    assert run(home, *arguments).exit_code == 0
    table = list(csv.DictReader(io.StringIO(out.read_text())))
    assert {(row["bits"], row["metric"], row["models"]) for row in table} == {
        ("W8A8", "ood/d/mcm/auroc", "1"),
        ("W4A8", "ood/d/mcm/auroc", "1"),
    }
    assert {row["change_kind_low"] for row in table} == {""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--by", "bit"), "unknown --by 'bit'. Did you mean 'bits'? Known: activation_bits, architecture, bits,"),
        (("--by", "bits,"), "unknown --by ''"),
        (("--by", "bits", "--claims"), "--by, --claims and --controls: one of them at a time"),
        (("--by", "bits", "--metric", "oof/"), "no metric begins with oof/"),
        (("--by", "bits", "control-*"), "--by: these results hold no quantization to group"),
        (("--by", "activation_bits", "hqq-*"), "--by activation_bits: no quantization of these results has it"),
    ],
)
def test_bad_input_is_one_line(home: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(home, *arguments)
    assert result.exit_code == 1
    assert message in str(result.exception or result.output)


def test_a_key_is_refused_before_results_are_looked_for(tmp_path: Path) -> None:
    result = run(tmp_path / "nothing", "--by", "bit")
    assert "Did you mean 'bits'?" in str(result.exception or result.output)


# --- models that the catalogue does not know -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unknown")
    made_of(("mine", "ours"), {W4: {"accuracy": -0.02}}).write(folder)
    return folder


def test_what_nothing_is_known_of_names_the_field_to_write(unknown: Path) -> None:
    error = str(run(unknown, "--by", "pretraining").exception)
    assert error.startswith("--by pretraining: not known of mine, ours; say it in a suite's YAML (models: [{ref: ...,")


def test_a_suite_says_what_its_models_are(unknown: Path, tmp_path: Path) -> None:
    suite = tmp_path / "made.yaml"
    suite.write_text(
        "name: made\nversion: 1\nquantizations: [fp32]\nmodels:\n"
        "  - {ref: mine, pretraining: photos}\n  - {ref: ours, pretraining: drawings}\n"
        "data: {d: {source: demo, split: test}}\ntasks: {zero_shot: {d: {test: d}}}\n"
    )
    result = run(unknown, "--by", "pretraining", "--format", "csv", suite=str(suite))
    assert result.exit_code == 0, result.output
    assert {row["pretraining"] for row in csv.DictReader(io.StringIO(result.stdout))} == {"photos", "drawings"}


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (("--by", "bits"), "note: there are 2 models; intervals are of these models only"),
        (("--by", "model"), "note: every group has one model; intervals are of these models only"),
        (("--by", "bits", "--model", "mine"), "note: there is one model, mine; intervals are of these models only"),
    ],
)
def test_groups_with_few_models_are_told_in_one_line(unknown: Path, arguments: tuple[str, ...], note: str) -> None:
    result = run(unknown, *arguments)
    assert result.exit_code == 0
    [line] = [line for line in result.stderr.splitlines() if line.startswith("note:")]
    assert line.startswith(note)
    assert line.endswith("of models of their kind takes at least 3")
    assert "note:" not in run(unknown, *arguments, "--quiet").stderr


def test_some_groups_with_few_models_are_named(home: Path) -> None:
    assert "1 of 2 groups have fewer than 3 models (LAION: one)" in run(home, "--by", "pretraining").stderr


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    made = Made()
    put_kinds(made, TEN[0], W4, {"accuracy": (-0.02, 0.004)})
    put_kinds(made, TEN[0], W8, {"accuracy": (-0.02, 0.004)})
    made.records = {key: r for key, r in made.records.items() if r.quantization != "fp32"}
    made.write(tmp_path)
    result = run(tmp_path, "--by", "bits", "--format", "csv")
    assert result.exit_code == 3
    assert "no full-precision evaluation on the same data" in result.stderr


def test_an_exported_model_is_no_other_model(tmp_path: Path) -> None:
    """It has its origin's full precision, by the comparison key, and a name of its own."""
    made = Made()
    put_kinds(made, TEN[0], W4, {"accuracy": (-0.02, 0.004)})
    [(key, record)] = [(key, r) for key, r in made.records.items() if r.quantization == W4]
    made.records["f" * 64] = replace(record, key="f" * 64, model="exported")
    made.evidence["f" * 64] = made.evidence[key]
    made.write(tmp_path)
    [row] = rows(tmp_path, "--by", "bits")
    assert (row["runs"], row["models"]) == ("1", "1")
    result = run(tmp_path, "--claims")
    assert "(1 model, 1 run beside full precision)" in " ".join(result.stdout.split())
