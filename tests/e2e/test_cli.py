"""The command line from outside: bad input is one line and exit 2; a small run from beginning to end."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent
QUANT = "rtn-w4a8-channel-token-vision"
SUITE = """
name: small
version: 1
description: A small part of the demo.
models: [demo]
quantizations: [fp32]
data:
  scenes: {source: demo, split: test}
  far: {source: demo, split: far_ood, text: none}
  scenes-c: {source: demo, split: test, corruptions: [contrast], severities: [5]}
tasks:
  zero_shot:
    scenes: {test: scenes}
  calibration:
    scenes: {test: scenes}
  ood:
    scenes.far: {id: scenes, ood: far}
  corruption:
    scenes: {clean: scenes, corrupted: scenes-c}
"""


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["reliquant", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    output = capsys.readouterr()
    status = caught.value.code
    assert isinstance(status, int)
    return status, output.out, output.err


def changed(old: str, new: str) -> str:
    assert old in SUITE
    return SUITE.replace(old, new)


BAD_SUITES = {
    "unknown task": (changed("zero_shot:", "zero_shoot:"), "Did you mean 'zero_shot'"),
    "unknown quantizer": (changed("[fp32]", "[rnt-w4]"), "Did you mean 'rtn'"),
    "unknown field": (changed("split: far_ood", "spilt: far_ood"), "Did you mean 'split'"),
    "unknown source": (changed("source: demo, split: far_ood", "source: demmo, split: far_ood"), "Did you mean 'demo'"),
    "unknown split": (changed("split: far_ood", "split: far_odd"), "Did you mean 'far_ood'"),
    "unknown role": (changed("{id: scenes, ood: far}", "{id: scenes, odd: far}"), "Did you mean 'ood'"),
    "unbound role": (changed("{id: scenes, ood: far}", "{id: scenes}"), "role 'ood' is not bound"),
    "unknown data set": (changed("ood: far}", "ood: fra}"), "Did you mean 'far'"),
    "unknown corruption": (changed("[contrast]", "[contrats]"), "Did you mean 'contrast'"),
    "severity out of range": (changed("severities: [5]", "severities: [6]"), "severities"),
    "unknown option": (changed("ood: far}", "ood: far, options: {score: [mcm]}}"), "Did you mean 'scores'"),
    "unknown score": (changed("ood: far}", "ood: far, options: {scores: [mmc]}}"), "mcm"),
    "bits out of range": (changed("[fp32]", "[rtn-w9]"), "weight_bits"),
    "no calibration data": (changed("[fp32]", "[rtn-w8a8-channel-tensor-vision]"), "calibration"),
    "unknown model": (changed("models: [demo]", "models: [dmeo]"), "dmeo"),
    "missing checkpoint": (changed("models: [demo]", "models: ['local-dir:/no/such/folder']"), "/no/such/folder"),
    "missing folder": (
        changed("{source: demo, split: far_ood, text: none}", "{source: image_folder, path: /no/such/images}"),
        "/no/such/images",
    ),
    "not yaml": ("name: [", "YAML"),
    "empty": ("", "mapping"),
}


@pytest.mark.parametrize("case", BAD_SUITES)
def test_bad_suites(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, says = BAD_SUITES[case]
    (tmp_path / "suite.yaml").write_text(text)
    home = tmp_path / "home"
    status, out, err = call(monkeypatch, capsys, "run", str(tmp_path / "suite.yaml"), "--home", str(home))
    assert status == 2
    assert out == ""
    assert err.startswith("reliquant: error: ")
    assert len(err.splitlines()) == 1
    assert says in err
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "dmeo"], "Did you mean 'demo'"),
        (["run", "--task", "zero_shoot"], "Did you mean 'zero_shot'"),
        (["run", "--quant", "rnt-w4"], "Did you mean 'rtn'"),
        (["run", "--quant", "rtn-w9a8"], "weight_bits"),
        (["run", "--quant", "rtn-w4a2"], "activation_bits"),
        (["run", "--quant", "bnb-nf4-w4"], "weight_bits"),
        (["run", "--limit", "0"], "--limit"),
        (["run", "--data", "scenes"], "NAME=PATH"),
        (["run", "--data", "scenes=/no/such/folder"], "/no/such/folder"),
        (["run", "--device", "tpu"], "--device"),
        (["run", "--device", "nonsense"], "--device"),
        (["run", "--tracker", "mlfow"], "Did you mean 'mlflow'"),
        (["run", "--include", "/no/such/file.py"], "/no/such/file.py"),
        (["run", "--model", ""], "--model"),
        (["validate", "dmeo"], "Did you mean 'demo'"),
        (["validate", "/no/such/suite.yaml"], "no such file"),
        (["new", "task", "Bad-Name"], "lower-case"),
        (["new", "task", "class"], "class"),
        (["new", "task", "json"], "json"),
        (["new", "task", "correct"], "correct"),
        (["new", "task", "mine", "--folder", "/no/such/folder"], "/no/such/folder"),
        (["list", "tasks", "--include", "/no/such/file.py"], "/no/such/file.py"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = call(monkeypatch, capsys, *arguments)
    assert status == 2
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["run", "--batch-size", "0"], ["list", "tsaks"], ["rnu"], ["run", "--lmit", "3"]]
)
def test_bad_usage(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(monkeypatch, capsys, *arguments)
    assert status == 2
    assert "Traceback" not in err


def test_an_unwritable_home_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "suite.yaml").write_text(SUITE)
    home = str(tmp_path / "file" / "home")
    arguments = ("run", str(tmp_path / "suite.yaml"), "--home", home, "--task", "zero_shot", "--limit", "8")
    status, _, err = call(monkeypatch, capsys, *arguments)
    assert status == 2
    assert home in err
    assert "--home" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("what", ["tasks", "quantizers", "models", "data", "suites"])
def test_lists_are_tables_and_json(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = call(monkeypatch, capsys, "list", what, "--json")
    assert status == 0
    assert len([json.loads(line) for line in out.splitlines()]) >= 1
    status, table, _ = call(monkeypatch, capsys, "list", what)
    assert status == 0
    assert len(table.splitlines()) > len(out.splitlines()) / 2


def test_help_is_quick_and_light() -> None:
    code = "import sys, benchmark.cli; print(sorted({'torch', 'mlflow', 'numpy', 'datasets'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


# --- one small run -----------------------------------------------------------------------------------------------


class Small:
    """A results folder and the runs made in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "small.yaml").write_text(SUITE)

    def run(self, *arguments: str, suite: str = "small.yaml") -> subprocess.CompletedProcess[str]:
        """`reliquant run` in the folder."""
        command = [sys.executable, "-m", "benchmark", "run", suite, "--limit", "40", "--home", "home", "--json"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*command, "--quant", QUANT, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def banks(self) -> list[str]:
        """Names of all cached feature banks."""
        return sorted(p.parent.name for p in (self.folder / "home" / "cache" / "banks").glob("*/*/meta.json"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def first(small: Small) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]], list[str]]:
    """Three of the four tasks, logged to MLflow: the process, its records, and the banks that it left."""
    result = small.run("--task", "zero_shot", "--task", "ood", "--task", "corruption")
    assert result.returncode == 0, result.stderr
    return result, [json.loads(line) for line in result.stdout.splitlines()], small.banks()


