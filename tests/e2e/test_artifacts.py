"""Artifacts from the command line: somebody's file, and features made elsewhere, in the place of a quantization."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.e2e.test_cli import ROOT, call
from tests.graphs import graph_of

Reliquant = Callable[..., tuple[int, str, str]]
SUITE = """
name: shipped
version: 1
models: [demo]
quantizations: [rtn-w4a8-vision]
data:
  scenes: {source: demo, split: test}
  far: {source: demo, split: far_ood, text: none}
tasks:
  zero_shot: {scenes: {test: scenes}}
  ood: {scenes.far: {id: scenes, ood: far}}
headline: [zero_shot/scenes/accuracy, ood/scenes.far/mcm/auroc]
"""
SMALL = ("--home", "home", "--limit", "40")
QUIET = ("--tracker", "jsonl", "--quiet", "--no-speed")


@pytest.fixture
def reliquant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reliquant:
    """The command line in a folder with `shipped.yaml`: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("shipped.yaml").write_text(SUITE)
    return lambda *arguments: call(monkeypatch, capsys, *map(str, arguments))


def inputs(reliquant: Reliquant, *arguments: str) -> dict[str, NDArray[Any]]:
    """What `artifact inputs` writes into `work`."""
    status, out, err = reliquant("artifact", "inputs", "shipped.yaml", "--to", "work", *SMALL, *arguments)
    assert status == 0, err
    assert "80 images" in out
    return {path.stem: np.load(path) for path in Path("work").glob("*.npy")}


