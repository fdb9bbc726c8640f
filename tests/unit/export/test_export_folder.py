"""Exported folders: what is written, that it loads back the same, and what is said about a damaged one."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from benchmark.engine.requested import with_overrides
from benchmark.errors import DataError, InputError, ModelError, ReliquantError, SpecError
from benchmark.export.command import export
from benchmark.export.folder import CARD, REPORT, WEIGHTS
from benchmark.export.request import ExportRequest
from benchmark.export.serving import COLUMN, Predictor, _load_pyfunc, example, read_image
from benchmark.models import resolve
from benchmark.models.references import EXPORT_NAME
from benchmark.quantization import Calibration, parse, quantize
from tests.models_zoo import write_checkpoint

SUITE: dict[str, Any] = {
    "name": "tiny",
    "version": 1,
    "quantizations": ["fp32", "rtn-w3-channel-vision", "bnb-nf4-vision"],
    "calibration": "calibration",
    "data": {
        "scenes": {"source": "demo", "split": "test", "limit": 8},
        "calibration": {"source": "demo", "split": "calibration", "limit": 8},
    },
    "tasks": {"zero_shot": {"scenes": {"test": "scenes"}}},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def write(home: Path) -> Callable[..., Path]:
    """Export a quantization of a family's small checkpoint; the folder."""

    def make(name: str, family: str = "ViT", **options: Any) -> Path:
        place = home / family
        ref = write_checkpoint(family, place) if not place.exists() else f"local-dir:{place}"
        suite = home / f"{family}.yaml"
        suite.write_text(yaml.safe_dump({**SUITE, "models": [ref]}))
        to = home / f"{family}-{name}-{len(list(home.iterdir()))}"
        export(
            ExportRequest(
                **{"config": name, "to": to, "suite": str(suite), "home": home / "results", "quiet": True, **options}
            )
        )
        return to

    return make


@pytest.fixture(scope="module")
def folder(write: Callable[..., Path]) -> Path:
    return write("rtn-w4a8-channel-token-vision")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same folder, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


NAMES = [
    ("ViT", "rtn-w3-g16-asym-vision+text"),
    ("ViT", "smoothquant-w6a8-channel-tensor-actasym-vision"),
    ("ViT", "rotation-w4a8-channel-token-vision+text"),
    pytest.param("ViT", "gptq-w4-channel-vision", marks=pytest.mark.slow),
    ("ViT", "fp8-w8a8-channel-token-vision"),
    ("ViT", with_overrides("rtn-w4-g16-vision+text", ["visual.transformer.resblocks.0.*=8", "*.mlp.c_proj=3"])),
    ("ViT", with_overrides("rtn-w4a8-channel-token-vision", ["*.attn.*=6"])),
    ("ViT", "torchao-int8wo-vision+text"),
    ("ViT", "torchao-int8da-vision"),
    ("ViT", "bnb-int8-vision+text"),
    ("ViT", "bnb-nf4-doublequant_true-vision"),
    ("ResNet", "rtn-w4a8-channel-token-vision"),
    pytest.param("ConvNeXt", "awq-w4a8-channel-token-vision", marks=pytest.mark.slow),
    ("SigLIP", "rtn-w4a8-channel-token-vision+text"),
    pytest.param("CoCa", "rtn-w5a8-channel-token-vision+text", marks=pytest.mark.slow),
    pytest.param("EVA", "hqq-w4-channel-vision", marks=pytest.mark.slow),
    pytest.param("Custom", "percentile-w8a8-tensor-tensor-vision", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("family", "name"), NAMES, ids=lambda value: value)
def test_the_loaded_model_is_bit_identical(write: Callable[..., Path], home: Path, family: str, name: str) -> None:
    """Against a quantization that the exporting process did not see, in other images than its own check."""
    to = write(name, family)
    full = resolve(f"local-dir:{home / family}").load()
    size = full.preprocess.size
    data = _calibration(home, size)
    expected, report = quantize(full, parse(name), data)
    stored = resolve(str(to))
    assert stored.quantized is not None
    loaded, told = stored.quantized.load("cpu", False)
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (5, 3, *size), dtype=np.uint8))
    assert torch.equal(loaded.encode_image(pixels), expected.encode_image(pixels))
    assert torch.equal(loaded.encode_text(["a dog", "two"]), expected.encode_text(["a dog", "two"]))
    assert (loaded.logit_scale, loaded.logit_bias) == (expected.logit_scale, expected.logit_bias)
    assert told.towers == report.towers
    if parse(name).overrides:
        assert len({layer.bits for tower in told.towers.values() for layer in tower.layers}) > 1
    for tap in ("penultimate", *sorted(name for name in full.taps if name.startswith("block:"))[:1]):
        found, wanted = (m.encode_image_with(pixels, [tap])[tap] for m in (loaded, expected))
        assert torch.equal(found, wanted)


