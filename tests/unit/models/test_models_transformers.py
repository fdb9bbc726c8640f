"""Models through transformers: true classes, small random configurations, saved to disk and loaded back."""

from __future__ import annotations

import json
import logging
import re
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmark.errors import ModelError, NonFiniteError
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.models.preprocess import OPENAI_MEAN, OPENAI_STD, from_transformers
from benchmark.models.texts import Shortened, cut_texts, whole_tokens
from benchmark.spec import Tower
from tests.models_zoo import TEXT, VIT

with warnings.catch_warnings():  # its optional imports warn about themselves while they are byte-compiled
    warnings.simplefilter("ignore")
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    transformers: Any = pytest.importorskip("transformers")
    from transformers import AlignModel, CLIPModel, SiglipModel

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "dog", "red", "cat"]
TEXTS = ["a dog", "a photo of a red cat", "dog"]
LAYERS = (nn.Linear, nn.Conv2d)
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
VISION = SIZES | {"image_size": 32, "patch_size": 8, "projection_dim": 24}
EFFICIENTNET = {
    "image_size": 40,
    "in_channels": [32, 16],
    "out_channels": [16, 24],
    "kernel_sizes": [3, 5],
    "strides": [1, 2],
    "expand_ratios": [1, 4],
    "num_block_repeats": [1, 2],
    "depthwise_padding": [],
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
}


def _bert_tokenizer(folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.model_max_length = 12
    return tokenizer


def _align() -> Any:
    text = SIZES | {"vocab_size": len(WORDS), "max_position_embeddings": 16}
    config = transformers.AlignConfig(text_config=text, vision_config=EFFICIENTNET, projection_dim=24)
    config.temperature_init_value = 0.05
    return AlignModel(config), transformers.EfficientNetImageProcessor(
        size={"height": 48, "width": 48},
        crop_size={"height": 40, "width": 40},
        do_center_crop=True,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        do_normalize=False,
        include_top=False,
        resample=2,
    )


def _clip() -> Any:
    text = SIZES | {"vocab_size": len(WORDS), "max_position_embeddings": 12, "projection_dim": 24, "eos_token_id": 3}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return CLIPModel(config), transformers.CLIPImageProcessor(**size)


def _siglip() -> Any:
    text = SIZES | {"vocab_size": len(WORDS), "max_position_embeddings": 12}
    vision = {key: value for key, value in VISION.items() if key != "projection_dim"}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    return SiglipModel(config), transformers.SiglipImageProcessor(size={"height": 32, "width": 32})


BUILDERS: dict[str, Callable[[], Any]] = {"ALIGN": _align, "ViT": _clip, "SigLIP": _siglip}
Loader = Callable[[str], tuple[ClipModel, Any, Path]]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    @cache
    def loaded(family: str) -> tuple[ClipModel, Any, Path]:
        folder = tmp_path_factory.mktemp("transformers") / family
        torch.manual_seed(0)
        module, processor = BUILDERS[family]()
        with torch.no_grad():
            for layer in module.modules():
                if isinstance(layer, LAYERS):
                    layer.weight.normal_(std=layer.weight[0].numel() ** -0.5)
        module.eval().save_pretrained(folder)
        processor.save_pretrained(folder)
        _bert_tokenizer(folder).save_pretrained(folder)
        return resolve(f"transformers:{folder}").load(), module, folder

    return loaded


def _pixels(model: ClipModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, *model.preprocess.size), dtype=torch.uint8, generator=generator)


def _run(model: ClipModel, tower: Tower) -> Tensor:
    return model.encode_image(_pixels(model)) if tower == "vision" else model.encode_text(TEXTS)