def encoded(found: dict[str, NDArray[Any]], noise: float = 0.0) -> dict[str, NDArray[Any]]:
    """Features of the demo in full precision, with noise, computed here."""
    import torch

    from benchmark.models import resolve

    model, about = resolve("demo").load(), json.loads(Path("work/inputs.json").read_text())["normalise"]
    mean, std = (np.array(about[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
    pixels = (found["image"] / np.float32(255) - mean) / std
    with torch.inference_mode():
        image = model.image_encoder(model.module, torch.from_numpy(pixels)).numpy()
        text = model.text_encoder(model.module, torch.from_numpy(found["tokens"])).numpy()
    image = image + noise * np.abs(image).mean() * np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    return {"image_id": found["image_id"], "image": image, "text_id": found["text_id"], "text": text}


def metrics(home: str = "home") -> dict[str, dict[str, float]]:
    """Metrics of the finished records by quantization."""
    found: dict[str, dict[str, float]] = {}
    for line in (Path(home) / "ledger.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get("kind") == "record":
            found.setdefault(row["quantization"], {}).update(row["metrics"])
    return found


def test_inputs_are_the_pixels_and_texts_of_the_suite(reliquant: Reliquant) -> None:
    """Features of them, made by hand, are those that full precision has: no metric differs."""
    found = inputs(reliquant)
    assert found["image"].shape == (80, 3, 64, 64)
    assert found["image"].dtype == np.uint8
    assert len(found["text_id"]) == len(found["tokens"]) == 96 * 6
    np.savez("features.npz", **encoded(found))  # type: ignore[arg-type]
    status, out, err = reliquant("run", "shipped.yaml", "--artifact", "phone=features.npz", *SMALL, *QUIET)
    assert status == 0, err
    own = metrics()
    assert set(own) == {"fp32", "rtn-w4a8-channel-token-vision", "phone"}
    same = {key: own["phone"][key] for key in own["fp32"]}
    assert same == pytest.approx(own["fp32"], abs=1e-6)
    assert own["phone"]["zero_shot/scenes/agreement"] == 1
    assert "phone" in out
    again = reliquant("run", "shipped.yaml", "--artifact", "phone=features.npz", *SMALL, *QUIET)
    assert "0 computed" in again[1]


def test_an_artifact_is_addressed_by_its_name(reliquant: Reliquant) -> None:
    """In every command that reads results, in a filter, and in the command that repeats it."""
    np.savez("features.npz", **encoded(inputs(reliquant), noise=0.6))  # type: ignore[arg-type]
    given = ("--artifact", "phone=features.npz")
    assert reliquant("run", "shipped.yaml", *given, "--quant", "phone", *SMALL, *QUIET)[0] == 0
    assert set(metrics()) == {"fp32", "phone"}
    asked = ("--home", "home", "--suite", "shipped.yaml")
    status, out, _ = reliquant("gate", "phone", *asked, "--margin", "*=0.9")
    assert (status, out.splitlines()[0].split(" of ")[0]) == (0, "non-inferior: phone")
    assert reliquant("gate", "phone", *asked, "--margin", "zero_shot/*=0.000001")[0] in (1, 4)
    out = reliquant("compare", "phone", *asked, "--json")[1]
    keys = {json.loads(line)["metric"] for line in out.splitlines()}
    assert keys == {"zero_shot/scenes/accuracy", "ood/scenes.far/mcm/auroc"}
    out = reliquant("show", "phone", *asked)[1]
    assert "features.npz, by features" in out
    assert "an artifact" in out or "artifact: a file" in out
    assert reliquant("report", "shipped.yaml", "--home", "home", "-o", "page.html")[0] == 0
    page = Path("page.html").read_text()
    assert "phone=features.npz" in page
    assert "artifact, vision tower" in page


def test_an_artifact_in_a_suite(reliquant: Reliquant) -> None:
    """It is counted by validate, left out by --quant, and its new file is what counts."""
    made = encoded(inputs(reliquant), noise=0.2)
    np.savez("features.npz", **made)  # type: ignore[arg-type]
    Path("shipped.yaml").write_text(SUITE + "artifacts:\n  phone: {file: features.npz, scope: vision}\n")
    assert "1 models x 2 quantizations + 1 artifacts = 3 configurations" in reliquant("validate", "shipped.yaml")[1]
    assert reliquant("run", "shipped.yaml", "--quant", "fp32", *SMALL, *QUIET)[0] == 0
    assert set(metrics()) == {"fp32"}
    assert reliquant("run", "shipped.yaml", "--quant", "phone", *SMALL, *QUIET)[0] == 0
    np.savez("features.npz", **{**made, "image": made["image"][::-1]})  # type: ignore[arg-type]
    one = ("--quant", "phone", "--task", "zero_shot")
    status, _, err = reliquant("run", "shipped.yaml", *one, *SMALL, *QUIET)
    assert status == 0
    assert "warning: the vision features of phone have a mean cosine of " in err
    out = reliquant("compare", "phone", "--home", "home", "--suite", "shipped.yaml", "--json")[1]
    assert {json.loads(line)["metric"] for line in out.splitlines()} == {"zero_shot/scenes/accuracy"}
    Path("features.npz").unlink()
    assert "artifact 'phone': features.npz: no such file" in reliquant("validate", "shipped.yaml")[1]


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no file": (("phone=none.onnx",), "artifact 'phone': none.onnx: no such file"),
    "no form": (("phone",), "--artifact 'phone': the form is NAME=FILE"),
    "a short name": (("rtn-w4=features.npz",), "reads as the quantization method 'rtn'"),
    "a suite": (("shipped=features.npz",), "an artifact cannot be called 'shipped' like a suite"),
    "twice": (("phone=features.npz", "phone=features.npz"), "'phone' stands twice"),
    "another model": (("phone=features.npz,model=other",), "unknown model of the suite 'other'. Known: demo."),
    "no text tower": (("phone=image.npz,scope=vision+text",), "scope vision+text needs the text tower too"),
    "a pickle": (("phone=model.pt",), "no runtime reads files that end in '.pt'"),
    "unknown runtime": (("phone=features.npz,runtime=onxx",), "unknown runtime 'onxx'. Did you mean 'onnx'?"),
    "missing ids": (("phone=few.npz",), "few.npz: image: 70 of 80 images have no feature, first 'far/"),
    "missing texts": (("phone=notexts.npz",), "notexts.npz: text: 575 of 576 texts have no feature, first 'a "),
    "another width": (("phone=wide.npz",), "wide.npz: image: its embeddings have 65 numbers, those of demo 64."),
    "NaN": (("phone=nan.npz",), "nan.npz: image: 1 features hold NaN or infinity, first 'scenes/"),
    "twice an id": (("phone=double.npz",), "double.npz: image_id: 1 ids stand twice, first 'scenes/"),
}


def test_bad_artifacts_are_one_line_before_anything_is_embedded(reliquant: Reliquant) -> None:
    made = encoded(inputs(reliquant))
    image = {name: made[name] for name in ("image_id", "image")}
    broken = made["image"].copy()
    broken[3, 0] = np.nan
    double = made["image_id"].copy()
    double[1] = double[0]
    files: dict[str, dict[str, Any]] = {
        "features": made,
        "image": image,
        "few": {name: values[:10] for name, values in image.items()},
        "notexts": {**image, "text_id": made["text_id"][:1], "text": made["text"][:1]},
        "wide": {**image, "image": np.pad(made["image"], ((0, 0), (0, 1)))},
        "nan": {**image, "image": broken},
        "double": {**image, "image_id": double},
    }
    for name, arrays in files.items():
        np.savez(f"{name}.npz", **arrays)
    Path("model.pt").write_bytes(b"\x80\x04.")
    for case, (given, says) in BAD.items():
        flags = [word for each in given for word in ("--artifact", each)]
        status, out, err = reliquant("run", "shipped.yaml", *flags, *SMALL, *QUIET)
        assert (status, out, len(err.splitlines())) == (2, "", 1), (case, err)
        assert err.startswith("reliquant: error: "), case
        assert says in err, (case, err)
        assert not Path("home/ledger.jsonl").exists() or not metrics(), case


def test_features_that_nobody_asked_for_are_said(reliquant: Reliquant) -> None:
    made = encoded(inputs(reliquant))
    more = {"image_id": np.append(made["image_id"], "moon/1"), "image": np.vstack([made["image"], made["image"][:1]])}
    half = {**made, **more, "text": made["text"].astype(np.float16)}
    np.savez("features.npz", **half)
    loud = ("--tracker", "jsonl", "--no-speed")
    status, _, err = reliquant("run", "shipped.yaml", "--artifact", "phone=features.npz", *SMALL, *loud)
    assert status == 0, err
    assert "1 of 81 features belong to no image of this run and are left out, first 'moon/1'" in err
    assert "float16" in reliquant("show", "phone", "--home", "home")[1]


def test_inputs_do_not_overwrite_a_folder_of_yours(reliquant: Reliquant) -> None:
    Path("work").mkdir()
    Path("work/precious.txt").write_text("mine")
    status, _, err = reliquant("artifact", "inputs", "shipped.yaml", "--to", "work", *SMALL)
    assert (status, err) == (2, "reliquant: error: --to work: it holds other files. Name a new folder.\n")
    assert [path.name for path in Path("work").iterdir()] == ["precious.txt"]


@pytest.mark.slow
def test_an_artifact_stands_beside_the_front_of_a_search(reliquant: Reliquant) -> None:
    """A file that any image can go through: the test split has other images than the validation split."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    onnx.save(random_tower(), "visual.onnx")
    small = ("--method", "rtn", "--scope", "vision", "--trials", "2", "--no-tracking", "--quiet", *SMALL)
    status, out, err = reliquant(
        "search", "shipped.yaml", *small, "--sampler", "random", "--artifact", "phone=visual.onnx", "--json"
    )
    assert status == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[-1]["quantization"] == "phone"
    assert (rows[-1]["trial"], rows[-1]["validation"]) == (None, None)
    assert rows[-1]["reliability"]["test"]["value"] < -0.1
    assert rows[-1]["decision"]["verdict"] == "inferior"
    assert all(row["trial"] is not None for row in rows[:-1])
    assert rows[:-1]


def random_tower() -> Any:
    """A graph that takes the demo's pixels and knows nothing."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(3 * 64 * 64, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["image_embeds"]),
    ]
    given, made = ("pixels", TensorProto.FLOAT, [1, 3, 64, 64]), ("image_embeds", [1, 64])
    return graph_of(nodes, given, made, [numpy_helper.from_array(weight, "weight")])


@pytest.mark.slow
def test_a_foreign_file_gets_the_verdict_of_the_features_made_from_it(reliquant: Reliquant, tmp_path: Path) -> None:
    """Exported by plain torch, quantized by plain onnxruntime, run by a script that has no reliquant."""
    for module in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(module)
    inputs(reliquant)
    (tmp_path / "export.py").write_text(EXPORT)
    (tmp_path / "elsewhere.py").write_text(BY_ONNXRUNTIME)
    python("export.py", PYTHONPATH=str(ROOT))
    python("elsewhere.py", "work", "visual_int8.onnx", "text.onnx", "features.npz")
    flags = [
        f"--artifact={name}"
        for name in (
            "float=visual.onnx,text=text.onnx",
            "int8=visual_int8.onnx,text=text.onnx",
            "elsewhere=features.npz",
            "ir=visual_int8.onnx,runtime=openvino",
        )
    ]
    status, _, err = reliquant("run", "shipped.yaml", *flags, *SMALL, *QUIET, "--quant", "fp32")
    assert status == 0, err
    found = metrics()
    assert {key: found["float"][key] for key in found["fp32"]} == pytest.approx(found["fp32"], abs=1e-4)
    assert found["elsewhere"] == pytest.approx(found["int8"], abs=1e-6)
    assert found["ir"] == pytest.approx(found["int8"], abs=0.05)  # another library, other roundings
    verdicts = []
    for name in ("int8", "elsewhere"):
        told = json.loads(reliquant("gate", name, "--home", "home", "--suite", "shipped.yaml", "--json")[1])
        verdicts.append((told["verdict"], {each["metric"]: each["verdict"] for each in told["metrics"]}))
    assert verdicts[0] == verdicts[1]
    sizes = {path: Path(path).stat().st_size for path in ("visual.onnx", "visual_int8.onnx")}
    out = reliquant("show", "int8", "--home", "home", "--suite", "shipped.yaml")[1]
    assert f"{sizes['visual_int8.onnx'] / 1e6:.2f} MB on disk" in out
    assert sizes["visual_int8.onnx"] < sizes["visual.onnx"] / 2


EXPORT = """
import torch
from onnxruntime.quantization import quantize_dynamic
from benchmark.models import resolve

model = resolve("demo").load()

class Tower(torch.nn.Module):
    def __init__(self, encode):
        super().__init__()
        self.module, self.encode = model.module, encode

    def forward(self, inputs):
        return self.encode(self.module, inputs)

batch = torch.export.Dim("batch", min=1, max=1024)
for name, tower, example in (
    ("visual", Tower(model.image_encoder), torch.randn(3, 3, 64, 64)),
    ("text", Tower(model.text_encoder), torch.randint(1, 40, (3, 16))),
):
    torch.onnx.export(
        tower.eval(), (example,), f"{name}.onnx", dynamo=True, dynamic_shapes=({0: batch},),
        input_names=["inputs"], output_names=[f"{name}_features"], external_data=False,
    )
quantize_dynamic("visual.onnx", "visual_int8.onnx")
"""

BY_ONNXRUNTIME = """
import json, sys
import numpy as np, onnxruntime

work, visual, text, out = sys.argv[1:]
about = json.load(open(f"{work}/inputs.json"))["normalise"]
mean, std = (np.array(about[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
image, texts = (onnxruntime.InferenceSession(path) for path in (visual, text))
rows = [image.run(None, {"inputs": [(x / np.float32(255) - mean) / std]})[0] for x in np.load(f"{work}/image.npy")]
np.savez(
    out,
    image_id=np.load(f"{work}/image_id.npy"),
    image=np.concatenate(rows),
    text_id=np.load(f"{work}/text_id.npy"),
    text=texts.run(None, {"inputs": np.load(f"{work}/tokens.npy")})[0],
)
assert not [name for name in sys.modules if name.split(".")[0] in ("benchmark", "torch")]
"""


def python(*arguments: str, **environment: str) -> None:
    """A script in a process of its own."""
    own = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", **environment}
    found = subprocess.run(
        [sys.executable, *arguments], env=own, capture_output=True, text=True, check=False, timeout=300
    )
    assert found.returncode == 0, found.stderr[-2000:]
