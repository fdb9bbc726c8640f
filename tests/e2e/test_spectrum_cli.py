"""`reliquant spectrum` and the controls from outside, on a small random checkpoint."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import main
from benchmark.cli.run import run_suite
from benchmark.engine.request import RunRequest
from benchmark.ledger.records import Ledger
from tests.models_zoo import write_checkpoint

NOISE = "control-noise-like_rtn.w4a8.channel.token.vision-vision"
SUITE = """
name: small
version: 1
models: ["{model}"]
quantizations: [rtn-w4a8]
calibration: pairs
limit: 40
data:
  scenes: {{source: demo, split: test}}
  pairs: {{source: demo, split: calibration, limit: 20}}
  far: {{source: demo, split: far_ood, text: none}}
  sketch: {{source: demo, split: sketch}}
  common: {{source: demo, split: common}}
  counter: {{source: demo, split: counter}}
  scenes-c: {{base: scenes, corruptions: [gaussian_noise], severities: [3]}}
tasks:
  zero_shot: {{scenes: {{test: scenes}}}}
  calibration: {{scenes: {{test: scenes, fit: pairs}}}}
  ood: {{scenes.far: {{id: scenes, ood: far}}}}
  corruption: {{scenes: {{clean: scenes, corrupted: scenes-c}}}}
  covariate_shift: {{scenes: {{source: scenes, shifted: [sketch]}}}}
  spurious: {{scenes: {{common: common, counter: counter}}}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, a suite and results."""
    folder = tmp_path_factory.mktemp("spectrum")
    model = write_checkpoint("ViT", folder / "model")
    (folder / "suite.yaml").write_text(SUITE.format(model=model))
    return folder


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str, str]:
    """Exit status, stdout and stderr of `reliquant spectrum`, in this process."""
    monkeypatch.setattr(sys, "argv", ["reliquant", "spectrum", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    output = capsys.readouterr()
    return caught.value.code, output.out, output.err


def study(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    home = ("--home", str(place / "home"), "--format", "json", "--quiet", "--tracker", "jsonl")
    status, out, err = call(monkeypatch, capsys, str(place / "suite.yaml"), *home, *arguments)
    assert status == 0, err
    return json.loads(out)


def layers_of(found: Any, quantization: str, images: str = "clean") -> Any:
    return next(e for e in found["entries"] if (e["quantization"], e["images"]) == (quantization, images))["layers"]


def test_a_study_of_two_quantizations(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "figures"
    asked = ["--quant", "rtn-w4a8", "--quant", "rtn-w8", "--corruption", "defocus_blur/3", "-o", str(out)]
    found = study(place, monkeypatch, capsys, *asked)
    assert found["images"] == 40
    assert found["layers"] == [f"block:visual.transformer.resblocks.{i}" for i in range(3)] + ["penultimate", "image"]
    assert [(e["quantization"], e["images"]) for e in found["entries"]] == [
        (name, images)
        for name in ("fp32", "rtn-w4a8-channel-token-vision", "rtn-w8-channel-vision")
        for images in ("clean", "defocus_blur/3")
    ]
    for layer, coarse in layers_of(found, "rtn-w4a8-channel-token-vision").items():
        fine = layers_of(found, "rtn-w8-channel-vision")[layer]
        assert coarse["bands"]["0-8"]["sqnr_db"]["value"] < fine["bands"]["0-8"]["sqnr_db"]["value"], layer
    assert {p.name for p in out.iterdir()} == {
        "spectrum.json", "gain_by_rank.png", "sqnr_by_rank.png", "energy_spectra.png", "block_sqnr.png",
        "band_accuracy_full_basis.png", "band_accuracy_own_basis.png",
    }  # fmt: skip
    assert json.loads((out / "spectrum.json").read_text()) == found
    full = layers_of(found, "fp32")
    assert full["penultimate"]["accuracy_full_basis"]["all"] == full["image"]["accuracy_full_basis"]["all"]
    assert full["image"]["accuracy_own_basis"] == full["image"]["accuracy_full_basis"]
    assert full["image"]["directions"] == {}
    correlations = found["rank_correlation_with_corruption"]["rtn-w8-channel-vision"]["defocus_blur/3"]
    assert -1 <= correlations["image"]["noise"] <= 1


def test_batch_size_does_not_matter(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--corruption", "none", "--quant", NOISE, "--quant", "rtn-w4"]
    found = [study(place, monkeypatch, capsys, *asked, "--batch-size", size) for size in ("3", "64")]
    for name in (NOISE, "rtn-w4-channel-vision"):
        first, second = (layers_of(f, name)["image"] for f in found)
        assert first["noise"] == pytest.approx(second["noise"], rel=1e-3)
        assert first["accuracy_full_basis"] == second["accuracy_full_basis"]
    inner = layers_of(found[0], NOISE)["penultimate"]
    assert set(inner["directions"]["sqnr_db"]["value"]) == {None}  # a control changes nothing before the joint space


def test_the_table_names_the_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (str(place / "suite.yaml"), "--limit", "12", "--quant", "rtn-w4", "--home", str(place / "home"))
    status, out, err = call(monkeypatch, capsys, *arguments, "--quiet", "--tracker", "jsonl")
    assert status == 0
    assert "layer 'penultimate' (48 dimensions, 12 images)" in out
    assert str(place / "home" / "spectrum" / "model.scenes") in out.replace("\n", "")
    assert "note: 12 images span at most 12 of 48 directions" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "scense"], "Did you mean 'scenes'"),
        (["--data", "scenes-c"], "corrupted already"),
        (["--corruption", "defocus_blur"], "TYPE/SEVERITY"),
        (["--corruption", "defocus_blr/3"], "Did you mean 'defocus_blur'"),
        (["--corruption", "defocus_blur/6"], "TYPE/SEVERITY"),
        (["--quant", "fp32"], "at least one --quant"),
        (["--quant", "rtn-w4-text"], "leaves the vision tower alone"),
        (["--quant", "rnt-w4"], "Did you mean 'rtn'"),
        (["--device", "coda"], "--device 'coda'"),
        (["--limit", "0"], "--limit"),
        (["--tracker", "mlfow"], "Did you mean 'mlflow'"),
        (["--quant", "control-lowrank-rank_22", "--limit", "10"], "at most 20"),
    ],
)
def test_bad_input_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    home = ["--home", str(place / "home"), "--quiet", "--corruption", "none"]
    status, _, err = call(monkeypatch, capsys, str(place / "suite.yaml"), *home, *arguments)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert says in err


def test_controls_run_through_the_six_tasks(place: Path) -> None:
    like = [NOISE.replace("noise", kind, 1) for kind in ("noise", "shaped", "gain", "residual")]
    margin = NOISE.replace("noise", "margin", 1)
    names = (*like, "control-lowrank-rank_8-vision", margin)
    home = place / "controls"
    suite = str(place / "suite.yaml")
    request = RunRequest(
        suite=suite,
        quantizations=[*names, "rtn-w4-text"],
        trackers=["jsonl"],
        home=home,
        quiet=True,
        spectrum=["scenes"],
    )
    assert run_suite(request) == 0
    found = json.loads((home / "spectrum" / "model.scenes" / "spectrum.json").read_text())
    assert list(found["rank_correlation_with_corruption"]) == list(names)  # the text tower has no spectrum of images
    ledger = Ledger(home)
    by_name = {name: [r for r in ledger.records.values() if r.quantization == name] for name in ("fp32", *names)}
    assert {len(records) for records in by_name.values()} == {6}
    reports = {row.report["quantization"]: row.report for row in ledger.reports.values()}
    assert {reports[name]["kind"] for name in names} == {"control"}
    assert reports[NOISE]["figures"]["noise_norm"] > 0
    changed = [
        by_name[name][0].metrics != by_name["fp32"][0].metrics or by_name[name][1].metrics != by_name["fp32"][1].metrics
        for name in names
    ]
    assert all(changed)
    full, scaled = ({r.task: r.metrics for r in by_name[name]} for name in ("fp32", margin))
    assert scaled["zero_shot"]["zero_shot/scenes/agreement"] == 1.0  # a temperature changes no answer
    assert scaled["calibration"]["calibration/scenes/nll"] != full["calibration"]["calibration/scenes/nll"]
    assert run_suite(request) == 0
    assert len(Ledger(home).records) == len(ledger.records)


def test_a_suite_asks_for_the_joint_space_and_the_report_answers(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From cached features: no image goes through a model again, and the numbers are those of a study that streams."""
    own = place / "own.yaml"
    own.write_text((place / "suite.yaml").read_text() + "spectrum: [scenes]\n")
    home, names = place / "joint", ("rtn-w2-channel-vision", "control-residual-like_rtn.w2-vision")
    tasks = ["zero_shot", "covariate_shift"]
    request = RunRequest(suite=str(own), quantizations=names, tasks=tasks, trackers=["jsonl"], home=home, quiet=True)
    assert run_suite(request) == 0
    folder = home / "spectrum" / "model.scenes.joint"
    assert [path.name for path in folder.iterdir()] == ["spectrum.json"]
    found = json.loads((folder / "spectrum.json").read_text())
    assert found["layers"] == ["image"]
    printed = capsys.readouterr().out
    assert "evaluations: " in printed
    assert "figures and numbers" not in printed
    written = (folder / "spectrum.json").stat().st_mtime_ns
    assert run_suite(request) == 0
    assert (folder / "spectrum.json").stat().st_mtime_ns == written, "it is not measured again"
    (folder / "spectrum.json").write_text("{")  # cut off
    assert run_suite(request) == 0
    assert json.loads((folder / "spectrum.json").read_text()) == found
    more = replace(request, quantizations=(*names, "rtn-w4a8-vision"))
    assert run_suite(more) == 0
    assert "rtn-w4a8-channel-token-vision" in {
        e["quantization"] for e in json.loads((folder / "spectrum.json").read_text())["entries"]
    }
    assert run_suite(request) == 0
    capsys.readouterr()
    status, out, err = call(
        monkeypatch, capsys, str(own), "--corruption", "none", "--format", "json", "--quiet", "--tracker", "jsonl",
        "--home", str(home), "--quant", names[0],
    )  # fmt: skip
    assert status == 0, err
    streamed = layers_of(json.loads(out), names[0])["image"]
    cached = layers_of(found, names[0])["image"]
    assert cached["accuracy_of_parts"] == streamed["accuracy_of_parts"]
    for band in ("0-8", "8-64", "all"):
        for ratio, told in streamed["bands"][band].items():
            assert cached["bands"][band][ratio] == pytest.approx(told, rel=1e-3), (band, ratio)
    page = place / "joint.html"
    monkeypatch.setattr(sys, "argv", ["reliquant", "report", str(own), "--home", str(home), "-o", str(page)])
    with pytest.raises(SystemExit):
        main()
    section = page.read_text().split('id="spectrum"')[1].split("</section>")[0]
    assert section.count("<li>") >= 5
    assert "control-residual" in section
    assert "On 40 images of scenes, in the joint space" in section


def test_joint_alone_embeds_what_is_not_cached(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = study(place, monkeypatch, capsys, "--joint", "--quant", "rtn-w3", "-o", str(place / "only"))
    assert found["layers"] == ["image"]
    assert {entry["images"] for entry in found["entries"]} == {"clean"}
    assert layers_of(found, "rtn-w3-channel-vision")["image"]["margins"]["slope"]["value"] < 1.5


def test_an_unknown_data_set_of_a_suite_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = place / "wrong.yaml"
    wrong.write_text((place / "suite.yaml").read_text() + "spectrum: [scense]\n")
    status, _, err = call(monkeypatch, capsys, str(wrong), "--home", str(place / "home"))
    assert status == 2
    assert "spectrum: unknown data set 'scense'. Did you mean 'scenes'?" in err
