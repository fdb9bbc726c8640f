"""`reliquant search` from outside: bad input is one line and exit 2; a study from beginning to end, and on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from PIL import Image

from benchmark.spec.suite import load_suite
from search.history import evaluated
from search.storage import open_storage
from tests.e2e.test_cli import call

SUITE = """
name: small
version: 1
models: [demo]
quantizations: [fp32]
validation: {scenes: validation, far: far}
data:
  scenes: {source: demo, split: test, limit: 64}
  validation: {source: demo, split: validation, limit: 64}
  far: {source: demo, split: far_ood, text: none, limit: 32}
tasks:
  zero_shot:
    scenes: {test: scenes}
  ood:
    scenes.far: {id: scenes, ood: far}
"""

BAD = {
    "objective of no task": (["--objective", "zero_shot/scenes/speed"], "no task of this suite reports it"),
    "objective without a direction": (["--objective", "zero_shot/scenes/samples"], "neither direction is better"),
    "constraint of no task": (["--constraint", "zero_shot/scenes/speed >= 1"], "reports zero_shot/scenes/speed"),
    "objective twice": (
        ["--objective", "size_mb", "--objective", "size_mb"],
        "'size_mb': it is given twice. Leave one",
    ),
    "constraint twice": (
        ["--constraint", "size_mb <= 2", "--constraint", "size_mb<=2"],
        "--constraint 'size_mb<=2': it is given twice (as 'size_mb <= 2'). Leave one of them out",
    ),
    "storage that is no journal": (["--storage", __file__], "is not an Optuna journal. Name another file"),
    "password": (["--storage", "postgresql+none://me:secret@host/x"], "postgresql+none://me:***@host/x: cannot be"),
    "rungs": (["--rungs", "1/9,2"], "--rungs: '2' is not a share between 0 and 1"),
    "rungs without racing": (["--rungs", "1/9", "--no-racing"], "contradict each other"),
    "form of a constraint": (["--constraint", "accuracy > 1"], "The form is 'KEY >= NUMBER'"),
    "sampler": (["--sampler", "tpo"], "unknown sampler 'tpo'. Did you mean 'tpe'"),
    "method": (["--method", "rnt"], "unknown quantizer 'rnt'. Did you mean 'rtn'"),
    "full precision as method": (["--method", "fp32"], "always evaluates full precision"),
    "scope": (["--scope", "visoin"], "Did you mean 'vision'"),
    "no valid point": (
        ["--method", "gptq"],
        "no valid point (quantization 'gptq-w2-tensor-vision': method 'gptq' needs",
    ),
    "trials": (["--trials", "0"], "--trials 0: too few"),
    "storage": (["--storage", "sqlite:////no/such/folder/s.db"], "--storage sqlite:////no/such/folder/s.db: cannot be"),
    "study to resume": (["--resume", "nobody"], "unknown study in"),
    "model": (["--model", "demo", "--model", "demo"], "names 2 models"),
}


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SUITE)
    return str(path)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_any_work(
    case: str, suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, says = BAD[case]
    home = tmp_path / "home"
    status, out, err = call(monkeypatch, capsys, "search", suite, *arguments, "--home", str(home), "--no-tracking")
    assert (status, out) == (2, "")
    assert err.startswith("reliquant: error: ")
    assert says in err
    assert err.count("\n") == 1
    assert not (home / "cache").exists()


def reliquant(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "benchmark", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_study_on_the_demo_from_beginning_to_end(suite: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    common = ["--home", str(home), "--quiet"]
    only = ["--method", "rtn", "--scope", "vision"]
    out = reliquant("search", suite, "--trials", "8", *only, "--name", "one", *common)
    assert "Pareto front: " in out
    assert "8 configurations in " in out
    folder = home / "studies" / "one"
    chosen = load_suite(str(folder / "front.yaml"))
    assert 0 < len(chosen.quantizations) <= 8
    for name in ("front", "hypervolume", "importance", "slices"):
        with Image.open(folder / f"{name}.png") as image:
            assert image.size[0] > 500
    before = _study(home).get_trials()
    assert "9 configurations in " in reliquant("search", "--resume", "one", "--trials", "9", *common)
    after = _study(home).get_trials()
    assert [t.params for t in after][: len(before)] == [t.params for t in before]
    assert len(evaluated(_study(home))) == 9
    again = reliquant("run", str(folder / "front.yaml"), *common)
    assert " 0 computed" in again
    fresh = ["--home", str(tmp_path / "other"), "--no-tracking", "--quiet"]
    reliquant("search", suite, "--trials", "8", *only, "--name", "one", *fresh)
    assert [t.values for t in _study(tmp_path / "other").get_trials()] == [t.values for t in before]
    assert [t.params for t in _study(tmp_path / "other").get_trials()] == [t.params for t in before]


def test_a_study_says_where_changes_are_mostly_chance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suite: str, tmp_path: Path
) -> None:
    with Path(suite).open("a") as file:
        file.write("  calibration:\n    scenes: {test: scenes}\n")
    common = ["--home", str(tmp_path / "home"), "--no-tracking", "--trials", "1"]
    common += ["--objective", "calibration/scenes/ece_15", "--objective", "effective_bits"]
    status, _, said = call(monkeypatch, capsys, "search", suite, *common)
    assert status == 0, said
    (line,) = [line for line in said.splitlines() if "mostly chance" in line]
    assert line.startswith("calibration/scenes/ece_15: 0.")


def _study(home: Path, name: str = "one") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=open_storage(home))


@pytest.mark.slow
def test_bits_for_each_block_and_the_study_of_another_suite(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path / "home"), "--no-tracking", "--quiet"]
    only = ["--method", "rtn", "--scope", "vision", "--sampler", "random", "--per-block", "--trials", "9"]
    status, out, _ = call(monkeypatch, capsys, "search", suite, *only, "--name", "mixed", *home)
    assert status == 0, out
    names = [t.user_attrs["configuration"] for t in _study(tmp_path / "home", "mixed").get_trials()]
    assert any("-bits_" in name for name in names)
    status, _, err = call(monkeypatch, capsys, "search", suite, *only, "--name", "mixed", *home)
    assert status == 2
    assert "study 'mixed': it exists already. Go on with --resume mixed" in err
    status, _, err = call(monkeypatch, capsys, "search", "--resume", "mixed", "--method", "gptq", *home)
    assert status == 2
    assert 'created with methods ["rtn"], not ["gptq"]' in err
