"""Records are found by what was asked: under any suite, under every name of a model, and never mixed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from benchmark.cli.app import app
from benchmark.engine import provenance
from benchmark.ledger.records import Alias, Ledger, Record
from benchmark.models.references import demo_folder
from benchmark.results.answers import mixed_versions, records_of, side_by_side
from benchmark.results.identity import identities
from benchmark.spec import SuiteSpec

W4, W8 = "rtn-w4-channel-vision", "rtn-w8-channel-vision"


def write(folder: Path, name: str, **changes: Any) -> Path:
    """A suite of one task on 24 images of the demo."""
    content: dict[str, Any] = {
        "name": name,
        "version": 1,
        "models": ["demo"],
        "quantizations": [W4],
        "limit": 24,
        "data": {"scenes": {"source": "demo", "split": "test"}},
        "tasks": {"zero_shot": {"scenes": {"test": "scenes"}}},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def call(home: Path, *words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words), "--home", str(home)])


def run(home: Path, suite: Path, *words: str) -> None:
    result = call(home, "run", suite, "--tracker", "jsonl", "--no-speed", "--quiet", *words)
    assert result.exit_code == 0, result.output


def compared(home: Path, suite: object, *words: str) -> set[tuple[str, str]]:
    """Model and quantization of what `compare` shows."""
    result = call(home, "compare", "--suite", suite, "--json", *words)
    assert result.exit_code == 0, result.stderr or result.exception
    return {(row["model"], row["quantization"]) for row in map(json.loads, result.stdout.splitlines())}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of suite `one`; suite `two` shares what it asks, with one more quantization."""
    folder = tmp_path_factory.mktemp("answers")
    run(folder, write(folder, "one"))
    run(folder, write(folder, "two", quantizations=[W4, W8]))
    return folder


def test_a_suite_finds_what_another_has_computed(home: Path) -> None:
    assert compared(home, home / "one.yaml") == {("demo", W4)}
    assert compared(home, home / "two.yaml") == {("demo", W4), ("demo", W8)}


def test_so_it_does_by_its_name_alone(home: Path) -> None:
    assert compared(home, "two") == {("demo", W4), ("demo", W8)}


def test_so_does_one_that_never_ran(home: Path, tmp_path: Path) -> None:
    three = write(tmp_path, "three", quantizations=[W8], version=7, calibration="pairs", description="never ran")
    content = yaml.safe_load(three.read_text())
    content["data"]["pairs"] = {"source": "demo", "split": "calibration"}
    three.write_text(yaml.safe_dump(content))
    assert compared(home, three) == {("demo", W8)}
    claims = call(home, "compare", "--suite", three, "--claims", "--json")
    assert {json.loads(line)["suite"] for line in claims.stdout.splitlines()} == {"three"}
    shown = call(home, "show", W8, "--suite", three, "--json")
    [row] = map(json.loads, shown.stdout.splitlines())
    assert (row["suite"], row["quantization"], len(row["changes"]) > 3) == ("three", W8, True)
    page = tmp_path / "page.html"
    assert call(home, "report", three, "-o", page).exit_code == 0
    assert W8 in page.read_text()
    assert W4 not in page.read_text()