def test_stdout_is_json_lines_only(first: Any) -> None:
    _, records, _ = first
    assert [(r["quantization"], r["task"]) for r in records] == [
        (q, t) for q in ("fp32", QUANT) for t in ("zero_shot", "ood", "corruption")
    ]
    assert {r["status"] for r in records} == {"done"}


def test_metrics_are_finite_and_named_by_their_path(first: Any) -> None:
    for record in first[1]:
        prefix = f"{record['task']}/{record['dataset']}/"
        assert record["metrics"]
        for key, value in record["metrics"].items():
            assert key.startswith(prefix)
            assert math.isfinite(value)
            assert key.count("/") >= 2


def test_quantized_records_carry_their_change(first: Any) -> None:
    by = {(r["quantization"], r["task"]): r for r in first[1]}
    for task in ("zero_shot", "ood", "corruption"):
        full, quantized = by["fp32", task], by[QUANT, task]
        assert full["change"] == {}
        for key, change in quantized["change"].items():
            assert change == pytest.approx(quantized["metrics"][key] - full["metrics"][key], abs=1e-12)
    assert "corruption/scenes/mean_corruption_error_fp32" in by[QUANT, "corruption"]["metrics"]
    assert any(by[QUANT, "ood"]["change"].values())


def test_the_report_and_the_summary_are_there(first: Any, small: Small) -> None:
    result, _, _ = first
    assert "6 evaluations: 6 computed, 0 from the ledger, 0 failed" in result.stderr
    rows = [json.loads(line) for line in (small.folder / "home" / "ledger.jsonl").read_text().splitlines()]
    reports = [row["report"] for row in rows if row["kind"] == "report"]
    assert len(reports) == 2
    timed = {row["efficiency"]["quantization"]: row["efficiency"] for row in rows if row["kind"] == "timing"}
    assert set(timed) == {"fp32", QUANT}
    assert timed["fp32"]["speed"]["images_per_second"] > 0
    assert timed[QUANT]["packed_bytes"] < timed["fp32"]["packed_bytes"]
    assert {r["quantization"]: r["efficiency"] for r in first[1]} == timed
    assert (small.folder / "home" / "mlflow.db").is_file()


