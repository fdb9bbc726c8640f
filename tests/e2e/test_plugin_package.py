"""A stranger's package, really installed (into a throw-away folder), is listed and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "plugin_package"
ROOT = PACKAGE.parent.parent

SUITE = """
name: stickers
version: 1
models: [demo]
quantizations: [fp32]
data:
  scenes: {source: demo, split: test}
  textured: {source: demo, split: textured}
tasks:
  typographic:
    scenes: {clean: scenes, attacked: textured}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([*command, "--python", sys.executable, str(PACKAGE)], check=True, capture_output=True, timeout=120)
    return target


def reliquant(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a folder of its own, with the package on the import path."""
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmark", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def rows(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_the_package_is_not_here_without_being_installed() -> None:
    from benchmark.plugins import tasks

    assert "typographic" not in tasks


def test_its_task_is_listed_with_its_origin(site: Path, tmp_path: Path) -> None:
    result = reliquant(site, tmp_path, "list", "tasks", "--json")
    assert result.returncode == 0, result.stderr
    found = {row["task"]: row for row in rows(result.stdout)}
    assert found["typographic"]["from"] == "reliquant-typographic"
    assert found["typographic"]["roles"] == ["clean", "attacked"]
    assert found["zero_shot"]["from"] == "reliquant"


def test_its_task_runs(site: Path, tmp_path: Path) -> None:
    (tmp_path / "stickers.yaml").write_text(SUITE)
    result = reliquant(
        site, tmp_path, "run", "stickers.yaml", "--limit", "16", "--tracker", "jsonl", "--json", "--home", "home"
    )
    assert result.returncode == 0, result.stderr
    [row] = rows(result.stdout)
    assert row["task"] == "typographic"
    metrics = row["metrics"]
    assert set(metrics) == {"typographic/scenes/accuracy_drop", "typographic/scenes/attacked_accuracy"}
    assert 0 <= metrics["typographic/scenes/attacked_accuracy"] <= 1
    assert (tmp_path / "home" / "records.jsonl").read_text().count("\n") == 1


def test_its_figures_appear_in_mlflow_and_in_the_report(site: Path, tmp_path: Path) -> None:
    """Without a further line: what it declares to be drawn is drawn."""
    (tmp_path / "stickers.yaml").write_text(SUITE)
    asked = ("stickers.yaml", "--limit", "16", "--home", "home", "--quant", "rtn-w4a8-vision", "--no-speed")
    result = reliquant(site, tmp_path, "run", *asked)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "home" / "artifacts").rglob("attack.png"))) == 2
    assert len(list((tmp_path / "home" / "artifacts").rglob("samples.attacked.csv"))) == 2
    result = reliquant(site, tmp_path, "report", "stickers.yaml", "--home", "home", "-o", "page.html")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "page.html").read_text()
    assert 'alt="typographic/scenes: attack, rtn-w4a8-channel-token-vision"' in page
    assert "Accuracy with a word over the image, and what the word costs." in page
