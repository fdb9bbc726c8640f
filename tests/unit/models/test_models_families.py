"""Every family, with its true architecture and random weights, written to disk and loaded as a user would."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmark.errors import NonFiniteError, UnknownNameError
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.models.texts import Shortened, cut_texts, whole_tokens
from benchmark.spec import Tower
from tests.models_zoo import FAMILIES, write_checkpoint

TEXTS = ["a dog", "a photo of a red cat on a mat", "snow"]
TOWERS: tuple[Tower, ...] = ("vision", "text")
LAYERS = (nn.Linear, nn.Conv2d)
NOT_MULTIPLIED = ("positional_embedding", "pos_embed", "token_embedding", "query", "latent", "cls_token", "head_scale")
"""Arrays of a tower that take part in no matrix product: embeddings, positions, learned queries, a scale per head."""

Loader = Callable[[str], ClipModel]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def load(folder: Path) -> Loader:
    @cache
    def loaded(family: str) -> ClipModel:
        return resolve(write_checkpoint(family, folder / family)).load()

    return loaded


def _pixels(model: ClipModel, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 3, *model.preprocess.size), dtype=torch.uint8, generator=generator)


def _run(model: ClipModel, tower: Tower) -> Tensor:
    return model.encode_image(_pixels(model)) if tower == "vision" else model.encode_text(TEXTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_open_clip(family: str, folder: Path, load: Loader) -> None:
    model = load(family)
    original, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder / family}")
    original.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder / family}")
    steps = {type(step).__name__: step for step in transform.transforms}
    pixels = torch.stack([steps["Normalize"](image.float() / 255) for image in _pixels(model)])
    with torch.no_grad():
        image = original.encode_image(pixels, normalize=True)
        text = original.encode_text(tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(model.encode_image(_pixels(model)), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_text(TEXTS), text, atol=1e-5, rtol=0)
    assert model.logit_scale == pytest.approx(original.logit_scale.exp().item())
    assert model.logit_bias == (0 if original.logit_bias is None else original.logit_bias.item())
    assert model.preprocess.resize == original.visual.preprocess_cfg["resize_mode"]
    assert model.preprocess.size == open_clip.utils.to_2tuple(original.visual.image_size)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tower", TOWERS)
def test_every_layer_is_called_once_or_more(family: str, tower: Tower, load: Loader) -> None:
    model, called = load(family), set()
    layers = model.layers(tower)
    handles = [
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, layer in model.module.named_modules()
        if isinstance(layer, LAYERS)
    ]
    _run(model, tower)
    for handle in handles:
        handle.remove()
    assert called == set(layers)
    assert layers


@pytest.mark.parametrize("family", FAMILIES)
def test_no_matrix_hides_outside_of_layers(family: str, load: Loader) -> None:
    module = load(family).module
    inside = {f"{name}.weight" for name, child in module.named_modules() if isinstance(child, LAYERS)}
    hidden = [name for name, value in module.named_parameters() if value.dim() >= 2 and name not in inside]
    assert [name for name in hidden if not any(part in name for part in NOT_MULTIPLIED)] == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tower", TOWERS)
def test_replacing_any_layer_changes_the_features(family: str, tower: Tower, load: Loader) -> None:
    model = load(family)
    before = _run(model, tower)
    for name in model.layers(tower):
        changed = model.clone()
        parent, _, child = name.rpartition(".")
        setattr(changed.module.get_submodule(parent), child, _Opaque(model.module.get_submodule(name), roll=1))
        assert (_run(changed, tower) - before).abs().max() > 1e-5, f"{name} has no effect"


class _Opaque(nn.Module):
    """A layer as quantizers make them: no float `weight` to look at, only a forward pass."""

    def __init__(self, layer: nn.Module, roll: int = 0) -> None:
        super().__init__()
        self.hidden, self.roll = [layer], roll
        self.register_buffer("weight", torch.zeros(2, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.hidden[0](x)
        return output.roll(self.roll, 1 if isinstance(self.hidden[0], nn.Conv2d) else -1)  # channels change places


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_looks_at_the_weights_of_a_replaced_layer(family: str, load: Loader) -> None:
    model, changed = load(family), load(family).clone()
    for tower in TOWERS:
        for name, layer in changed.layers(tower).items():
            parent, _, child = name.rpartition(".")
            setattr(changed.module.get_submodule(parent), child, _Opaque(layer))
        torch.testing.assert_close(_run(changed, tower), _run(model, tower), atol=1e-6, rtol=0)
        assert not changed.layers(tower)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tower", TOWERS)
def test_blocks_run_in_the_order_of_their_names(family: str, tower: Tower, load: Loader) -> None:
    model, order = load(family), []
    handles = [
        model.module.get_submodule(name).register_forward_hook(lambda *_, name=name: order.append(name))
        for name in model.blocks[tower]
    ]
    _run(model, tower)
    for handle in handles:
        handle.remove()
    assert tuple(order) == model.blocks[tower]
    assert len(order) >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_token_mask_covers_what_the_features_depend_on(family: str, load: Loader) -> None:
    """Changing a token outside the mask changes nothing; changing one inside it does."""
    model = load(family)
    tokens = _whole_context(model)
    before = model.text_encoder(model.module, tokens)
    mask = torch.ones_like(tokens, dtype=torch.bool) if model.token_mask is None else model.token_mask(tokens)
    if mask.shape[1] > tokens.shape[1]:  # CoCa's appended class token
        mask = mask[:, 1:] if family == "CoCa" else mask
    padding = tokens == 0
    for position in range(1, tokens.shape[1]):
        changed = tokens.clone()
        changed[:, position] = torch.where(padding[:, position] & ~mask[:, position], 0, 1000)
        after = model.text_encoder(model.module, changed)
        for row in range(len(tokens)):
            if family == "CoCa" and padding[row, position]:
                continue  # a token put in place of padding is attended to: CoCa's mask follows the tokens
            same = torch.allclose(after[row], before[row], atol=1e-6)
            assert same == (not mask[row, position]), (row, position)


def _whole_context(model: ClipModel) -> Tensor:
    tokenizer: Any = model.tokenizer
    tokens: Tensor = (tokenizer.inner if isinstance(tokenizer, Shortened) else tokenizer)(TEXTS)
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_that_nothing_depends_on_are_not_run(family: str, load: Loader) -> None:
    """The same features as from the whole context, from fewer positions, whatever texts share the batch."""
    model = load(family)
    whole, tokens = _whole_context(model), model.tokenizer(TEXTS)
    if family in (
        "SigLIP",
        "SigLIP2",
        "CoCa",
    ):  # padding is attended to; the class token's position is the context's last
        assert torch.equal(tokens, whole)
        return
    assert tokens.shape[1] == 11 < whole.shape[1]
    assert torch.equal(tokens, whole[:, :11])
    expected = model.text_encoder(model.module, whole)
    torch.testing.assert_close(model.text_encoder(model.module, tokens), expected, atol=1e-6, rtol=1e-5)
    alone = torch.cat([model.encode_text([text]) for text in TEXTS])
    torch.testing.assert_close(alone, model.encode_text(TEXTS), atol=1e-6, rtol=0)


@pytest.mark.parametrize("words", [1, 14, 300])
def test_a_text_as_long_as_the_context_or_longer(words: int, load: Loader) -> None:
    model = load("ViT")
    length = min(words + 2, 16)
    assert model.tokenizer(["dog " * words]).shape == (1, length)
    assert model.encode_text(["dog " * words]).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_cut_where_its_last_word_does_not_count(family: str, load: Loader) -> None:
    model, words = (
        load(family),
        [
            "red",
            "cat",
            "dog",
            "sun",
            "sea",
            "sky",
            "car",
            "bus",
            "hat",
            "cup",
            "key",
            "map",
            "net",
            "oak",
            "pen",
            "pig",
            "ray",
            "rug",
            "tea",
            "toy",
        ],
    )
    texts = [" ".join(words[:count]) for count in range(len(words) + 1)]
    tokens = whole_tokens(model.tokenizer, texts)
    expected = [False] + [torch.equal(*pair) for pair in pairwise(tokens)]  # the same with and without the last word
    cut = cut_texts(model.tokenizer, texts)
    assert cut is not None
    assert cut.tolist() == expected
    assert any(expected)
    assert not all(expected)


def test_token_mask_of_a_causal_tower_ends_with_the_text(load: Loader) -> None:
    model = load("ViT")
    assert model.token_mask is not None
    tokens = model.tokenizer(["a dog", "a red cat"])
    assert model.token_mask(tokens).sum(1).tolist() == [4, 5]  # with the start and end tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_taps_come_from_the_same_forward_pass(family: str, load: Loader) -> None:
    model = load(family)
    pixels, calls = _pixels(model), []
    first = next(iter(model.layers("vision").values()))
    handle = first.register_forward_hook(lambda *_: calls.append(1))
    outputs = model.encode_image_with(pixels, list(model.taps))
    handle.remove()
    assert len(calls) == 1
    torch.testing.assert_close(outputs["image"], model.encode_image(pixels), atol=0, rtol=0)
    assert set(outputs) == {"image", *model.taps}
    for name, values in outputs.items():
        assert values.dtype == torch.float32
        assert len(values) == len(pixels)
        assert values.isfinite().all(), name
        assert values.std() > 1e-4, name
    assert [name for name in model.taps if name.startswith("block:")] == [f"block:{n}" for n in model.blocks["vision"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_penultimate_features_are_what_the_projection_takes(family: str, load: Loader) -> None:
    model = load(family)
    outputs = model.encode_image_with(_pixels(model), ["penultimate"])
    visual: Any = model.module.visual
    if hasattr(visual, "proj"):
        projected = visual.proj(outputs["penultimate"])
    elif hasattr(visual, "attnpool"):
        projected = visual.attnpool.c_proj(outputs["penultimate"])
    elif len(visual.head):
        projected = visual.head(outputs["penultimate"])
    else:
        projected = visual.trunk.head(outputs["penultimate"])  # EVA's own classifier; an Identity for SigLIP
    torch.testing.assert_close(nn.functional.normalize(projected, dim=-1), outputs["image"], atol=1e-6, rtol=0)


def test_block_tap_is_the_class_token_of_a_clip_vit(load: Loader) -> None:
    model = load("ViT")
    last = f"block:{model.blocks['vision'][-1]}"
    outputs = model.encode_image_with(_pixels(model), [last, "penultimate"])
    torch.testing.assert_close(model.module.visual.ln_post(outputs[last]), outputs["penultimate"])


def test_block_tap_of_a_convnext_is_the_mean_over_positions(load: Loader) -> None:
    model = load("ConvNeXt")
    name, seen = model.blocks["vision"][0], []
    handle = model.module.get_submodule(name).register_forward_hook(lambda _, __, output: seen.append(output))
    outputs = model.encode_image_with(_pixels(model), [f"block:{name}"])
    handle.remove()
    torch.testing.assert_close(outputs[f"block:{name}"], seen[0].flatten(2).mean(2))


def test_local_features_follow_the_released_definition(folder: Path, load: Loader) -> None:
    """GL-MCM: in the last block the patches keep their values; written out with the original module's bare weights."""
    model = load("ViT")
    original: Any = open_clip.create_model(f"local-dir:{folder / 'ViT'}").eval().visual
    with torch.no_grad():
        x = original._embeds(model.normalise(_pixels(model)))
        for block in original.transformer.resblocks[:-1]:
            x = block(x)
        last, width = original.transformer.resblocks[-1], x.shape[-1]
        weight, bias = last.attn.in_proj_weight[2 * width :], last.attn.in_proj_bias[2 * width :]
        v = (last.ln_1(x) @ weight.T + bias) @ last.attn.out_proj.weight.T + last.attn.out_proj.bias + x
        v = v + last.mlp(last.ln_2(v))
        expected = original.ln_post(v)[:, 1:] @ original.proj
    expected = expected / expected.norm(dim=-1, keepdim=True)
    found = model.encode_image_with(_pixels(model), ["local"])["local"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.shape == (3, 16, 24)


def test_local_features_of_a_resnet(folder: Path, load: Loader) -> None:
    model = load("ResNet")
    original: Any = open_clip.create_model(f"local-dir:{folder / 'ResNet'}").eval().visual
    with torch.no_grad():
        x = original.stem(model.normalise(_pixels(model)))
        for layer in (original.layer1, original.layer2, original.layer3, original.layer4):
            x = layer(x)
        pool = original.attnpool
        expected = pool.c_proj(pool.v_proj(x.flatten(2).mT))
    expected = expected / expected.norm(dim=-1, keepdim=True)
    found = model.encode_image_with(_pixels(model), ["local"])["local"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_unknown_tap(load: Loader) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'penultimate'"):
        load("ViT").encode_image_with(_pixels(load("ViT")), ["penultimat"])


def test_quick_gelu_is_built_where_the_configuration_says_so(load: Loader, tmp_path: Path) -> None:
    ref = write_checkpoint("ViT", tmp_path / "vit")
    config = json.loads((tmp_path / "vit" / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (tmp_path / "vit" / "open_clip_config.json").write_text(json.dumps(config))
    model, reference = resolve(ref).load(), open_clip.create_model(ref).eval()
    pixels = _pixels(model)
    with torch.no_grad():
        expected = reference.encode_image(model.normalise(pixels), normalize=True)
    torch.testing.assert_close(model.encode_image(pixels), expected, atol=1e-5, rtol=0)
    assert (model.encode_image(pixels) - load("ViT").encode_image(pixels)).abs().max() > 1e-4


def test_clone_is_independent(load: Loader) -> None:
    model = load("ViT")
    before, copied = model.encode_image(_pixels(model)), model.clone()
    with torch.no_grad():
        for value in copied.module.parameters():
            value.zero_()
    torch.testing.assert_close(model.encode_image(_pixels(model)), before, atol=0, rtol=0)


def test_coca_drops_its_caption_decoder(load: Loader) -> None:
    assert not any(name.startswith("text_decoder") for name, _ in load("CoCa").module.named_modules())


def test_a_coca_whose_unused_caption_decoder_is_broken_is_used(folder: Path, load: Loader, tmp_path: Path) -> None:
    expected, name = load("CoCa").encode_text(TEXTS), "open_clip_model.safetensors"
    shutil.copytree(folder / "CoCa", tmp_path / "CoCa")
    state = load_file(tmp_path / "CoCa" / name)
    for key in [key for key in state if key.startswith("text_decoder.")]:
        state[key].fill_(float("nan"))
    save_file(state, tmp_path / "CoCa" / name)
    found = resolve(f"local-dir:{tmp_path / 'CoCa'}").load()
    torch.testing.assert_close(found.encode_text(TEXTS), expected, atol=0, rtol=0)
    state["text.token_embedding.weight"][3] = float("nan")
    save_file(state, tmp_path / "CoCa" / name)
    with pytest.raises(NonFiniteError, match=r"'text\.token_embedding\.weight' holds"):
        resolve(f"local-dir:{tmp_path / 'CoCa'}").load()


def test_unrolled_coca_captions_as_before(folder: Path, load: Loader) -> None:
    """The whole CoCa, decoder included, gives the same caption logits after the rewriting."""
    from benchmark.models.attention import unroll

    load("CoCa")
    whole: Any = open_clip.create_model(f"local-dir:{folder / 'CoCa'}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder / 'CoCa'}")(TEXTS)
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        before = whole(pixels, tokens)["logits"]
        after = unroll(whole)(pixels, tokens)["logits"]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_logit_scale_is_the_models_own(folder: Path, load: Loader) -> None:
    assert load("SigLIP").logit_bias == -10
    assert load("ViT").logit_scale == pytest.approx(1 / 0.07)
    assert math.isfinite(load("CoCa").logit_scale)
