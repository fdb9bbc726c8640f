"""`reliquant gate` on small ledgers written by hand: exit statuses, baselines, formats, bad input; no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from benchmark import Banks
from benchmark.cli.app import app
from benchmark.errors import InputError, ReliquantError, StorageError, UnknownNameError
from benchmark.ledger.records import Ledger, Record
from benchmark.plugins import Outcome, tasks
from benchmark.results.baseline import RECORD, changes_from, of_records, to_json
from benchmark.testing import make_bank

W8, W4 = "rtn-w8a8-channel-token-vision", "rtn-w4a8-channel-token-vision"
KEY = "zero_shot/scenes/accuracy"


def write(
    ledger: Ledger, quantization: str, noise: float, samples: int = 400, seed: int = 1, version: int = 1
) -> Record:
    task, bank = tasks.get("zero_shot"), make_bank(seed=seed, samples=samples)
    image = bank.image + noise * np.random.default_rng(2).standard_normal(bank.image.shape)
    bank = replace(bank, image=(image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float32))
    outcome = task.run(Banks({"test": [bank]}))
    record = Record(
        key=f"{quantization}-{samples}-{version}",
        configuration=quantization,
        suite="small",
        model="tiny",
        quantization=quantization,
        task="zero_shot",
        dataset="scenes",
        status="done",
        seconds=0.0,
        metrics={f"zero_shot/scenes/{key}": value for key, value in outcome.metrics.items()},
        comparison_key=str(samples),
        identity={"task": {"name": "zero_shot", "version": version}},
    )
    ledger.append(record, outcome)
    return record


def folder(path: Path, *quantizations: str, samples: int = 400, version: int = 1) -> Path:
    """A results folder: fp32, a lossless W8 and a broken W4, as far as asked for."""
    for name in quantizations:
        write(Ledger(path), name, 0.5 if name == W4 else 0.0, samples, version=version)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return folder(tmp_path / "home", "fp32", W8, W4)


def gate(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["gate", *arguments, "--suite", "small", "--home", str(home)])


def refused(home: Path, *arguments: str) -> ReliquantError:
    result = gate(home, *arguments)
    assert isinstance(result.exception, ReliquantError), result.output
    assert "\n" not in str(result.exception)
    assert result.stdout == ""
    return result.exception


def test_the_exit_status_is_the_verdict(home: Path, tmp_path: Path) -> None:
    assert gate(home, W8).exit_code == 0
    assert gate(home, W4).exit_code == 1
    few = folder(tmp_path / "few", "fp32", W8, samples=60)
    result = gate(few, W8)
    assert result.exit_code == 4
    lines = result.stdout.splitlines()
    assert lines[0] == f"cannot tell: {W8} of tiny, on 60 images, against {few}"
    assert lines[1].startswith(f"  cannot tell   {KEY} +0.0000 [-0.0447, +0.0447], margin 0.02")
    assert lines[2].startswith("  about ")


def test_the_worst_of_several_decides(home: Path) -> None:
    result = gate(home, W8, W4)
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.stdout.splitlines() if not line.startswith(" ")] == [
        "non-inferior",
        "inferior",
    ]
    assert gate(home, "rtn-*").stdout == result.stdout
    assert gate(home, "rtn-{w8,w4}a8-channel-token-vision").stdout == result.stdout


def test_a_margin_of_the_command_line_counts(home: Path) -> None:
    assert gate(home, W4, "--margin", f"{KEY}=0.99").exit_code == 0
    assert gate(home, W8, "--margin", "zero_shot/*=0.0001").exit_code == 4
    assert "margin 0.99" in gate(home, W4, "--margin", f"{KEY}=0.99").stdout


def test_a_headline_metric_that_nobody_evaluated_does_not_pass(home: Path, tmp_path: Path) -> None:
    """The suite's file names it; a gate must not pass for what nobody looked at."""
    suite = tmp_path / "small.yaml"
    suite.write_text(
        "name: small\nversion: 1\nmodels: [demo]\nquantizations: [fp32]\n"
        "data: {scenes: {source: demo, split: test}}\n"
        "tasks: {zero_shot: {scenes: {test: scenes}}, calibration: {scenes: {test: scenes}}}\n"
        f"headline: [{KEY}, calibration/scenes/ece_15]\nmargins: {{calibration/*: 0.05}}\n"
    )
    result = CliRunner().invoke(app, ["gate", W8, "--suite", str(suite), "--home", str(home)])
    assert result.exit_code == 4
    assert "calibration/scenes/ece_15_debiased: it has no value to compare" in result.stdout


def test_json_has_one_object_a_configuration(home: Path) -> None:
    result = gate(home, "rtn-*", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["quantization"], row["verdict"]) for row in rows] == [(W8, "non-inferior"), (W4, "inferior")]
    [metric] = rows[1]["metrics"]
    assert (metric["metric"], metric["margin"], metric["images"]) == (KEY, 0.02, 400)
    assert metric["high"] < -0.02


def test_junit_fails_what_is_inferior_and_has_an_error_where_it_cannot_tell(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "gate.xml"
    assert gate(home, "rtn-*", "--junit", str(out)).exit_code == 1
    good, bad = ET.parse(out).getroot()
    assert (good.get("name"), good.get("tests"), good.get("failures")) == (f"tiny {W8}", "1", "0")
    assert (bad.get("failures"), bad.get("errors")) == ("1", "0")
    assert [case.get("name") for case in bad] == [KEY]
    assert "margin 0.02" in str(bad[0][0].get("message"))
    few = folder(tmp_path / "few", "fp32", W8, samples=60)
    assert gate(few, W8, "--junit", str(out)).exit_code == 4
    [unsure] = ET.parse(out).getroot()
    assert (unsure.get("failures"), unsure.get("errors"), unsure[0][0].tag) == ("0", "1", "error")


def test_the_baseline_may_be_an_earlier_results_folder(home: Path, tmp_path: Path) -> None:
    own = folder(tmp_path / "own", W8, W4)
    assert "has no full-precision evaluation of 'tiny' in suite 'small'" in str(refused(own, W8))
    assert gate(own, W8, "--baseline", str(home)).exit_code == 0
    result = gate(own, W4, "--baseline", str(home))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:] == gate(home, W4).stdout.splitlines()[1:]