def _calibration(home: Path, size: tuple[int, int]) -> Calibration:
    """The calibration pairs of the suite, decoded again."""
    from benchmark.data import open_data
    from benchmark.data.pixels import PixelCache
    from benchmark.models.preprocess import Preprocess
    from benchmark.spec import DataSpec
    from benchmark.utils.progress import Silent

    data = open_data(DataSpec(**SUITE["data"]["calibration"]), "calibration")
    preprocess = next(resolve(f"local-dir:{p}").preprocess for p in home.iterdir() if _fits(p, size))
    assert isinstance(preprocess, Preprocess)
    pixels = PixelCache(home / "other", 0).open(data, preprocess, Silent(), 1)
    return Calibration(pixels.array, data.first_captions(pixels.rows), pixels.digest)


def _fits(place: Path, size: tuple[int, int]) -> bool:
    return (place / "open_clip_config.json").is_file() and resolve(f"local-dir:{place}").preprocess.size == size


def test_the_file_is_as_large_as_the_report_says(folder: Path, home: Path) -> None:
    """Packed layers as counted, all other parameters in float32; beside them the header and rounding to bytes."""
    report = json.loads((folder / REPORT).read_text())["towers"]["vision"]
    full = resolve(f"local-dir:{home / 'ViT'}").load()
    text = sum(4 * p.numel() for n, p in full.module.named_parameters() if not full.in_tower(n, "vision"))
    with (folder / WEIGHTS).open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    payload = (folder / WEIGHTS).stat().st_size - header
    assert report["packed_bytes"] < report["float_bytes"] / 4
    assert 0 <= payload - (report["packed_bytes"] + text) <= 2 * len(report["layers"])


def test_who_may_read_the_card_may_read_the_weights(folder: Path) -> None:
    """A server is often another user than the one who exported."""
    assert {file.stat().st_mode for file in folder.iterdir() if file.is_file()} == {(folder / CARD).stat().st_mode}


def test_two_exports_are_the_same_model(write: Callable[..., Path], folder: Path, home: Path) -> None:
    again = write("rtn-w4a8-channel-token-vision")
    assert (again / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert resolve(str(again)).digest == resolve(f"local-dir:{folder}").digest
    assert resolve(str(folder)).digest != resolve(f"local-dir:{home / 'ViT'}").digest
    assert resolve(str(write("rtn-w5a8-channel-token-vision"))).digest != resolve(str(folder)).digest


def test_rotations_are_stored_once(write: Callable[..., Path]) -> None:
    to = write("rotation-w8a8-channel-token-vision")
    with safe_open(to / WEIGHTS, "pt") as file:  # type: ignore[no-untyped-call]
        left = [name for name in file.keys() if name.endswith("transform.left")]  # noqa: SIM118
    layers = json.loads((to / EXPORT_NAME).read_text())["layers"]
    assert sum(about.get("transform") == "rotation" for about in layers.values()) > 4 > len(left) > 0


def test_the_card_is_honest_without_an_evaluation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folder / CARD).read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "reliquant"
    assert "model-index" not in yaml.safe_load(front)
    assert "nothing may be claimed about its reliability" in body
    assert "Its speed was not measured." in body
    assert "--to ViT-rtn-w4a8-channel-token-vision" in body


def test_nothing_in_a_folder_is_code_or_a_pickle(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [CARD, REPORT, EXPORT_NAME, WEIGHTS, "classes.safetensors"]
    )


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        content = json.loads((place / EXPORT_NAME).read_text())
        change(content)
        (place / EXPORT_NAME).write_text(json.dumps(content))

    return apply