def test_nothing_is_written_outside_home(first: Any, small: Small) -> None:
    assert sorted(path.name for path in small.folder.iterdir()) == ["home", "small.yaml"]


def test_a_second_run_computes_nothing(first: Any, small: Small) -> None:
    again = small.run("--task", "zero_shot", "--task", "ood", "--task", "corruption")
    assert again.returncode == 0, again.stderr
    assert "6 evaluations: 0 computed, 6 from the ledger, 0 failed" in again.stderr
    assert [json.loads(line) for line in again.stdout.splitlines()] == first[1]
    assert small.banks() == first[2]


def test_a_task_added_later_costs_no_forward_pass(first: Any, small: Small) -> None:
    """Calibration needs the bank of `scenes`, which is there."""
    later = small.run("--task", "calibration", "--tracker", "jsonl")
    assert later.returncode == 0, later.stderr
    assert "2 evaluations: 2 computed, 0 from the ledger, 0 failed" in later.stderr
    assert small.banks() == first[2]
    assert "embed" not in later.stderr


def test_a_damaged_bank_is_found_and_made_again(first: Any, small: Small) -> None:
    """The result is the same as before, and the damage is said."""
    bank = max((small.folder / "home" / "cache" / "banks").rglob("*.bin"), key=lambda path: path.stat().st_size)
    content = bytearray(bank.read_bytes())
    content[-3] ^= 0x10
    bank.write_bytes(content)
    (small.folder / "home" / "ledger.jsonl").rename(small.folder / "home" / "kept.jsonl")
    again = small.run("--task", "zero_shot", "--task", "ood", "--task", "corruption", "--tracker", "jsonl")
    assert again.returncode == 0, again.stderr
    assert "damaged cache entry" in again.stderr
    assert small.banks() == first[2]
    for record, before in zip([json.loads(line) for line in again.stdout.splitlines()], first[1], strict=True):
        assert record["metrics"] == pytest.approx(before["metrics"], abs=1e-9)


def test_a_scaffolded_task_passes_its_tests_and_runs(
    small: Small,
    first: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, _ = call(monkeypatch, capsys, "new", "task", "blind_spot", "--folder", str(tmp_path))
    assert status == 0
    assert "blind_spot.py" in out
    own = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_blind_spot.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert own.returncode == 0, own.stdout
    assert "12 passed" in own.stdout
    suite = small.folder / "blind.yaml"
    suite.write_text(SUITE.split("tasks:", maxsplit=1)[0] + "tasks:\n  blind_spot:\n    scenes: {test: scenes}\n")
    ran = small.run("--include", str(tmp_path / "blind_spot.py"), "--tracker", "jsonl", suite="blind.yaml")
    suite.unlink()
    assert ran.returncode == 0, ran.stderr
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    accuracy = {
        r["quantization"]: r["metrics"]["zero_shot/scenes/accuracy"] for r in first[1] if r["task"] == "zero_shot"
    }
    for record in records:
        assert record["metrics"]["blind_spot/scenes/error"] == pytest.approx(1 - accuracy[record["quantization"]])
    assert len(records) == 2
