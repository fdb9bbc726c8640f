"""The task `retrieval` through the command line: keys, notes, full precision's features, and bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_cli import call
from tests.layouts import write_image_folder

Run = Callable[..., tuple[int, str, str]]
BOTH, IMAGES, TEXTS = "rtn-w3-tensor-vision+text", "rtn-w3-tensor-vision", "rtn-w3-tensor-text"
SUITE = """
name: search
version: 1
models: [demo]
quantizations: [{quantizations}]
data:
  pairs: {{{data}}}
tasks:
  retrieval:
    pairs: {{test: pairs}}
"""
PAIRS = "source: demo, split: calibration, text: captions, limit: 24"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a suite in an empty folder: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def reliquant(*quantizations: str, data: str = PAIRS) -> tuple[int, str, str]:
        Path("s.yaml").write_text(SUITE.format(quantizations=", ".join(["fp32", *quantizations]), data=data))
        options = ["--home", "home", "--tracker", "jsonl", "--json", "--no-speed"]
        return call(monkeypatch, capsys, "run", "s.yaml", *options)

    return reliquant


def records(printed: str) -> dict[str, dict[str, Any]]:
    """Quantization -> its record, with the keys of metrics and notes as the task has them."""
    rows = [row for row in map(json.loads, printed.splitlines()) if row["kind"] == "record"]
    for row in rows:
        for part in ("metrics", "notes"):
            row[part] = {key.removeprefix("retrieval/pairs/"): value for key, value in row[part].items()}
    return {row["quantization"]: row for row in rows}


def test_directions_ways_and_notes(run: Run) -> None:
    status, out, err = run(BOTH, IMAGES, TEXTS)
    assert status == 0, err
    found = {name: row["metrics"] for name, row in records(out).items()}
    notes = {name: row["notes"] for name, row in records(out).items()}
    full = found["fp32"]
    assert notes["fp32"] == notes[BOTH] == {}
    assert found[BOTH].keys() == full.keys()
    assert (full["images"], full["captions"]) == (24, 24)
    for key, value in full.items():
        *direction, name = key.split("/")
        if name in ("overlap_at_10", "finds_itself"):
            assert value == 1.0
        elif "recall" in name:
            assert value == full[f"{direction[0]}/{name}"]
    idle = {IMAGES: {"text_to_image/new_queries", "image_to_text/new_index"}}
    idle[TEXTS] = {"text_to_image/new_index", "image_to_text/new_queries", "image_to_image"}
    for name, ways in idle.items():
        wanted = {key for key in full if any(key.startswith(f"{way}/") for way in ways)}
        assert set(notes[name]) == wanted
        assert found[name].keys() == full.keys() - wanted
        tower = "image" if name == IMAGES else "text"
        assert set(notes[name].values()) == {f"only the {tower} tower is quantized, which has no part in it"}
        for key, value in found[name].items():  # what only one tower's features enter is the same way by another name
            assert 0 <= value <= 1 or key in ("images", "captions")
    assert found[IMAGES]["text_to_image/recall_at_1"] == found[IMAGES]["text_to_image/new_index/recall_at_1"]
    assert found[BOTH]["image_to_image/new_queries/overlap_at_10"] < 1.0
    assert found[BOTH]["image_to_image/overlap_at_10"] == found[IMAGES]["image_to_image/overlap_at_10"]
    assert found[BOTH]["text_to_image/new_queries/recall_at_5"] == found[TEXTS]["text_to_image/recall_at_5"]


def test_full_precision_comes_from_the_cache_or_is_made_again(run: Run) -> None:
    """A quantization added later embeds its own images alone; without the cache full precision's too."""
    assert run()[0] == 0
    status, out, err = run(BOTH)
    assert status == 0, err
    first = records(out)[BOTH]["metrics"]
    shutil.rmtree("home/cache/banks")
    ledger = Path("home/ledger.jsonl")
    ledger.write_text("".join(line for line in ledger.read_text().splitlines(True) if BOTH not in line))
    status, out, err = run(BOTH)
    assert status == 0, err
    assert records(out)[BOTH]["metrics"] == first
    assert "2 evaluations: 1 computed, 1 from the ledger" in err


def test_a_small_index_says_so(run: Run) -> None:
    status, out, err = run(data=PAIRS.replace("24", "8"))
    assert status == 0, err
    row = records(out)["fp32"]
    assert row["notes"]["text_to_image/recall_at_10"] == "the index has 8 items: all are among the first 10"
    assert "image_to_image/overlap_at_10" in row["notes"]
    assert "text_to_image/recall_at_5" in row["metrics"]


def test_one_pair_is_too_few(run: Run) -> None:
    status, _, err = run(data=PAIRS.replace("24", "1"))
    assert status != 0
    assert "data set 'pairs' has one image with captions; retrieval needs two or more" in err


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("source: demo, split: test", "role 'test': data set 'pairs': has no captions (option caption: names a column"),
        (
            "source: image_folder, path: pets, text: captions",
            "'pairs': has no captions; its columns are image",
        ),
    ],
)
def test_data_without_captions_is_one_line(run: Run, data: str, says: str) -> None:
    write_image_folder(Path("pets"), ["cat", "dog"])
    status, _, err = run(data=data)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert says in err