def _flip(place: Path) -> None:
    content = bytearray((place / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (place / WEIGHTS).write_bytes(content)


def _signed(place: Path, name: str | None, content: str) -> None:
    """Another content with its digest, as whoever makes a folder could; None: a file more, without."""
    file = place / (name or "base/tokenizer_config.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    if name is not None:
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        _edit(lambda config: config["files"].update({name: sha256}))(place)


def _pickle(place: Path) -> None:
    torch.save({"evil": torch.zeros(1)}, place / WEIGHTS)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (_flip, "model.safetensors: damaged"),
    "a pickle under its name": (_pickle, "model.safetensors: damaged"),
    "no weights": (lambda place: (place / WEIGHTS).unlink(), "model.safetensors: no such file"),
    "no report": (lambda place: (place / REPORT).unlink(), "quantization_report.json: no such file"),
    "another report": (lambda place: (place / REPORT).write_text("{}") and None, "report.json: damaged"),
    "empty report": (lambda place: _signed(place, REPORT, "{}"), "no report of a quantization"),
    "another card": (lambda place: (place / CARD).write_text("safe") and None, "README.md: damaged"),
    "a file more": (lambda place: _signed(place, None, "x"), "base/tokenizer_config.json: not one of the files"),
    "a link more": (lambda place: (place / "base").symlink_to(place.parent), "base: not one of the files"),
    "a path outside": (_edit(lambda c: c["files"].update({"../x": "0"})), "x: no such file, though reliquant.json"),
    "no digests": (_edit(lambda c: c.pop("files")), "files"),
    "no digest of the weights": (_edit(lambda c: c["files"].pop(WEIGHTS)), "model.safetensors: not one of the files"),
    "no config": (lambda place: (place / EXPORT_NAME).unlink(), "reliquant.json is missing"),
    "not json": (lambda place: (place / EXPORT_NAME).write_text("{") and None, "not valid JSON"),
    "another version": (_edit(lambda c: c.update(format=1)), "format 1, this reliquant reads format 2"),
    "foreign json": (
        lambda place: (place / EXPORT_NAME).write_text("{}") and None,
        "format None, this reliquant reads format 2",
    ),
    "unknown method": (_edit(lambda c: c["quantization"].update(method="rnt")), "Did you mean 'rtn'"),
    "bad field": (_edit(lambda c: c.update(logit_scale=-1)), "logit_scale"),
    "unknown layer": (_edit(lambda c: c["layers"].update(nowhere={})), "no layer 'nowhere'"),
    "a layer lost": (_edit(lambda c: c["layers"].pop("visual.conv1")), "does not match its architecture"),
    "other bits": (_edit(lambda c: c["layers"]["visual.conv1"]["weight"].update(bits=3)), "layer 'visual.conv1'"),
    "other architecture": (
        _edit(lambda c: c["base"]["architecture"]["vision_cfg"].update(width=32)),
        "does not match its architecture",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_one_clear_line(copy: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(copy)
    with pytest.raises(ReliquantError, match=message) as caught:
        resolve(str(copy)).load()
    assert "\n" not in str(caught.value)


def test_hidden_files_and_litter_change_nothing(copy: Path) -> None:
    before = resolve(str(copy)).digest
    for name in (".DS_Store", ".git/config", "Thumbs.db"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("x")
    assert resolve(str(copy)).digest == before


def test_what_exists_is_not_overwritten(write: Callable[..., Path], folder: Path, home: Path) -> None:
    before = (folder / EXPORT_NAME).read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write("bnb-nf4-vision", to=folder)
    assert (folder / EXPORT_NAME).read_bytes() == before
    assert not list(home.glob(".*"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("fp32", "fp32 is the model as it is"),
        ("control-lowrank-rank_4-vision", "features, not weights"),
        ("rnt-w4", "Did you mean 'rtn'"),
    ],
)
def test_what_cannot_be_exported_is_said(write: Callable[..., Path], home: Path, config: str, message: str) -> None:
    with pytest.raises(ReliquantError, match=message):
        write(config, to=home / "never")
    assert not (home / "never").exists()


def test_an_exported_model_is_not_exported_again(write: Callable[..., Path], folder: Path, home: Path) -> None:
    with pytest.raises(SpecError, match="is quantized already"):
        write("bnb-nf4-vision", model=str(folder), to=home / "never")


def test_a_card_names_the_suite_that_it_was_made_with(
    write: Callable[..., Path], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = str(home / "ViT.yaml")
    of_suite = write("rtn-w3-channel-vision")
    assert f"Use it: reliquant run {given} --model {of_suite}\n" in capsys.readouterr().out
    of_front = write(f"{given}:1")
    captured = capsys.readouterr()
    assert f"Use it: reliquant run {given} --model {of_front}\n" in captured.out
    assert f"`reliquant run {given} --quant rtn-w3-channel-vision`" in captured.err
    for folder, command in (
        (of_suite, "export rtn-w3-channel-vision --suite ViT.yaml --to"),
        (of_front, "export ViT.yaml:1 --to"),
    ):
        card = (folder / CARD).read_text()
        assert "Suite tiny (version 1)." in card
        assert f"reliquant run ViT.yaml --model path/to/{folder.name}\n" in card
        assert f"reliquant {command} {folder.name}`" in card
        assert "demo" not in card
        assert str(home) not in card.replace(f"local-dir:{home}", "")  # the model's own reference


def test_a_front_of_a_search_is_taken_by_number(write: Callable[..., Path], home: Path) -> None:
    front = home / "ViT.yaml"
    assert resolve(str(write(f"{front}:2"))).quantized.quant.name == "bnb-nf4-vision"  # type: ignore[union-attr]
    with pytest.raises(SpecError, match="1 rtn-w3-channel-vision, 2 bnb-nf4-vision"):
        write(str(front), to=home / "never")


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def test_served_images_get_the_probabilities_of_an_evaluation(folder: Path) -> None:
    """Files and arrays alike; rows do not depend on each other beyond rounding."""
    served = _load_pyfunc(str(folder))
    picture = np.random.default_rng(2).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="PNG")
    table = pd.DataFrame({COLUMN: [out.getvalue(), npy(picture), example((32, 32))]}, index=[5, 6, 7])
    found = served.predict(table)
    assert list(found.index) == [5, 6, 7]
    assert len(found.columns) == 96
    assert np.allclose(found.sum(axis=1), 1)
    assert np.array_equal(found.loc[5], found.loc[6])
    model = resolve(str(folder)).load()
    from benchmark.data.decode import pixels

    image = model.encode_image(torch.from_numpy(pixels(out.getvalue(), model.preprocess)[None].copy())).double()
    scores = model.logit_scale * image @ torch.from_numpy(Predictor(folder).text).double().T
    assert np.allclose(found.loc[5], scores.softmax(-1).numpy()[0], atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image", "broken image"),
        ("a string", "expected the bytes of an image file, got str"),
        (npy(np.zeros((4, 4), np.uint8)), r"expected a uint8 array \(H, W, 3\), got uint8 \(4, 4\)"),
        (npy(np.zeros((4, 4, 3), np.float32)), "got float32"),
        (b"\x93NUMPY\x01", r"broken \.npy"),
    ],
)
def test_what_is_no_image_is_said(content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_image(content)


def test_an_array_of_objects_is_not_unpickled() -> None:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"broken \.npy"):
        read_image(out.getvalue())


def test_a_request_has_limits_and_is_told_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What MLflow's scoring server sends: no stack trace, and not the input either."""
    from mlflow.exceptions import MlflowException

    served = _load_pyfunc(str(folder))
    for images, message in (
        ([example((9, 9)), b"%!PS-Adobe-3.0 EPSF-3.0"], "row 1: EPS is not read; convert it to PNG"),
        ([example((9, 9))] * 1025, "1025 images, more than 1024"),
    ):
        with pytest.raises(MlflowException) as caught:
            served.predict(pd.DataFrame({COLUMN: images}))
        caught.value.message = f"Failed to predict data '{images}'."  # as MLflow's server does
        told = json.loads(caught.value.serialize_as_json())
        assert set(told) == {"error_code", "message"}
        assert message in told["message"]
        assert caught.value.get_http_status_code() == 400
    monkeypatch.setattr("benchmark.export.serving.SECONDS", -1.0)
    with pytest.raises(DataError, match="row 0 was not reached"):
        served.predict(pd.DataFrame({COLUMN: [example((9, 9))]}))


def test_a_folder_without_classes_cannot_be_served(copy: Path) -> None:
    _edit(lambda c: c.update(classes=None))(copy)
    with pytest.raises(ModelError, match="holds no classes"):
        Predictor(copy)