@pytest.mark.parametrize(
    "changes", [{"limit": 23}, {"models": ["ViT-B-32/openai"]}, {"tasks": {"zero_shot": {"other": {"test": "scenes"}}}}]
)
def test_what_asks_something_else_does_not(home: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    result = call(home, "compare", "--suite", write(tmp_path, "four", **changes))
    assert "suite 'four' has no results" in str(result.exception)


def test_finding_needs_no_torch_and_no_data(home: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmark.ledger.records import Ledger\n"
        "from benchmark.results.load import find_suite\n"
        "from benchmark.results.answers import records_of\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "assert len(records_of(ledger, *find_suite(sys.argv[2], ledger))) == 3\n"
        "heavy = {'torch', 'datasets', 'open_clip', 'mlflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, str(home), str(home / "two.yaml")], check=True)


def test_a_run_of_everything_again_writes_nothing(home: Path) -> None:
    before = (home / "ledger.jsonl").read_bytes()
    run(home, home / "one.yaml")
    run(home, home / "two.yaml")
    assert (home / "ledger.jsonl").read_bytes() == before


def test_one_checkpoint_under_two_names_has_both(tmp_path: Path) -> None:
    models = [{"ref": "demo", "name": name} for name in ("first", "second")]
    suite = write(tmp_path, "names", models=models)
    result = call(tmp_path, "run", suite, "--tracker", "jsonl", "--no-speed", "--quiet")
    tables = [line for line in result.stdout.splitlines() if "value and change" in line]
    assert [line.split(":")[0] for line in tables] == ["names, first", "names, second"]
    both = {("first", W4), ("second", W4)}
    assert compared(tmp_path, suite) == compared(tmp_path, "names") == both
    assert compared(tmp_path, suite, "--model", "second") == {("second", W4)}


def test_weights_changed_in_place_stand_side_by_side(tmp_path: Path) -> None:
    """The quantization of the new weights is compared with the new full precision, that of the old with the old."""
    folder, weights = tmp_path / "model", "open_clip_model.safetensors"
    folder.mkdir()
    for file in demo_folder().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    suite = write(tmp_path, "weights", models=[f"local-dir:{folder}"])
    run(tmp_path, suite)
    state = load_file(folder / weights)
    state["logit_scale"] = state["logit_scale"] * 0.5
    save_file(state, folder / weights)
    run(tmp_path, suite)
    digests = {r.identity["model"]["digest"] for r in Ledger(tmp_path).records.values()}
    names = {f"model (weights {digest[:8]})" for digest in digests}
    assert len(names) == 2
    assert compared(tmp_path, suite) == {(name, W4) for name in names}
    assert compared(tmp_path, suite, "--model", "model") == {(name, W4) for name in names}
    shown = call(tmp_path, "show", W4, "--suite", suite, "--json").stdout.splitlines()
    assert {json.loads(line)["model"] for line in shown} == names


def test_what_the_command_line_added_stays(home: Path, tmp_path: Path) -> None:
    suite = write(tmp_path, "more")
    run(tmp_path, suite)
    run(tmp_path, suite, "--quant", W8)
    run(tmp_path, suite, "--limit", "12")
    assert compared(tmp_path, suite) == {("demo", W4), ("demo", W8)}
    run(tmp_path, suite, "--limit", "12", "--quant", "rtn-w3-vision")
    whole, part = "demo (limit 24)", "demo (limit 12)"
    assert compared(tmp_path, suite) == {(whole, W4), (whole, W8), (part, "rtn-w3-channel-vision")}


# On records written by hand -------------------------------------------------------------------------------------------


def record(key: str, quantization: str = "fp32", digest: str = "a" * 64, **changes: Any) -> Record:
    suite = SuiteSpec.model_validate(
        {
            "name": "s",
            "version": 1,
            "models": ["demo"],
            "quantizations": [W4],
            "data": {"scenes": {"source": "demo"}},
            "tasks": {"zero_shot": {"a": {"test": "scenes"}}},
        }
    )
    [one] = [i for i in identities(suite) if i["quantization"] == quantization]
    one["model"]["digest"] = digest
    about = {"data": {"scenes": "d" * 64}, "versions": {"torch": "2.1"}}
    made = Record(key, key, "s", "demo", quantization, "zero_shot", "a", "done", 0.0, provenance=about, identity=one)
    return replace(made, comparison_key=digest, **changes)


def test_digests_under_one_identity_are_not_mixed() -> None:
    old, new = (record(digest, W4, digest * 64) for digest in "ab")
    assert [r.model for r in side_by_side([old, new])] == ["demo (weights aaaaaaaa)", "demo (weights bbbbbbbb)"]
    assert [r.model for r in side_by_side([old])] == ["demo"]
    images = replace(new, identity=old.identity, provenance={"data": {"scenes": "e" * 64}})
    assert [r.model for r in side_by_side([old, images])] == ["demo (scenes dddddddd)", "demo (scenes eeeeeeee)"]


def test_what_both_rest_on_is_in_each() -> None:
    old, new = (record(digest, W4, digest * 64) for digest in "ab")
    failed = replace(record("c", W4), key="c", task="ood", status="failed")
    found = side_by_side([old, new, failed])
    assert [r.model for r in found if r.task == "ood"] == ["demo (weights aaaaaaaa)", "demo (weights bbbbbbbb)"]


def test_an_alias_survives_a_restart_and_a_torn_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    first = record("a" * 64)
    ledger.append(first)
    ledger.append_alias(Alias(first.key, "other", "t", "again", first.identity))
    ledger.append_alias(Alias(first.key, "other", "t", "again", first.identity))
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(b'{"kind": "alias", "key": "gone", "sha')
    again = Ledger(tmp_path)
    assert [(r.suite, r.model, r.key) for r in again.answers()] == [("s", "demo", first.key), ("t", "again", first.key)]
    assert [r.model for r in records_of(again, "t", None)] == ["again"]
    assert len((tmp_path / "ledger.jsonl").read_bytes().splitlines()) == 3


def test_mixed_library_versions_are_said_by_every_command(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = write(tmp_path, "one", quantizations=[W4, W8, "rtn-w5-vision"])
    (tmp_path / "ledger.jsonl").write_bytes((home / "ledger.jsonl").read_bytes())
    shutil.copytree(home / "samples", tmp_path / "samples")
    monkeypatch.setattr(provenance, "version", lambda name: "9.9" if name == "pillow" else version(name))
    line = f"different versions of pillow {version('pillow')} and 9.9; that alone may change numbers"
    ran = call(tmp_path, "run", suite, "--tracker", "jsonl", "--no-speed", "--quiet")
    assert line in ran.stderr
    assert line in call(tmp_path, "compare", "--suite", suite).stderr
    assert line in call(tmp_path, "show", W4, "--suite", suite).stderr
    assert call(tmp_path, "report", suite, "-o", tmp_path / "page.html").exit_code == 0
    assert line in (tmp_path / "page.html").read_text()
    assert line not in call(home, "compare", "--suite", home / "one.yaml").stderr


def test_mixed_library_versions_are_one_line() -> None:
    old = record("a" * 64)
    new = replace(old, provenance={"versions": {"torch": "2.2", "pillow": "13.0"}})
    assert mixed_versions([old, old]) is None
    line = mixed_versions([old, new])
    assert line is not None
    assert "different versions of torch 2.1 and 2.2;" in line
    assert "\n" not in line
