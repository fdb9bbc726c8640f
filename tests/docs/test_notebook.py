"""The example notebook: what it shows is what it prints, also in a folder with a `tasks.py` of somebody else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.markdown import ROOT

PLACE = ROOT / "docs" / "examples" / "notebook.ipynb"


def outputs(notebook: Any) -> list[list[str]]:
    """For each code cell the kinds of its outputs, and the words that are the same in every run."""
    found = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            kinds = [kind for out in cell["outputs"] for kind in (out.get("data") or {out["output_type"]: ""})]
            text = "".join(
                "".join(out.get("data", {}).get("text/plain", "")) for out in cell["outputs"] if "data" in out
            )
            found.append([*kinds, *re.findall(r"rtn-w\da8-channel|fp32|non-inferior|value|report.html", text)[:6]])
    return found


def test_the_stored_outputs_hold_no_failure_and_no_place_of_a_machine() -> None:
    text = PLACE.read_text(encoding="utf-8")
    notebook = json.loads(text)
    kinds = [out["output_type"] for cell in notebook["cells"] for out in cell.get("outputs", [])]
    assert kinds.count("execute_result") == 3
    assert not {"error", "stream"} & set(kinds)
    assert not re.search(r"/(?:home|root|tmp|work)/", text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "cell", "exec")


@pytest.mark.slow
def test_it_runs_beside_a_stranger_s_files(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from tests.docs.make_notebook import executed

    for name in ("tasks", "trackers", "search"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('their file was imported')")
    done = executed(nbformat.read(PLACE, as_version=4), tmp_path)
    assert outputs(json.loads(nbformat.writes(done))) == outputs(json.loads(PLACE.read_text(encoding="utf-8")))
    assert (tmp_path / "report.html").stat().st_size > 10_000
