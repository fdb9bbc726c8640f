"""`reliquant search` from outside: bad input is one line and exit 2; a study from beginning to end, and on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from PIL import Image

from benchmark.quantization import parse
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
    "cost": (
        ["--minimize", "efective_bits"],
        "unknown cost (of --minimize) 'efective_bits'. Did you mean 'effective_bits'",
    ),
    "probability": (["--probability", "0.3"], "--probability 0.3: give 0.5 or more, and less than 1"),
    "goal and front": (["--minimize", "size_mb", "--objective", "reliability"], "contradict each other"),
    "layers": (["--per-layer", "-1"], "--per-layer -1: negative"),
    "too many layers": (
        ["--per-layer", "999", "--scope", "vision", "--method", "bnb-nf4"],
        "--per-layer: none of the methods",
    ),
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
    assert "Fewest effective bits without a loss: " in out
    assert "\nDeploy " in out
    assert "8 configurations in " in out
    folder = home / "studies" / "one"
    chosen = load_suite(str(folder / "front.yaml"))
    assert 0 < len(chosen.quantizations) <= 8
    for name in ("front", "importance", "slices"):
        with Image.open(folder / f"{name}.png") as image:
            assert image.size[0] > 500
    words = (folder / "recommendation.txt").read_text().splitlines()
    assert words[0].startswith("Deploy ")
    assert "64 images" in words[0] + words[1]  # of the test split
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
def test_more_bits_for_the_most_harmful_layers_and_the_study_of_another_suite(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path / "home"), "--no-tracking", "--quiet"]
    only = ["--method", "rtn", "--scope", "vision", "--sampler", "random", "--per-layer", "2", "--trials", "9"]
    status, out, _ = call(monkeypatch, capsys, "search", suite, *only, "--name", "mixed", *home)
    assert status == 0, out
    names = [t.user_attrs["configuration"] for t in _study(tmp_path / "home", "mixed").get_trials()]
    mixed = [parse(name).overrides for name in names if "-bits_" in name]
    assert mixed
    layers = {tuple(item.pattern for item in overrides) for overrides in mixed}
    assert len({found[0] for found in layers}) == 1  # the most harmful one comes first
    assert max(map(len, layers)) <= 2
    status, _, err = call(monkeypatch, capsys, "search", suite, *only, "--name", "mixed", *home)
    assert status == 2
    assert "study 'mixed': it exists already. Go on with --resume mixed" in err
    status, _, err = call(monkeypatch, capsys, "search", "--resume", "mixed", "--method", "gptq", *home)
    assert status == 2
    assert 'created with methods ["rtn"], not ["gptq"]' in err


@pytest.mark.slow
def test_a_free_search_ends_in_a_pareto_front(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path / "home"), "--no-tracking", "--quiet", "--json"]
    only = ["--method", "rtn", "--scope", "vision", "--trials", "6", "--name", "free"]
    both = ["--objective", "reliability", "--objective", "effective_bits"]
    status, out, err = call(monkeypatch, capsys, "search", suite, *only, *both, *home)
    assert status == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    bits = [row["validation"]["effective_bits"] for row in rows]
    assert bits == sorted(bits)
    assert all(row["reliability"]["test"]["low"] < row["reliability"]["test"]["high"] for row in rows)
    assert all(row["reliability"]["validation"]["error"] > 0 for row in rows)
    assert min(row["group"] for row in rows) == 1


@pytest.mark.slow
def test_latency_counts_only_where_a_real_kernel_runs(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Emulated kernels have no latency: they are no candidates, and their trials say why."""
    home = ["--home", str(tmp_path / "home"), "--no-tracking", "--quiet"]
    only = ["--method", "rtn", "--scope", "vision", "--trials", "4", "--name", "fast", "--minimize", "latency_ratio"]
    status, _, err = call(monkeypatch, capsys, "search", suite, *only, *home)
    trials = _study(tmp_path / "home", "fast").get_trials()
    reasons = [t.user_attrs["error"] for t in trials if "error" in t.user_attrs]
    assert any("has no latency_ratio: nothing that is shipped runs this way" in reason for reason in reasons)
    timed = [t for t in trials if t.values]
    assert all(t.values[0] == t.user_attrs["metrics"]["latency_ratio"] > 0 for t in timed)
    assert status == (0 if timed else 3), err
