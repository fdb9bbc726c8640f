"""What the model's own tokenizer makes of prompts is known before anything is embedded, and stays in the records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.engine.banks import BankMaker
from benchmark.engine.prompt_check import examine
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.spec import ModelSpec
from tests import layouts
from tests.e2e.test_cli import call

LONG = "thing " * 16
"""Fills the context of the demo's text tower, which has 16 positions."""


@pytest.fixture(scope="module")
def model() -> ClipModel:
    return resolve(ModelSpec(ref="demo")).load()


def test_examined_prompts(model: ClipModel) -> None:
    found = examine(model, ["cat", "dog", "Cat"], ["a {}.", "the {c} there"])
    assert found == {"prompts": 6, "cut": 0, "example": None, "equal": [[0, 2]]}
    found = examine(model, [LONG + "one", LONG + "two", "cat"], ["{}", "a {}"])
    assert (found["prompts"], found["cut"], found["equal"]) == (6, 4, [[0, 1]])
    assert found["example"].startswith("thing thing")


def test_classes_are_equal_only_where_all_their_prompts_are(model: ClipModel) -> None:
    """A short template keeps them apart although the long one is cut."""
    names = ["red thing", "red cat"]
    assert examine(model, names, ["word " * 20 + "{}", "a {}"])["equal"] == []
    assert examine(model, names, ["word " * 20 + "{}"])["equal"] == [[0, 1]]


def test_a_tokenizer_that_cannot_tell_is_no_error(model: ClipModel) -> None:
    from dataclasses import replace

    whole: Any = model.tokenizer
    own = replace(model, tokenizer=lambda texts: whole.inner.inner(list(texts)))
    assert examine(own, ["cat", "dog"], ["a {}"])["cut"] is None


# through the command line ---------------------------------------------------------------------------------------------

Reliquant = Callable[..., tuple[int, str, str]]


@pytest.fixture
def reliquant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reliquant:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capsys, *map(str, arguments))


def suite(root: Path, names: list[str], **fields: str) -> str:
    layouts.write_image_folder(root / "pets", names, 2 * len(names))
    more = "".join(f", {key}: {value}" for key, value in fields.items())
    (root / "mine.yaml").write_text(f"""
name: mine
version: 1
models: [demo]
quantizations: [fp32]
data:
  pets: {{source: image_folder, path: ./pets{more}}}
tasks:
  zero_shot: {{pets: {{test: pets}}}}
""")
    return "mine.yaml"


