"""The shipped suites on a few images in every published layout, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.models import ResolvedModel
from benchmark.spec.suite import load_suite
from tests.e2e.test_cli import call
from tests.layouts import write_image_folder, write_image_list, write_waterbirds, write_webdataset
from tests.models_zoo import write_checkpoint
from tests.published import write_cifar, write_imagenet

QUANT = "rtn-w8a8-channel-token-vision"
Reliquant = Callable[..., tuple[int, str, str]]


@pytest.fixture
def reliquant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reliquant:
    """The command line in an empty folder: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELIQUANT_DATA", str(tmp_path / "data"))
    return lambda *arguments: call(monkeypatch, capsys, *map(str, arguments))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint("ViT", tmp_path_factory.mktemp("model"))


def records(home: Path) -> list[dict[str, Any]]:
    """The ledger's records."""
    rows = [json.loads(line) for line in (home / "ledger.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "record"]


def smoke(suite: str, limit: int, model: str, reliquant: Reliquant, folder: Path) -> list[dict[str, Any]]:
    """The records of a run of a shipped suite, all tasks of which succeeded under both quantizations."""
    status, _, err = reliquant(
        "run", suite, "--limit", limit, "--quant", QUANT, "--model", model, "--home", "home", "--tracker", "jsonl"
    )  # fmt: skip
    assert status == 0, err
    said = [line for line in err.splitlines() if "warning" in line]
    expected = ("classes have no image", "longer than the context")  # so few images, and ImageNet's long names
    assert [line for line in said if not any(words in line for words in expected)] == []
    found = records(folder / "home")
    bindings = [(task, label) for task, labels in load_suite(suite).tasks.items() for label in labels]
    assert [(r["quantization"], r["task"], r["dataset"]) for r in found] == [
        (quant, *binding) for quant in ("fp32", QUANT) for binding in bindings
    ]
    assert {r["status"] for r in found} == {"done"}
    return found


def test_cifar(model: str, reliquant: Reliquant, tmp_path: Path) -> None:
    write_cifar(tmp_path / "data")
    found = {r["task"]: r for r in smoke("cifar", 6, model, reliquant, tmp_path)}
    assert found["zero_shot"]["metrics"]["zero_shot/cifar10/samples"] == 6
    assert len([k for k in found["corruption"]["metrics"] if k.count("/") == 4]) == 75
    assert found["zero_shot"]["provenance"]["templates_origin"] == {"cifar10": "data", "cifar10-c": "spec"}


@pytest.mark.slow  # the 80 templates of ImageNet for 1,000 classes
def test_imagenet(model: str, reliquant: Reliquant, tmp_path: Path) -> None:
    write_imagenet(tmp_path / "data")
    found = {r["task"]: r for r in smoke("imagenet", 5, model, reliquant, tmp_path)}
    assert {"v2/accuracy", "a/accuracy", "r/accuracy", "accuracy"} <= {
        key.removeprefix("covariate_shift/imagenet/") for key in found["covariate_shift"]["metrics"]
    }
    assert "corruption/imagenet/mean_corruption_error_alexnet" in found["corruption"]["metrics"]
    assert found["zero_shot"]["provenance"]["skipped"] == {}


@pytest.mark.slow  # NNCF and onnxruntime quantize five times
def test_deploy(model: str, reliquant: Reliquant, tmp_path: Path) -> None:
    """Every method of the suite has a verdict, its size and its speed, or a line that says why it is left out."""
    write_image_folder(tmp_path / "pictures", ["cat", "dog"], 40)
    words = (
        "--model",
        model,
        "--data",
        "images=pictures",
        "--task",
        "zero_shot",
        "--home",
        "home",
        "--tracker",
        "jsonl",
    )
    status, out, err = reliquant("run", "deploy", *words)
    assert status == 0, err
    done = {r["quantization"] for r in records(tmp_path / "home") if r["status"] == "done"} - {"fp32"}
    asked = set(load_suite("deploy").quantizations) - {"fp32"}
    left_out = {line.split()[1].rstrip(":") for line in err.splitlines() if line.startswith("skipped ")}
    assert left_out < asked
    assert done == asked - left_out
    assert len(done - {"bf16-vision", "fp16-vision"}) >= 6
    rows = [json.loads(line) for line in (tmp_path / "home" / "ledger.jsonl").read_text().splitlines()]
    timed = {r["efficiency"]["quantization"]: r["efficiency"] for r in rows if r["kind"] == "timing"}
    assert set(timed) == {"fp32", *done}
    for name in done:
        speed = timed[name]["speed"]
        assert timed[name]["kernel"] != "simulated", name
        assert 0 < speed["latency_ratio_low"] <= speed["latency_ratio"] <= speed["latency_ratio_high"], name
        assert (speed.get("runtime_ratio") is not None) == name.startswith(("openvino", "ort")), name
    verdicts = out.split("verdict against fp32")[1]
    assert verdicts.count("cannot tell") + verdicts.count("non-inferior") + verdicts.count("inferior:") >= len(done)


@pytest.mark.parametrize("suite", ["cifar", "imagenet", "paper"])
def test_validate_lists_what_is_missing(suite: str, reliquant: Reliquant, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    status, out, err = reliquant("validate", suite)
    assert status == 0, err
    assert err == ""
    assert "configurations" in out
    missing = out.split("missing here", 1)[1]
    used = load_suite(suite)
    for name, spec in used.data.items():
        assert f"data set '{name}'" in missing, name
        assert str(spec.path).replace("$DATA", str(tmp_path / "data")) in missing
    assert all(spec.ref in missing for spec in used.models)


def test_validate_counts_what_is_here(reliquant: Reliquant, model: str, tmp_path: Path) -> None:
    write_cifar(tmp_path / "data", count=12)
    _, out, _ = reliquant("validate", "cifar")
    missing = out.split("missing here", 1)[1]
    assert "data set" not in missing  # only the model
    assert f"6 different image towers of each model, {12 * (1 + 75 + 6 + 1):,} images for each" in out


# --- own data ----------------------------------------------------------------------------------------------------

SUITE = """
name: mine
version: 1
models: [{model}]
quantizations: [fp32]
data:
  scenes: {scenes}
tasks:
  zero_shot:
    scenes: {{test: scenes}}
"""


@pytest.fixture
def mine(model: str, tmp_path: Path) -> Callable[[str], str]:
    """Writes a suite with one data set; returns its path."""

    def write(scenes: str) -> str:
        (tmp_path / "mine.yaml").write_text(SUITE.format(model=model, scenes=scenes))
        return "mine.yaml"

    return write


def run_mine(reliquant: Reliquant, *arguments: object) -> tuple[dict[str, Any], str]:
    """The last record, and what was said on stderr."""
    status, _, err = reliquant("run", "mine.yaml", "--home", "home", "--tracker", "jsonl", *arguments)
    assert status == 0, err
    return records(Path("home"))[-1], err


def test_a_users_catalogue(reliquant: Reliquant, mine: Callable[[str], str], tmp_path: Path) -> None:
    write_image_folder(tmp_path / "pets", ["cat", "dog"], 10)
    (tmp_path / "my.yaml").write_text("pets: {source: image_folder, path: ./pets, templates: ['a {}', 'the {}']}")
    mine("{catalogue: pets}")
    record, err = run_mine(reliquant, "--catalogue", "my.yaml")
    assert record["metrics"]["zero_shot/scenes/samples"] == 10
    assert record["provenance"]["templates_origin"] == {"scenes": "spec"}
    assert "warning" not in err
    status, _, err = reliquant("run", "mine.yaml")
    assert status == 2
    assert "unknown data set 'pets'" in err


def test_a_role_pointed_at_a_folder_and_data_without_templates_is_said(
    reliquant: Reliquant, mine: Callable[[str], str], tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "pets", ["cat", "dog"], 10)
    mine("{source: demo, split: test}")
    record, err = run_mine(reliquant, "--data", "scenes=./pets")
    assert record["metrics"]["zero_shot/scenes/samples"] == 10
    assert record["provenance"]["templates_origin"] == {"scenes": "simple"}
    assert [line for line in err.splitlines() if "warning" in line] == [
        "warning: data set 'scenes' brings no prompt templates: \"a photo of a {}.\" is used; give it 'templates:'"
    ]


def test_broken_images_are_named_or_skipped_and_counted(
    reliquant: Reliquant, mine: Callable[[str], str], tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "pets", ["cat", "dog"], 10)
    (tmp_path / "pets" / "cat" / "s0000004.jpg").write_bytes(b"no image")
    mine("{source: image_folder, path: ./pets, templates: simple}")
    status, out, err = reliquant("run", "mine.yaml", "--home", "home", "--tracker", "jsonl")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("reliquant: error: data set 'scenes': image 2 (cat/s0000004.jpg): broken")
    assert "--skip-broken" in err
    assert records(tmp_path / "home") == []
    for more in ((), ("--pixel-cache", "0", "--quant", QUANT)):
        record, err = run_mine(reliquant, "--skip-broken", *more)
        assert record["metrics"]["zero_shot/scenes/samples"] == 9
        assert record["provenance"]["skipped"] == {"scenes": {"count": 1, "images": ["cat/s0000004.jpg"]}}
        assert "warning: data set 'scenes': 1 broken images left out (cat/s0000004.jpg)" in err


def test_a_broken_member_of_a_shard_is_named_with_its_shard(
    reliquant: Reliquant, mine: Callable[[str], str], tmp_path: Path
) -> None:
    made = write_webdataset(tmp_path / "wds", ["cat", "dog"], 10)
    shard = tmp_path / "wds" / "test" / "1.tar"
    shard.write_bytes(shard.read_bytes().replace(made[7].encoded[:64], bytes(64)))
    mine("{source: webdataset, path: ./wds}")
    status, _, err = reliquant("run", "mine.yaml", "--home", "home", "--tracker", "jsonl")
    assert status == 2
    assert "image 7 (s0000007 in " in err
    assert "1.tar): broken image" in err
    record, _ = run_mine(reliquant, "--skip-broken")
    assert record["provenance"]["skipped"]["scenes"]["images"] == ["s0000007"]


def test_no_pixel_cache_stores_no_pixels(reliquant: Reliquant, mine: Callable[[str], str], tmp_path: Path) -> None:
    write_image_folder(tmp_path / "pets", ["cat", "dog"], 10)
    mine("{source: image_folder, path: ./pets, templates: simple}")
    record, _ = run_mine(reliquant, "--pixel-cache", "0")
    cached = tmp_path / "home" / "cache" / "pixels"
    assert not [path for path in cached.rglob("*") if path.is_file()]
    run_mine(reliquant, "--pixel-cache", "1GB", "--home", "other")
    assert records(Path("other"))[-1]["metrics"] == record["metrics"]
    assert [path for path in (tmp_path / "other" / "cache" / "pixels").rglob("*") if path.is_file()]


# --- bad input: one line, before the model is loaded ---------------------------------------------------------------


def _parquet_without_label(root: Path) -> str:
    write_waterbirds(root)
    return "{source: parquet, path: ./d, split: test, classes: [a, b], options: {image: image, label: lable}}"


def _wrong_label(root: Path) -> str:
    write_webdataset(root, ["cat", "dog", "elk"])
    (root / "classnames.txt").write_text("cat\ndog\n")
    return "{source: webdataset, path: ./d}"


def _no_images(root: Path) -> str:
    (root / "cat").mkdir(parents=True)
    return "{source: image_folder, path: ./d}"


def _broken_shard(root: Path) -> str:
    write_webdataset(root, ["cat", "dog"])
    shard = root / "test" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    return "{source: webdataset, path: ./d}"


def _missing_shard(root: Path) -> str:
    write_webdataset(root, ["cat", "dog"])
    (root / "test" / "1.tar").unlink()
    return "{source: webdataset, path: ./d}"


def _broken_image(root: Path) -> str:
    write_image_folder(root, ["cat", "dog"])
    (root / "dog" / "s0000003.png").write_bytes(b"")
    return "{source: image_folder, path: ./d}"


def _unknown_class(root: Path) -> str:
    write_image_folder(root, ["cat", "dog"])
    return "{source: image_folder, path: ./d, options: {subset: [cat, dgo]}}"


def _template_without_place(root: Path) -> str:
    write_image_folder(root, ["cat", "dog"])
    return "{source: image_folder, path: ./d, templates: [a photo]}"


def _too_few_names(root: Path) -> str:
    write_image_folder(root, ["cat", "dog"])
    return "{source: image_folder, path: ./d, classes: [cat]}"


def _no_names(root: Path) -> str:
    write_image_list(root / "openood", 4, labels=[0, 1, 0, 1])
    (root / "list.txt").write_text((root / "openood" / "benchmark_imglist" / "imagenet" / "test_ninco.txt").read_text())
    return "{source: image_list, path: ./d/list.txt, options: {root: ./d/openood/images_largescale}}"


def _missing_listed_image(root: Path) -> str:
    root.mkdir()
    (root / "list.txt").write_text("ninco/a.jpg -1\n")
    return "{source: image_list, path: ./d/list.txt, text: none}"


BAD: dict[Callable[[Path], str], tuple[str, ...]] = {
    _parquet_without_label: ("column 'lable'", "label"),
    _wrong_label: ("label 2 of image 2 (s0000002)", "2 classes"),
    _no_images: ("no images",),
    _broken_shard: ("1.tar", "broken shard"),
    _missing_shard: ("1.tar: missing", "nshards.txt"),
    _broken_image: ("image ", "(dog/s0000003.png)", "empty file", "--skip-broken"),
    _unknown_class: ("'dgo'", "Did you mean 'dog'"),
    _template_without_place: ("template 'a photo'", "'{}'"),
    _too_few_names: ("'classes' gives 1 names", "2 classes"),
    _no_names: ("brings no class names", "classes:"),
    _missing_listed_image: ("line 1", "a.jpg"),
    lambda root: "{source: image_folder, path: ./no/such/folder}": ("no/such/folder", "no such file or folder"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.__name__.strip("_"))
def test_bad_data_is_one_line_and_loads_no_model(
    case: Callable[[Path], str],
    reliquant: Reliquant,
    mine: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the model is loaded before the data is known to be good")

    monkeypatch.setattr(ResolvedModel, "load", load)
    mine(case(tmp_path / "d"))
    status, out, err = reliquant("run", "mine.yaml", "--home", "home", "--tracker", "jsonl")
    assert (status, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("reliquant: error: data set 'scenes': ")
    for part in BAD[case]:
        assert part in lines[0]


def test_calibration_data_without_captions_is_one_line(
    reliquant: Reliquant, mine: Callable[[str], str], tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "pets", ["cat", "dog"])
    mine("{source: image_folder, path: ./pets, templates: simple}")
    (tmp_path / "mine.yaml").write_text((tmp_path / "mine.yaml").read_text() + "calibration: scenes\n")
    status, _, err = reliquant("run", "mine.yaml", "--home", "home", "--quant", "gptq-w4-vision+text")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "method 'gptq' needs captions: calibration 'scenes' of suite 'mine' has images alone" in err


@pytest.mark.parametrize(
    ("task", "roles", "says"),
    [
        ("zero_shot", "test: far", "role 'test': data set 'far' has no classes (text: none)"),
        ("ood", "id: far, ood: scenes", "role 'id': data set 'far' has no classes (text: none)"),
        ("covariate_shift", "source: scenes, shifted: digits", "data set 'digits' shares no class with 'scenes'"),
        ("spurious", "common: scenes, counter: digits", "data set 'digits' has other classes than 'scenes'"),
        ("corruption", "clean: digits, corrupted: noisy", "data set 'noisy/fog/1' has other classes than 'digits'"),
    ],
)
def test_label_spaces_are_checked_before_anything_is_embedded(
    task: str, roles: str, says: str, reliquant: Reliquant, model: str, tmp_path: Path
) -> None:
    suite = f"""
name: mine
version: 1
models: [{model}]
quantizations: [fp32]
data:
  scenes: {{source: demo, split: test, limit: 8}}
  digits: {{source: demo, split: digits, limit: 8}}
  noisy: {{base: scenes, corruptions: [fog], severities: [1]}}
  far: {{source: demo, split: far_ood, limit: 8, text: none}}
tasks:
  {task}:
    mine: {{{roles}}}
"""
    (tmp_path / "mine.yaml").write_text(suite)
    status, out, err = reliquant("run", "mine.yaml", "--home", "home", "--tracker", "jsonl")
    assert (status, out) == (2, "")
    assert err.startswith(f"reliquant: error: suite 'mine': tasks.{task}.mine: role ")
    assert err.endswith(f"{says}\n")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "home").exists()