@pytest.mark.parametrize("family", BUILDERS)
def test_equals_the_librarys_own_forward_pass(family: str, load: Loader) -> None:
    model, original, folder = load(family)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding="max_length", max_length=12, return_tensors="pt")
    if family == "SigLIP":  # trained attending to its padding: its own tokenizer gives no mask
        inputs = {"input_ids": inputs["input_ids"]}
    with torch.no_grad():
        output = original(pixel_values=model.normalise(_pixels(model)), **inputs)
    image, text = model.encode_image(_pixels(model)), model.encode_text(TEXTS)
    torch.testing.assert_close(image, output.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, output.text_embeds, atol=1e-5, rtol=0)
    logits = model.logit_scale * image @ text.T + model.logit_bias
    torch.testing.assert_close(logits, output.logits_per_image, atol=1e-4, rtol=0)
    assert model.family == family


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_every_layer_is_called_and_shows(family: str, tower: Tower, load: Loader) -> None:
    model, called = load(family)[0], set()
    handles = [
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, layer in model.module.named_modules()
        if isinstance(layer, LAYERS)
    ]
    before = _run(model, tower)
    for handle in handles:
        handle.remove()
    assert called == set(model.layers(tower))
    for name in called:
        changed = model.clone()
        with torch.no_grad():
            changed.layers(tower)[name].weight.copy_(model.layers(tower)[name].weight.flip(0))  # type: ignore[operator]
        assert (_run(changed, tower) - before).abs().max() > 1e-6, f"{name} has no effect"


