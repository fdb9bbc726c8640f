"""open_clip's own architectures at full size, on the meta device: shapes and calls without weights or arithmetic."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from torch import Tensor, nn

from benchmark.models.attention import unroll
from benchmark.models.catalogue import PARAMETERS
from benchmark.models.open_clip import CLIP_TEXT
from benchmark.models.pretrained import architectures
from benchmark.models.structure import block_names
from benchmark.models.taps import open_clip_taps
from benchmark.spec.yaml_file import load_yaml

LAYERS = (nn.Linear, nn.Conv2d)
NOT_MULTIPLIED = ("positional_embedding", "pos_embed", "token_embedding", "query", "latent", "cls_token", "gamma")
NOT_MULTIPLIED += ("relative_position_bias_table",)
REPRESENTATIVE = (
    *("ViT-B-32", "RN50", "convnext_base_w", "ViT-B-16-SigLIP", "coca_ViT-B-32", "EVA02-B-16", "MobileCLIP-S1"),
    *("ViTamin-S", "PE-Core-T-16-384", "ViT-L-14-CLIPA", "swin_base_patch4_window7_224"),
)


@cache
def _config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(architectures()[name].read_text())
    return config


def _own_text(name: str) -> bool:
    return not _config(name)["text_cfg"].get("hf_model_name")


def _build(name: str) -> Any:
    config = json.loads(json.dumps(_config(name)))
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False
    custom = config.pop("custom_text", False)
    kind = CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP
    with torch.device("meta"):
        return kind(**config).eval()


def _run(name: str, module: Any) -> None:
    size = _config(name)["vision_cfg"].get("image_size", 224)
    shape = (size, size) if isinstance(size, int) else size
    length = _config(name)["text_cfg"].get("context_length", 77)
    with torch.no_grad():
        module.encode_image(torch.zeros(2, 3, *shape, device="meta"), normalize=False)
        module.encode_text(torch.zeros(2, length, dtype=torch.long, device="meta"), normalize=False)


def _parametrize() -> list[Any]:
    names = [name for name in architectures() if _own_text(name)]
    return [pytest.param(name, marks=[] if name in REPRESENTATIVE else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("name", _parametrize())
def test_full_size_architecture(name: str) -> None:
    module = _build(name)
    counted = sum(value.numel() for value in module.state_dict().values())
    assert load_yaml(PARAMETERS).get(name, counted) == counted  # the catalogue lists those with pretrained weights
    if hasattr(module, "text_decoder"):
        del module.text_decoder
    unroll(module)
    blocks = block_names(module, ["visual"])
    taps, shapes, called = open_clip_taps(module, blocks), dict[str, Tensor](), set[str]()
    layers = {key for key, layer in module.named_modules() if isinstance(layer, LAYERS)}
    for key in layers:
        module.get_submodule(key).register_forward_hook(lambda *_, key=key: called.add(key))
    for key, tap in taps.items():

        def watch(_: nn.Module, args: Any, output: Any, key: str = key, tap: Any = tap) -> None:
            shapes[key] = tap.read(module, args[0] if tap.side == "input" else output).shape

        module.get_submodule(tap.module).register_forward_hook(watch)
    _run(name, module)
    assert called == layers
    held = [key for key, value in module.named_parameters() if value.dim() >= 2]
    loose = [key for key in held if key.removesuffix(".weight") not in layers]
    assert [key for key in loose if not any(part in key for part in NOT_MULTIPLIED)] == []
    assert len(blocks) >= 4
    assert len(block_names(module, ["text"] if hasattr(module, "text") else CLIP_TEXT)) >= 4
    assert set(shapes) == set(taps)
    assert {"penultimate", *(f"block:{block}" for block in blocks)} <= set(taps)
    assert all(len(shape) == (3 if key == "local" else 2) for key, shape in shapes.items())
