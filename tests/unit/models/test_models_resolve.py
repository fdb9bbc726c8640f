"""References: what they resolve to, how cheaply, and what is said about bad ones."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmark.errors import ModelError, NonFiniteError, UnknownNameError
from benchmark.models import display_name, resolve
from benchmark.models.checkpoint import find_weights, read_header
from benchmark.models.families import family_of
from benchmark.models.pretrained import architectures
from benchmark.spec import ModelSpec
from tests.models_zoo import CONFIGS, write_checkpoint

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint("ViT", tmp_path / "vit")
    return tmp_path / "vit"


def _edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def _edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


def test_resolves_a_folder(folder: Path) -> None:
    found = resolve(f"local-dir:{folder}")
    assert (found.name, found.family, found.ref) == ("vit", "ViT", f"local-dir:{folder}")
    assert found.files == (folder / WEIGHTS,)
    assert found.parameters == sum(value.numel() for value in load_file(folder / WEIGHTS).values())
    assert found.preprocess.size == (32, 32)
    model = found.load()
    assert (model.name, model.digest, model.preprocess) == (found.name, found.digest, found.preprocess)


def test_a_given_name_wins(folder: Path) -> None:
    found = resolve(ModelSpec(ref=f"local-dir:{folder}", name="mine"))
    assert found.name == "mine"
    assert found.load().name == "mine"


def test_resolving_imports_neither_torch_nor_open_clip(folder: Path) -> None:
    code = (
        "import sys; from benchmark.models import resolve; "
        f"r = resolve('local-dir:{folder}'); "
        "print(r.digest, [m for m in ('torch', 'open_clip', 'transformers') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split(" ", 1) == [resolve(f"local-dir:{folder}").digest, "[]\n"]


def test_digest_follows_the_content_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = resolve(f"local-dir:{folder}").digest
    write_checkpoint("ViT", tmp_path / "elsewhere")
    assert resolve(f"local-dir:{tmp_path / 'elsewhere'}").digest == before

    def scale(state: dict[str, Tensor]) -> None:
        state["logit_scale"] += 1

    def wider(config: dict[str, Any]) -> None:
        config["model_cfg"]["vision_cfg"]["mlp_ratio"] = 2.0

    def brighter(config: dict[str, Any]) -> None:
        config["preprocess_cfg"]["mean"] = [0.1, 0.2, 0.3]

    digests = {before}
    _edit_weights(folder, scale)
    digests.add(resolve(f"local-dir:{folder}").digest)
    for change in (wider, brighter):
        _edit(folder, change)
        digests.add(resolve(f"local-dir:{folder}").digest)
    assert len(digests) == 4


def test_a_weight_file_beside_its_configuration(folder: Path) -> None:
    assert resolve(str(folder / WEIGHTS)).digest == resolve(f"local-dir:{folder}").digest


@pytest.mark.parametrize("wrapped", [False, True])
def test_torch_checkpoints_give_the_same_model(folder: Path, wrapped: bool) -> None:
    state = {f"module.{name}" if wrapped else name: value for name, value in load_file(folder / WEIGHTS).items()}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, folder / "open_clip_pytorch_model.bin")
    expected = resolve(f"local-dir:{folder}").load().encode_text(["a dog"])
    (folder / WEIGHTS).unlink()
    found = resolve(f"local-dir:{folder}")
    assert found.parameters is None
    torch.testing.assert_close(found.load().encode_text(["a dog"]), expected, atol=0, rtol=0)


def test_half_precision_weights_run_in_float32(folder: Path) -> None:
    _edit_weights(folder, lambda state: state.update({name: value.half() for name, value in state.items()}))
    assert resolve(f"local-dir:{folder}").load().encode_text(["a"]).dtype == torch.float32


@pytest.mark.slow
def test_architecture_with_a_checkpoint_file(tmp_path: Path) -> None:
    from open_clip import create_model

    torch.manual_seed(0)
    original = create_model("ViT-S-32-alt", force_quick_gelu=False).eval()
    torch.save(original.state_dict(), tmp_path / "mine.pt")
    model = resolve(f"ViT-S-32-alt/{tmp_path / 'mine.pt'}").load()
    assert model.name == "ViT-S-32-alt.mine"
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        expected = original.encode_image(model.normalise(pixels), normalize=True)
    torch.testing.assert_close(model.encode_image(pixels), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("demo", "demo"),
        ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-32.laion2b_s34b_b79k"),
        ("hf-hub:org/Some-CLIP", "org.Some-CLIP"),
        ("local-dir:some/where/my model", "my-model"),
        ("transformers:kakaobrain/align-base", "kakaobrain.align-base"),
        ("local-dir:///", "model"),
    ],
)
def test_display_names(ref: str, name: str) -> None:
    assert display_name(ref) == name
    assert ModelSpec(ref=ref, name=name).name == name


def test_long_names_are_cut_and_stay_apart() -> None:
    first, second = (display_name(f"hf-hub:org/{'x' * 80}{end}") for end in "ab")
    assert first != second
    assert len(first) == 64


@pytest.mark.parametrize("family", CONFIGS)
def test_family_is_read_from_the_configuration(family: str) -> None:
    assert family_of(CONFIGS[family]) == ("ViT" if family == "Custom" else family)


def test_families_of_open_clips_own_names() -> None:
    expected = {
        "ViT-B-32": "ViT",
        "RN50": "ResNet",
        "convnext_base_w": "ConvNeXt",
        "ViT-B-16-SigLIP": "SigLIP",
        "ViT-B-16-SigLIP-i18n-256": "SigLIP",
        "ViT-B-16-SigLIP2": "SigLIP2",
        "coca_ViT-L-14": "CoCa",
        "EVA01-g-14": "EVA",
        "EVA02-L-14": "EVA",
        "MobileCLIP-S1": "MobileCLIP",
        "ViTamin-L": "ViTamin",
        "PE-Core-B-16": "PE",
    }
    found = {name: family_of(json.loads(architectures()[name].read_text())) for name in expected}
    assert found == expected


class TestBadReferences:
    @pytest.mark.parametrize(
        ("ref", "message"),
        [
            ("local-dir:/nowhere/at/all", "/nowhere/at/all: no such folder"),
            ("dmeo", "unknown model 'dmeo'. Did you mean 'demo'?"),
            ("loca-dir:x", "unknown kind of model reference 'loca-dir'. Did you mean 'local-dir'?"),
            ("ViT-B-33/openai", "unknown model 'ViT-B-33'. Did you mean 'ViT-B-32'?"),
            ("ViT-B-32/opnai", "unknown pretrained tag of ViT-B-32 'opnai'. Did you mean 'openai'?"),
            ("ViT-B-32", "which weights? Use ViT-B-32/FILE or ViT-B-32/TAG (openai, "),
            ("ViT-B-32/nowhere.safetensors", "nowhere.safetensors: no such weight file"),
            ("nowhere/model.pt", "nowhere/model.pt: no such file"),
            ("hf-hub:justaname", "expected hf-hub:ORG/NAME"),
            ("transformers:./nowhere", "./nowhere: no such folder"),
        ],
    )
    def test_one_clear_line(self, ref: str, message: str) -> None:
        with pytest.raises((ModelError, UnknownNameError), match=re.escape(message)) as caught:
            resolve(ref)
        assert "\n" not in str(caught.value)

    def test_missing_configuration(self, folder: Path) -> None:
        (folder / CONFIG).unlink()
        with pytest.raises(ModelError, match=r"open_clip_config.json is missing"):
            resolve(f"local-dir:{folder}")
        (folder / "config.json").write_text("{}")
        with pytest.raises(ModelError, match=re.escape(f"use transformers:{folder}")):
            resolve(f"local-dir:{folder}")
        with pytest.raises(ModelError, match="which architecture"):
            resolve(str(folder / WEIGHTS))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not valid JSON"),
            ("[]", "expected a JSON object"),
            ("{}", "'model_cfg' is missing"),
            ('{"model_cfg": {"embed_dim": 4, "vision_cfg": {}}}', "model_cfg.text_cfg is missing"),
            ('{"model_cfg": {"embed_dim": "4", "vision_cfg": {}, "text_cfg": {}}}', "model_cfg.embed_dim"),
        ],
    )
    def test_broken_configuration(self, folder: Path, text: str, message: str) -> None:
        (folder / CONFIG).write_text(text)
        with pytest.raises(ModelError, match=re.escape(message)) as caught:
            resolve(f"local-dir:{folder}")
        assert CONFIG in str(caught.value)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("mean", [0.5]), ("std", [0, 1, 1]), ("interpolation", "random"), ("resize_mode", "stretch"), ("mean", "x")],
    )
    def test_preprocessing_that_cannot_be_reproduced(self, folder: Path, field: str, value: object) -> None:
        _edit(folder, lambda config: config["preprocess_cfg"].update({field: value}))
        with pytest.raises(ModelError, match=f"preprocess_cfg.{field}"):
            resolve(f"local-dir:{folder}")

    def test_image_size_that_is_none(self, folder: Path) -> None:
        _edit(folder, lambda config: config["model_cfg"]["vision_cfg"].update(image_size=-3))
        with pytest.raises(ModelError, match="image_size must be a positive integer"):
            resolve(f"local-dir:{folder}")

    def test_architecture_that_open_clip_cannot_build(self, folder: Path) -> None:
        _edit(folder, lambda config: config["model_cfg"]["vision_cfg"].update(patch_size=0))
        with pytest.raises(ModelError, match=r"model_cfg cannot be built by open_clip .*zero"):
            resolve(f"local-dir:{folder}").load()
        _edit(folder, lambda config: config["model_cfg"]["vision_cfg"].update(depth=3))
        with pytest.raises(ModelError, match=r"model_cfg\.vision_cfg\.depth: unknown to open_clip"):
            resolve(f"local-dir:{folder}")

    def test_vocabulary_smaller_than_the_tokenizers(self, folder: Path) -> None:
        _edit(folder, lambda config: config["model_cfg"]["text_cfg"].update(vocab_size=100))
        with pytest.raises(ModelError, match="vocab_size 100 is smaller than the tokenizer's 49408"):
            resolve(f"local-dir:{folder}").load()

    def test_no_weights_and_several(self, folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "a.safetensors")
        assert find_weights(folder).name == "a.safetensors"
        (folder / "b.safetensors").touch()
        with pytest.raises(ModelError, match=r"several weight files \(a.safetensors, b.safetensors\)"):
            resolve(f"local-dir:{folder}")
        for name in "ab":
            (folder / f"{name}.safetensors").unlink()
        with pytest.raises(ModelError, match="no weights found"):
            resolve(f"local-dir:{folder}")


class TestBadCheckpoints:
    def test_tensors_that_do_not_match_are_named(self, folder: Path) -> None:
        def change(state: dict[str, Tensor]) -> None:
            del state["ln_final.weight"]
            state["extra"] = torch.zeros(2)
            state["visual.proj"] = torch.zeros(3, 4)

        _edit_weights(folder, change)
        message = (
            "does not match its architecture: missing ln_final.weight; unexpected extra; "
            "wrong shape visual.proj is (3, 4), not (48, 24)"
        )
        with pytest.raises(ModelError, match=re.escape(message)) as caught:
            resolve(f"local-dir:{folder}").load()
        assert WEIGHTS in str(caught.value)

    def test_many_mismatches_stay_one_line(self, folder: Path) -> None:
        _edit(folder, lambda config: config["model_cfg"]["vision_cfg"].update(layers=6))
        with pytest.raises(ModelError, match=r"missing visual\.\S+, visual\.\S+ and 34 more$"):
            resolve(f"local-dir:{folder}").load()

    def test_positions_are_not_silently_resized(self, folder: Path) -> None:
        _edit(folder, lambda config: config["model_cfg"]["vision_cfg"].update(image_size=64))
        with pytest.raises(ModelError, match=r"visual.positional_embedding is \(17, 48\), not \(65, 48\)"):
            resolve(f"local-dir:{folder}").load()

    def test_a_missing_logit_bias_is_not_made_up(self, tmp_path: Path) -> None:
        ref = write_checkpoint("SigLIP", tmp_path / "siglip")
        _edit_weights(tmp_path / "siglip", lambda state: state.pop("logit_bias") and None)
        with pytest.raises(ModelError, match="missing logit_bias"):
            resolve(ref).load()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_non_finite_weights_are_named(self, folder: Path, value: float) -> None:
        _edit_weights(folder, lambda state: state["visual.proj"].__setitem__((0, 0), value))
        with pytest.raises(NonFiniteError, match=r"tensor 'visual.proj' holds 1 values"):
            resolve(f"local-dir:{folder}").load()

    @pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1])
    def test_truncated_safetensors_are_seen_before_loading(self, folder: Path, kept: int) -> None:
        whole = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(whole[:kept])
        with pytest.raises(ModelError, match=f"{WEIGHTS}: (truncated|not a safetensors file)"):
            resolve(f"local-dir:{folder}")

    def test_a_header_that_is_not_json(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes((4).to_bytes(8, "little") + b"nope" + bytes(100))
        with pytest.raises(ModelError, match="broken header"):
            read_header(tmp_path / "x.safetensors")

    def test_a_pickle_that_would_run_code_is_refused(self, folder: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, tuple[str]]:
                return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

        (folder / WEIGHTS).unlink()
        (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ModelError, match=r"open_clip_pytorch_model.bin: a pickle that holds more than tensors"):
            resolve(f"local-dir:{folder}").load()
        torch.save({"model": Evil()}, folder / "open_clip_pytorch_model.bin")
        with pytest.raises(ModelError, match="a pickle that holds more than tensors"):
            resolve(f"local-dir:{folder}").load()
        assert not (tmp_path / "ran").exists()

    def test_a_whole_pickled_module_is_refused(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        torch.save(nn.Linear(2, 2), folder / "open_clip_pytorch_model.bin")
        with pytest.raises(ModelError, match=r"save its state_dict as .safetensors"):
            resolve(f"local-dir:{folder}").load()

    @pytest.mark.parametrize(
        ("content", "message"), [({"a": 1}, "entry 'a' is a int"), ([1], "no state dict"), ({}, "no state dict")]
    )
    def test_a_checkpoint_without_tensors(self, folder: Path, content: object, message: str) -> None:
        (folder / WEIGHTS).unlink()
        torch.save(content, folder / "open_clip_pytorch_model.bin")
        with pytest.raises(ModelError, match=message):
            resolve(f"local-dir:{folder}").load()

    def test_a_truncated_torch_checkpoint(self, folder: Path) -> None:
        torch.save(load_file(folder / WEIGHTS), folder / "open_clip_pytorch_model.bin")
        (folder / WEIGHTS).unlink()
        whole = (folder / "open_clip_pytorch_model.bin").read_bytes()
        (folder / "open_clip_pytorch_model.bin").write_bytes(whole[:5000])
        with pytest.raises(ModelError, match=r"open_clip_pytorch_model.bin: (cannot be read|a pickle)"):
            resolve(f"local-dir:{folder}").load()

    def test_an_unknown_format(self, folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "weights.npz")
        with pytest.raises(ModelError, match=r"weights.npz: unknown weight format; use .safetensors"):
            resolve(str(folder / "weights.npz")).load()


class TestHub:
    @pytest.fixture(autouse=True)
    def _no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def _cache(self, tmp_path: Path, repository: str) -> Path:
        """The folder of a cached snapshot, in the hub client's own layout."""
        root = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text("0" * 40)
        snapshot = root / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        return snapshot

    @pytest.mark.parametrize("ref", ["ViT-B-32/openai", "hf-hub:org/name", "transformers:org/name"])
    def test_unreachable_says_the_way_out_at_once(self, ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
        start = time.monotonic()
        with pytest.raises(ModelError, match=r"cannot be reached .*HF_HUB_OFFLINE=1.*--model local-dir:PATH") as caught:
            resolve(ref)
        assert time.monotonic() - start < 10
        assert "\n" not in str(caught.value)

    def test_offline_mode(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE=1 forbids the download"):
            resolve("ViT-B-32/openai")

    def test_without_download(self) -> None:
        with pytest.raises(ModelError, match=r"org/name: not in the local cache, and the network is not used"):
            resolve("hf-hub:org/name", download=False)

    def test_cached_models_need_no_network(self, tmp_path: Path) -> None:
        expected = resolve(write_checkpoint("ViT", tmp_path / "vit"))
        write_checkpoint("ViT", self._cache(tmp_path, "org/name"))
        found = resolve("hf-hub:org/name")
        assert (found.name, found.digest) == ("org.name", expected.digest)
        assert found.load().encode_text(["a"]).shape == (1, 24)

    def test_cached_pretrained_tag_with_its_own_preprocessing(self, tmp_path: Path) -> None:
        snapshot = self._cache(tmp_path, "timm/ViT-B-16-SigLIP")
        save_file({"x": torch.zeros(3)}, snapshot / WEIGHTS)
        with pytest.raises(ModelError, match=r"timm/ViT-B-16-SigLIP: tokenizer.json is not in the local cache"):
            resolve("ViT-B-16-SigLIP/webli", download=False)
        (snapshot / "tokenizer.json").write_text("{}")
        found = resolve("ViT-B-16-SigLIP/webli")
        assert (found.family, found.parameters, found.preprocess.resize) == ("SigLIP", 3, "squash")
        assert found.files == (snapshot / WEIGHTS, snapshot / "tokenizer.json")
        with pytest.raises(ModelError, match="no usable tokenizer"):
            found.load()

    def test_a_tag_trained_with_quick_gelu_gets_it(self, tmp_path: Path) -> None:
        snapshot = self._cache(tmp_path, "timm/vit_base_patch32_clip_224.openai")
        save_file({"x": torch.zeros(3)}, snapshot / WEIGHTS)
        assert resolve("ViT-B-32/openai").digest == resolve("ViT-B-32-quickgelu/openai").digest