def test_the_baseline_may_be_an_exported_record(home: Path, tmp_path: Path) -> None:
    """Without the ledger of then; the numbers are the same."""
    ledger, own = Ledger(home), folder(tmp_path / "own", W8, W4)
    full = [record for record in ledger.records.values() if record.quantization == "fp32"]
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / RECORD).write_text(to_json(of_records("x", full, ledger)))
    for path in (exported, exported / RECORD):
        result = gate(own, W4, "--baseline", str(path))
        assert result.exit_code == 1
        assert result.stdout.splitlines()[1:] == gate(home, W4).stdout.splitlines()[1:]


def test_other_images_and_other_versions_are_no_baseline(home: Path, tmp_path: Path) -> None:
    other = folder(tmp_path / "other", W8, samples=300)
    error = refused(other, W8, "--baseline", str(home))
    assert isinstance(error, InputError)
    assert "zero_shot/scenes" in str(error)
    assert "evaluate both on the same data" in str(error)
    older = folder(tmp_path / "older", "fp32", version=2)
    assert "by version 2 of task 'zero_shot'" in str(
        refused(folder(tmp_path / "own", W8), W8, "--baseline", str(older))
    )


def test_bad_input_is_one_line_before_any_work(home: Path, tmp_path: Path) -> None:
    for text in ("x", f"{KEY}=0", f"{KEY}=-0.1", f"{KEY}=much"):
        assert f"--margin {text}: it needs KEY=VALUE with a positive number" in str(refused(home, W8, "--margin", text))
        nowhere = gate(tmp_path / "nowhere", W8, "--margin", text)
        assert "--margin" in str(nowhere.exception), "said before the results folder is looked at"
    error = refused(home, W8, "--margin", "zero_shot/scenes/acuracy=0.1")
    assert isinstance(error, UnknownNameError)
    assert f"Did you mean '{KEY}'" in str(error)
    assert isinstance(refused(home, "rtn-w3a8-channel-token-vision"), UnknownNameError)
    assert isinstance(refused(home, "fp32"), UnknownNameError)
    assert "unknown model in the results of 'small' 'tony'" in str(refused(home, W8, "--model", "tony"))
    assert isinstance(refused(home, W8, "--junit", str(tmp_path / "no" / "gate.xml")), StorageError)
    assert "holds no results" in str(refused(tmp_path / "nowhere", W8))
    assert "no such file or folder" in str(refused(home, W8, "--baseline", str(tmp_path / "nowhere")))
    assert "neither a results folder" in str(refused(home, W8, "--baseline", str(tmp_path)))
    assert gate(home).exit_code == 2


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 9}', '{"format": 1, "model": "m", "evaluations": 3}',
     '{"format": 1, "model": "m", "evaluations": {"a/b": {"metrics": {}, "task_version": 1, "evidence": "AAAA"}}}'],
)  # fmt: skip
def test_a_damaged_record_is_refused_with_its_name(home: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "record.json"
    file.write_text(content)
    assert f"--baseline {file}: " in str(refused(home, W8, "--baseline", str(file)))


def test_it_needs_no_torch(home: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from benchmark.cli.app import main; main()"
    command = [sys.executable, "-c", program, "gate", W4, "--suite", "small", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(f"inferior: {W4} of tiny")


def test_a_metric_that_only_a_comparison_has_counts_from_its_neutral_value(tmp_path: Path) -> None:
    ledger, task = Ledger(tmp_path), tasks.get("spurious")
    made: dict[str, tuple[Record, Outcome]] = {}
    for quantization, noise in (("fp32", 0.0), (W4, 0.3)):
        banks = []
        for seed, side in enumerate(("common", "counter")):
            bank = make_bank(seed=seed, samples=300, dataset=side)
            image = bank.image + noise * np.random.default_rng(seed).standard_normal(bank.image.shape)
            banks.append(replace(bank, image=(image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float32)))
        outcome = task.run(Banks({"common": banks[:1], "counter": banks[1:]}))
        metrics = dict(outcome.metrics)
        if made:
            reference = made["fp32"][1].columns
            metrics |= task.run_comparison(outcome.columns, reference, task.options()).metrics
        record = replace(write(Ledger(tmp_path / "other"), quantization, 0.0), task="spurious", dataset="birds")
        record = replace(record, metrics={f"spurious/birds/{key}": value for key, value in metrics.items()})
        record = replace(record, identity={"task": {"name": "spurious", "version": task.version}})
        ledger.append(record, outcome)
        made[quantization] = ledger.records[record.key], outcome
    baseline = of_records("x", [made["fp32"][0]], ledger)
    found = changes_from(baseline, [made[W4][0]], ledger, ["spurious/birds/delta_rsg", "spurious/birds/rsg"])
    gained, rsg = found["spurious/birds/delta_rsg"], found["spurious/birds/rsg"]
    assert gained.reference == 0.0
    assert gained.change == pytest.approx(rsg.value - rsg.reference)
    assert (gained.low, gained.high) == pytest.approx((rsg.low, rsg.high), abs=0.002)  # other slack
