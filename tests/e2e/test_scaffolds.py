"""`reliquant new`: what it writes passes its own contract test and runs on the demo."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.test_cli import ROOT, call
from tests.e2e.test_suites import records
from tests.layouts import write_image_folder
from tests.registries import restored

Reliquant = Callable[..., tuple[int, str, str]]
SUITE = """
name: insects
version: 1
models: [demo]
quantizations: [fp32]
data:
  insects: {source: inventory, path: ./insects}
tasks:
  zero_shot:
    insects: {test: insects}
"""


@pytest.fixture
def reliquant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reliquant:
    """The command line in an empty folder: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capsys, *map(str, arguments))


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Included plugins are known to one test only."""
    with restored():
        yield


def own_test_passes(folder: Path, name: str) -> None:
    """The written contract test, as its author would run it."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", f"test_{name}.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout


def run(reliquant: Reliquant, *arguments: object) -> dict[str, dict[str, Any]]:
    """Metrics of a small run by quantization."""
    options = ("--home", "home", "--tracker", "jsonl", "--limit", "12", "--no-speed")
    status, _, err = reliquant("run", *arguments, *options)
    assert status == 0, err
    return {record["quantization"]: record["metrics"] for record in records(Path("home"))}


def test_a_task_comes_with_a_suite_that_runs_it(reliquant: Reliquant, tmp_path: Path) -> None:
    """Its contract test is run in tests/e2e/test_cli.py."""
    status, out, _ = reliquant("new", "task", "blind_spot")
    assert status == 0
    written = ["blind_spot.py", "test_blind_spot.py", "blind_spot.yaml"]
    assert [line.removeprefix("wrote ") for line in out.splitlines()[:3]] == written
    found = run(reliquant, "blind_spot.yaml", "--include", "blind_spot.py", "--quant", "rtn-w4a8-vision")
    assert set(found) == {"fp32", "rtn-w4a8-channel-token-vision"}
    assert all(0 <= values["blind_spot/scenes/error"] <= 1 for values in found.values())


def test_a_quantizer_passes_its_tests_and_runs(reliquant: Reliquant, tmp_path: Path) -> None:
    assert reliquant("new", "quantizer", "softclip")[0] == 0
    own_test_passes(tmp_path, "softclip")
    names = ("--quant", "softclip-w4-vision", "--quant", "softclip-w4-keep_1.0-vision", "--quant", "rtn-w4-vision")
    found = run(reliquant, "demo", "--include", "softclip.py", "--task", "zero_shot", *names)
    assert set(found) == {
        "fp32",
        "softclip-w4-channel-vision",
        "softclip-w4-channel-keep_1.0-vision",
        "rtn-w4-channel-vision",
    }
    assert found["softclip-w4-channel-keep_1.0-vision"] == found["rtn-w4-channel-vision"]


def test_a_source_passes_its_tests_and_runs(reliquant: Reliquant, tmp_path: Path) -> None:
    assert reliquant("new", "source", "inventory")[0] == 0
    own_test_passes(tmp_path, "inventory")
    made = write_image_folder(tmp_path / "insects", ["ant", "bee"], 8)
    table = [f"{('ant', 'bee')[sample.label]}/{sample.file},{('ant', 'bee')[sample.label]}" for sample in made]
    (tmp_path / "insects" / "images.csv").write_text("\n".join(["file,class", *table]))
    (tmp_path / "insects.yaml").write_text(SUITE)
    found = run(reliquant, "insects.yaml", "--include", "inventory.py")
    assert found["fp32"]["zero_shot/insects/samples"] == 8


def test_a_runtime_passes_its_tests_and_runs(reliquant: Reliquant, tmp_path: Path) -> None:
    assert reliquant("new", "runtime", "matrices")[0] == 0
    own_test_passes(tmp_path, "matrices")
    weight = np.random.default_rng(0).normal(size=(64, 3 * 64 * 64)).astype(np.float32)
    with Path("phone.matrices").open("wb") as file:
        np.savez(file, weight=weight)
    names = ("--task", "zero_shot", "--quant", "fp32", "--artifact", "phone=phone.matrices")
    found = run(reliquant, "demo", "--include", "matrices.py", *names)
    assert set(found) == {"fp32", "phone"}
    assert found["phone"]["zero_shot/digits/accuracy"] < found["fp32"]["zero_shot/digits/accuracy"]


@pytest.mark.parametrize("kind", ["task", "quantizer", "source", "runtime"])
def test_nothing_is_overwritten(kind: str, reliquant: Reliquant, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("precious")
    status, _, err = reliquant("new", kind, "mine")
    assert status == 2
    assert "test_mine.py exists already" in err
    assert [place.name for place in tmp_path.iterdir()] == ["test_mine.py"]


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("task", "zero_shot", "already"),
        ("quantizer", "rtn", "already"),
        ("quantizer", "soft_clip", "digits only"),
        ("quantizer", "torch", "something else"),
        ("source", "image_folder", "already"),
        ("source", "rows", "something else"),
        ("runtime", "onnx", "already"),
        ("runtime", "my_chip", "digits only"),
    ],
)
def test_names_that_cannot_be(kind: str, name: str, says: str, reliquant: Reliquant, tmp_path: Path) -> None:
    status, _, err = reliquant("new", kind, name)
    assert status == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
