"""`reliquant show` on a small results folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmark.cli.app import app
from benchmark.errors import InputError, UnknownNameError
from tests.report_home import NASTY, NF4, W4, write_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    write_home(folder)
    return folder


def show(home: Path, *arguments: str) -> Result:
    environment = {"COLUMNS": "80", "NO_COLOR": "1"}
    return CliRunner().invoke(app, ["show", *arguments, "--suite", "small", "--home", str(home)], env=environment)


def test_everything_on_80_columns(home: Path) -> None:
    result = show(home, W4)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(result.stdout.split())
    for part in (
        "weights 4 bits per channel, symmetric",
        "activations 8 bits per token, symmetric",
        "1 layers replaced, 1 skipped; 100.0% of the weights",
        "skipped visual.conv1: a stem",
        "4.00 effective bits per weight (both towers)",
        "not measured: it is simulated, nothing that `export` writes runs this way",
        "zero_shot/scenes",
        "vuln_add ↓",
        "q < 0.05",
        "torch 2",
        "cpu (AVX2, 2 threads)",
        f"failed: selective/scenes: {NASTY}",
    ):
        assert part in text
    assert any(line.split()[:2] == ["accuracy", "↑"] and line.split()[-1] == "***" for line in lines)


def test_single_corruptions_only_on_request(home: Path) -> None:
    assert "fog/3/accuracy" not in show(home, W4).stdout
    assert "more: --all" in show(home, W4).stdout
    everything = show(home, W4, "--all").stdout
    assert "fog/3/accuracy" in everything
    assert "more: --all" not in everything


def test_a_measured_speed_and_full_precision(home: Path) -> None:
    text = " ".join(show(home, NF4).stdout.split())
    assert "7.00 ms for one image (p95 50.00), 100 images/s in batches of 32 (float, AVX2, 2 threads)" in text
    assert "0.21 times full precision's latency, 95 % interval 0.19 to 0.22 (6 rounds)" in text
    assert "noisy" not in text
    base = show(home, "fp32").stdout
    assert "full precision" in base
    assert "q < 0.05" not in base


def test_json_for_machines(home: Path) -> None:
    first, second = (json.loads(line) for line in show(home, "{rtn-w4*,bnb-nf4-vision}", "--json").stdout.splitlines())
    assert (first["quantization"], second["quantization"]) == (W4, NF4)
    assert first["scheme"]["weight_bits"] == 4
    assert first["report"]["towers"]["vision"]["bits_per_weight"] == 4.0
    assert first["efficiency"]["speed"] is None
    assert first["failed"] == {"selective/scenes": NASTY}
    assert first["provenance"]["zero_shot/scenes"]["versions"]["torch"] == "2"
    accuracy = next(c for c in first["changes"] if c["metric"] == "zero_shot/scenes/accuracy")
    assert accuracy["value"] == first["metrics"]["zero_shot/scenes/accuracy"]
    assert accuracy["low"] < accuracy["change"] < accuracy["high"]


def test_a_misspelt_name(home: Path) -> None:
    result = show(home, "rtn-w4a8-chanel-token-vision")
    assert isinstance(result.exception, UnknownNameError)
    assert f"Did you mean '{W4}'?" in str(result.exception)
    assert isinstance(show(home, "small").exception, UnknownNameError)


@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations
def test_a_run_of_mlflow_by_its_id(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id of a quantization's run, or of one of its evaluations."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.create_experiment("small")
    tags = {"kind": "configuration", "suite": "small", "model": "tiny"}
    parent = client.create_run(experiment, tags=tags, run_name=W4).info.run_id
    child = client.create_run(experiment, tags={"kind": "evaluation", "mlflow.parentRunId": parent}).info.run_id
    other = client.create_run(experiment, tags={"kind": "spectrum"}).info.run_id
    for run_id in (parent, child):
        assert json.loads(show(home, run_id, "--json").stdout)["quantization"] == W4
    for run_id, message in ((other, "of kind 'spectrum'"), ("f" * 32, "is not in the MLflow store")):
        result = show(home, run_id)
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)
