"""The workflow of docs/gate.md: its shell steps, run as CI would, and a gate against what `export` writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from tests.docs.markdown import ROOT, blocks

pytestmark = pytest.mark.slow
NAME = "rtn-w8a8-channel-token-vision"


def page() -> tuple[dict[str, Any], str]:
    """The workflow, and the text of the suite beside it."""
    found = [block.text for block in blocks(ROOT / "docs" / "gate.md") if block.language == "yaml"]
    return yaml.safe_load(found[0]), found[1]


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    """Runs a step like CI does: bash that stops at the first error, `reliquant` on the path."""
    program = tmp_path / "bin" / "reliquant"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m benchmark "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": path, "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_workflows_steps_pass_and_its_gate_closes(shell: Any, tmp_path: Path) -> None:
    workflow, suite = page()
    (tmp_path / "nightly.yaml").write_text(suite)
    steps = {step["name"]: step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step}
    assert list(steps) == ["install", "evaluate", "gate"]
    for name in ("evaluate", "gate"):  # what `install` makes is the checkout that runs this test
        done = shell(steps[name])
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    assert done.stdout.startswith(f"non-inferior: {NAME} of demo, on 2,400 images, against mlruns")
    [suite_of_tests] = ET.parse(tmp_path / "gate.xml").getroot()
    assert suite_of_tests.get("failures") == suite_of_tests.get("errors") == "0"
    strict = shell(steps["gate"].replace("=0.02", "=0.0001"))
    assert strict.returncode in (1, 4), "a margin that small cannot be kept"

    done = shell(f"reliquant export {NAME} --suite nightly.yaml --to packed --quiet")
    assert done.returncode == 0, done.stderr
    assert (
        "**Against full precision: non-inferior** (on 2,400 images" in (tmp_path / "packed" / "README.md").read_text()
    )
    for baseline in ("packed", "packed/record.json"):
        again = shell(f"reliquant gate {NAME} --suite nightly.yaml --baseline {baseline}")
        assert again.returncode == 0, again.stderr
        assert again.stdout.splitlines()[1:] == shell(steps["gate"]).stdout.splitlines()[1:]