def records(home: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (home / "ledger.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "record"]


def test_names_that_differ_beyond_the_context_are_an_error_before_any_image_is_embedded(
    reliquant: Reliquant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(*_: Any) -> None:
        raise AssertionError("something was embedded")

    names = [f"{LONG}{name}".strip() for name in ("one", "two")]
    mine = suite(tmp_path, names)
    with monkeypatch.context() as patch:
        patch.setattr(BankMaker, "_embed", embed)
        status, out, err = reliquant("run", mine, "--home", "home", "--tracker", "jsonl", "--quiet")
    assert (status, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith(
        f"reliquant: error: data set 'pets': classes 0 ('{names[0]}') and 1 ('{names[1]}') have the "
    )
    assert "'allow_equal_prompts: true'" in line
    mine = suite(tmp_path, names, allow_equal_prompts="true")
    status, out, err = reliquant("run", mine, "--home", "home", "--tracker", "jsonl", "--quiet")
    assert status == 0, err
    (record,) = records(tmp_path / "home")
    assert record["provenance"]["prompts"]["pets"]["equal"] == [[0, 1]]
    text = (tmp_path / mine).read_text().replace(", allow_equal_prompts: true", "")
    (tmp_path / mine).write_text(text)
    status, out, err = reliquant("run", mine, "--home", "home2", "--tracker", "jsonl", "--quiet")
    assert status == 2
    status, out, err = reliquant("run", mine, "--home", "home", "--tracker", "jsonl", "--quiet")  # from the ledger
    assert status == 0, err
    assert "warning: data set 'pets': demo cannot tell classes 'thing thing" in err


def test_cut_prompts_are_a_warning_with_an_example_now_and_later(reliquant: Reliquant, tmp_path: Path) -> None:
    mine = suite(tmp_path, ["cat", f"dog {LONG}".strip()])
    for _ in range(2):  # the second time from the ledger
        status, _, err = reliquant("run", mine, "--home", "home", "--tracker", "jsonl", "--quiet")
        assert status == 0, err
        assert "warning: data set 'pets': 1 of 2 prompts are longer than the context of demo and are cut, e.g. " in err
        assert "'a photo of a dog thing thing" in err
    about = records(tmp_path / "home")[0]["provenance"]["prompts"]["pets"]
    assert (about["cut"], about["prompts"], about["equal"]) == (1, 2, [])


def test_images_and_classes_are_shown_wherever_numbers_are(reliquant: Reliquant, tmp_path: Path) -> None:
    mine = suite(tmp_path, ["cat", "dog", "eel"])
    text = (tmp_path / mine).read_text().replace("[fp32]", "[fp32, rtn-w4-vision]")
    text = text.replace(
        "image_folder, path: ./pets", 'image_folder, path: ./pets, classes: ["eel", "fox", "cat", "dog"]'
    )
    (tmp_path / mine).write_text(text)
    (tmp_path / "pets" / "cat" / "notes.md").write_text("none")
    sets = "pets: 6 images, 4 classes (1 without images)"
    status, out, err = reliquant("validate", mine)
    assert (status, sets in out) == (0, True)
    warned = [
        "warning: data set 'pets': 1 file left out: 1 no image (cat/notes.md)",
        "warning: data set 'pets': 1 of 4 classes have no image: fox",
    ]
    few = "warning: classes with under 5 images, in data set 'pets' (3 of 4, e.g. eel: 2)"
    assert [line for line in err.splitlines() if line.startswith("warning")] == [*warned, few]
    status, out, _ = reliquant("validate", mine, "--json")
    assert json.loads(out)["data"] == {"pets": sets.removeprefix("pets: ")}
    status, out, err = reliquant("run", mine, "--home", "home", "--tracker", "jsonl", "--quiet")
    assert (status, sets in out) == (0, True)
    assert set(warned) < set(err.splitlines())
    about = records(tmp_path / "home")[0]["provenance"]["counts"]["pets"]
    assert about == {
        "images": 6, "versions": 1, "classes": 4, "classes_present": 3, "roles": ["test"],
        "empty_classes": {"count": 1, "names": ["fox"]},
        "left_out": {"no image": {"count": 1, "files": ["cat/notes.md"]}},
    }  # fmt: skip
    for form in ("table", "md", "latex", "csv", "json", "jsonl"):
        status, out, err = reliquant("compare", "--home", "home", "--suite", mine, "--format", form)
        assert (status, sets in " ".join(out.split())) == (0, True), (form, out, err)
    status, out, err = reliquant("report", "--home", "home", "--suite", mine, "--output", "page.html")
    assert status == 0, err
    assert sets in (tmp_path / "page.html").read_text()


def test_images_alone_calibrate_the_image_tower(reliquant: Reliquant, tmp_path: Path) -> None:
    mine = suite(tmp_path, ["cat", "dog"])
    for number in range(4):
        path = tmp_path / "unlabelled" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(layouts.encoded(layouts.picture(number), "png"))
    calibrated = (
        (tmp_path / mine)
        .read_text()
        .replace("tasks:", "  some: {source: image_folder, path: ./unlabelled, text: none}\ncalibration: some\ntasks:")
    )
    (tmp_path / mine).write_text(calibrated.replace("[fp32]", "[fp32, gptq-w4-vision, rtn-w8-vision+text]"))
    status, _, err = reliquant("run", mine, "--home", "home", "--tracker", "jsonl", "--quiet")
    assert status == 0, err
    assert np.isfinite([value for row in records(tmp_path / "home") for value in row["metrics"].values()]).all()
    (tmp_path / mine).write_text(calibrated.replace("[fp32]", "[fp32, gptq-w4-vision+text]"))
    status, _, err = reliquant("run", mine, "--home", "home", "--tracker", "jsonl", "--quiet")
    assert status == 2
    assert "quantization 'gptq-w4-channel-vision+text': method 'gptq' needs captions: calibration 'some'" in err
    assert "options: {caption: COLUMN}" in err