@pytest.mark.parametrize("family", BUILDERS)
def test_taps_and_blocks(family: str, load: Loader) -> None:
    model = load(family)[0]
    outputs = model.encode_image_with(_pixels(model), list(model.taps))
    assert all(values.dim() == 2 and values.isfinite().all() for values in outputs.values())
    assert len(model.blocks["vision"]) == (3 if family == "ALIGN" else 2)
    assert len(model.blocks["text"]) == 2
    if family == "ViT":
        projected: Tensor = model.module.visual_projection(outputs["penultimate"])  # type: ignore[operator]
    else:  # neither SigLIP nor ALIGN projects its image features
        projected = outputs["penultimate"]
    torch.testing.assert_close(nn.functional.normalize(projected, dim=-1), outputs["image"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["ALIGN", "ViT"])
def test_token_mask_covers_what_the_features_depend_on(family: str, load: Loader) -> None:
    model = load(family)[0]
    assert model.token_mask is not None
    assert isinstance(model.tokenizer, Shortened)
    tokens = model.tokenizer.inner(TEXTS)
    mask = model.token_mask(tokens)
    assert mask.sum(1).tolist() == [4, 8, 3]
    assert tokens.shape[1] == 12
    before = model.text_encoder(model.module, tokens)
    if family == "ViT":  # causal: what stands behind the end cannot matter
        after = model.text_encoder(model.module, torch.where(mask, tokens, 5))
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
    assert torch.equal(model.tokenizer(TEXTS), tokens[:, :8])
    shorter = model.text_encoder(model.module, model.tokenizer(TEXTS))
    torch.testing.assert_close(shorter, before, atol=1e-6, rtol=0)


def test_preprocessing_of_align() -> None:
    """The processor's rescaling by 1 / 127.5 and offset are one mean and one std; resized larger, then cropped."""
    processor = _align()[1]
    found = from_transformers(processor.to_dict(), "here")
    assert (found.size, found.scaled, found.resize, found.interpolation) == ((40, 40), (48, 48), "squash", "bilinear")
    pixels = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    expected = processor(pixels, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (found.mean, found.std))
    torch.testing.assert_close((pixels / 255 - mean) / std, expected, atol=1e-5, rtol=0)


def test_preprocessing_of_clip_and_siglip() -> None:
    clip = from_transformers(_clip()[1].to_dict(), "here")
    assert (clip.size, clip.scaled, clip.resize) == ((32, 32), None, "shortest")
    assert clip.mean == pytest.approx(OPENAI_MEAN)
    assert clip.std == pytest.approx(OPENAI_STD)
    siglip = from_transformers(_siglip()[1].to_dict(), "here")
    assert (siglip.size, siglip.resize, siglip.interpolation) == ((32, 32), "squash", "bicubic")
    assert siglip.mean == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": 0}, "resample must be 2"),
        ({"do_resize": False}, "do_resize"),
        ({"include_top": True}, "include_top"),
        ({"size": {"longest_edge": 3}}, "size must be a positive integer"),
        ({"do_center_crop": False, "size": {"shortest_edge": 32}}, "needs do_center_crop"),
        ({"image_std": [0, 1, 1]}, "must be positive"),
        ({"image_mean": None}, "image_mean must be three numbers"),
    ],
)
def test_preprocessing_that_cannot_be_reproduced(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_transformers(_clip()[1].to_dict() | change, "here")


class TestBadFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path, load: Loader) -> Path:
        for path in load("ViT")[2].iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("config.json", "config.json: no such file"),
            ("model.safetensors", "model.safetensors is missing"),
            ("preprocessor_config.json", "preprocessor_config.json is missing"),
        ],
    )
    def test_a_missing_file_is_named_before_loading(self, folder: Path, name: str, message: str) -> None:
        (folder / name).unlink()
        with pytest.raises(ModelError, match=re.escape(message)):
            resolve(f"transformers:{folder}")

    def test_a_missing_shard(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match=r"b\.safetensors: no such file"):
            resolve(f"transformers:{folder}")

    def test_a_truncated_file(self, folder: Path) -> None:
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-8])
        with pytest.raises(ModelError, match=r"model\.safetensors: truncated"):
            resolve(f"transformers:{folder}")

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("visual_projection.weight", None, "missing visual_projection.weight"),
            ("text_projection.weight", torch.zeros(24, 5), "wrong shape text_projection.weight"),
        ],
    )
    def test_weights_that_do_not_match(self, folder: Path, key: str, value: Tensor | None, message: str) -> None:
        state = load_file(folder / "model.safetensors")
        del state[key]
        save_file(state | ({} if value is None else {key: value}), folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=re.escape(message)) as caught:
            resolve(f"transformers:{folder}").load()
        assert "\n" not in str(caught.value)

    def test_non_finite_weights(self, folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        state["visual_projection.weight"][0, 0] = float("nan")
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(NonFiniteError, match=r"tensor 'visual_projection\.weight'"):
            resolve(f"transformers:{folder}").load()

    def test_what_align_does_not_use_may_be_broken(self, tmp_path: Path, load: Loader) -> None:
        shutil.copytree(load("ALIGN")[2], tmp_path / "align")
        weights = tmp_path / "align" / "model.safetensors"
        state = load_file(weights)
        state["text_model.pooler.dense.weight"].fill_(float("nan"))
        save_file(state, weights, {"format": "pt"})
        found = resolve(f"transformers:{tmp_path / 'align'}").load()
        torch.testing.assert_close(found.encode_text(TEXTS), load("ALIGN")[0].encode_text(TEXTS), atol=0, rtol=0)

    def test_no_tokenizer(self, folder: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            (folder / name).unlink()
        with pytest.raises(ModelError, match="the tokenizer is missing"):
            resolve(f"transformers:{folder}")

    def test_not_a_dual_encoder(self, folder: Path) -> None:
        config = transformers.BertConfig(**SIZES, vocab_size=len(WORDS))
        transformers.BertModel(config).save_pretrained(folder)
        with pytest.raises(ModelError, match=r"BertModel is no dual encoder .*no get_image_features"):
            resolve(f"transformers:{folder}").load()


class TestInsideOpenClip:
    """open_clip models whose text tower or tokenizer comes from transformers, in one folder."""

    def _write(self, folder: Path, text: dict[str, Any]) -> str:
        from open_clip import CustomTextCLIP

        _bert_tokenizer(folder).save_pretrained(folder)
        config = {"embed_dim": 24, "custom_text": True, "vision_cfg": VIT, "text_cfg": text}
        built = {key: value for key, value in config.items() if key != "custom_text"}
        name = text.get("hf_model_name")
        built["text_cfg"] = text | ({"hf_model_name": str(folder / name), "hf_model_pretrained": False} if name else {})
        module = CustomTextCLIP(**built)
        save_file(module.state_dict(), folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        return f"local-dir:{folder}"

    def test_a_text_tower_from_a_subfolder(self, tmp_path: Path) -> None:
        config = transformers.RobertaConfig(**SIZES, vocab_size=len(WORDS), max_position_embeddings=16, pad_token_id=0)
        config.save_pretrained(tmp_path / "roberta")
        text = {"hf_model_name": "roberta", "hf_tokenizer_name": "roberta", "context_length": 10}
        ref = self._write(tmp_path, text | {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"})
        model = resolve(ref).load()
        tokens = model.tokenizer(TEXTS)
        assert model.encode_text(TEXTS).shape == (3, 24)
        assert model.token_mask is not None
        assert model.token_mask(tokens).sum(1).tolist() == [4, 8, 3]
        assert model.blocks["text"] == ("text.transformer.encoder.layer.0", "text.transformer.encoder.layer.1")
        called = set()
        for name, layer in model.layers("text").items():
            layer.register_forward_hook(lambda *_, name=name: called.add(name))
        model.encode_text(TEXTS)
        assert called == set(model.layers("text"))

    @pytest.mark.parametrize(
        ("kind", "pooler"),
        [
            ("roberta", "cls_pooler"),
            ("roberta", "mean_pooler"),
            ("bert", "cls_last_hidden_state_pooler"),
            ("mt5", None),
        ],
    )
    def test_a_text_tower_is_what_open_clip_makes_of_it(self, tmp_path: Path, kind: str, pooler: str | None) -> None:
        from open_clip import CustomTextCLIP

        small = {"d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 2, "d_kv": 16} if kind == "mt5" else SIZES
        common = {"vocab_size": len(WORDS), "pad_token_id": 0, "max_position_embeddings": 16}
        transformers.AutoConfig.for_model(kind, **small, **common).save_pretrained(tmp_path / "tower")
        text = {"hf_model_name": "tower", "hf_tokenizer_name": "x", "context_length": 10, "hf_proj_type": "mlp"}
        text |= {"hf_pooler_type": pooler or "mean_pooler"}
        model = resolve(self._write(tmp_path, text)).load()
        own = text | {"hf_model_name": str(tmp_path / "tower"), "hf_model_pretrained": False}
        expected = CustomTextCLIP(embed_dim=24, vision_cfg=VIT, text_cfg=own).eval()
        expected.load_state_dict(load_file(tmp_path / "open_clip_model.safetensors"))
        tokens = model.tokenizer(TEXTS)
        with torch.no_grad():
            wanted = expected.encode_text(torch.nn.functional.pad(tokens, (0, 10 - tokens.shape[1])), normalize=True)
        torch.testing.assert_close(model.encode_text(TEXTS), wanted, rtol=1e-4, atol=1e-5)

    def test_the_tokenizer_counts_in_the_digest_and_must_be_there(self, tmp_path: Path) -> None:
        text = TEXT | {"vocab_size": len(WORDS), "hf_tokenizer_name": "org/siglip", "no_causal_mask": True}
        ref = self._write(tmp_path, text | {"pool_type": "last"})
        before = resolve(ref).digest
        assert resolve(ref).load().tokenizer(["a dog"]).tolist()[0][:4] == [2, 5, 8, 3]
        (tmp_path / "tokenizer_config.json").write_text("{}")
        assert resolve(ref).digest != before
        for path in resolve(ref).files[1:]:
            path.unlink()
        with pytest.raises(ModelError, match=r"the tokenizer is missing; put tokenizer\.json"):
            resolve(ref)

    def test_without_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        ref = self._write(tmp_path, TEXT | {"vocab_size": len(WORDS), "hf_tokenizer_name": "x", "pool_type": "last"})
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else found(name))
        with pytest.raises(ModelError, match=r"pip install 'reliquant\[transformers\]'"):
            resolve(ref)


@pytest.mark.parametrize("family", BUILDERS)
def test_a_text_is_cut_where_its_last_word_does_not_count(family: str, load: Loader) -> None:
    model = load(family)[0]
    words = [word for word in WORDS if word.isalpha()] * 3
    texts = [" ".join(words[:count]) for count in range(1, 16)]
    tokens = whole_tokens(model.tokenizer, texts)
    cut = cut_texts(model.tokenizer, texts)
    assert cut is not None
    assert cut.tolist() == [False] + [torch.equal(*pair) for pair in pairwise(tokens)]
    assert cut.tolist() == [len(text.split()) + 2 > 12 for text in texts]  # with [CLS] and [SEP]
