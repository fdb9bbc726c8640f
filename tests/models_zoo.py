"""Small random-weight checkpoints of every open_clip family, written as a user would have them (local-dir layout).

The classes are open_clip's and timm's own; only widths and depths are small. `write_checkpoint(family, folder)`
returns the model reference.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SIGLIP_TEXT = TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
COCA_TEXT = TEXT | {"width": 24, "embed_cls": True, "output_tokens": True}
COCA_POOL = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 7}
VIT: dict[str, Any] = {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8}


def _timm(name: str, pool: str, projection: str | None, size: int) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": projection, "image_size": size}


CONFIGS: dict[str, dict[str, Any]] = {
    "ViT": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "ResNet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "head_width": 16},
        "text_cfg": TEXT,
    },
    "ConvNeXt": {"embed_dim": 24, "vision_cfg": _timm("convnext_test_clip", "", "linear", 64), "text_cfg": TEXT},
    "SigLIP": {
        "embed_dim": 48,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": _timm("vit_test_siglip", "map", "none", 32),
        "text_cfg": SIGLIP_TEXT,
    },
    "SigLIP2": {
        "embed_dim": 48,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": _timm("vit_test_siglip", "map", "none", 32),
        "text_cfg": SIGLIP_TEXT | {"vocab_size": 256000, "width": 16, "final_ln_after_pool": True},
    },
    "CoCa": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": VIT | COCA_POOL | {"output_tokens": True},
        "text_cfg": COCA_TEXT,
        "multimodal_cfg": {"context_length": 16, "width": 24, "heads": 2, "layers": 2},
    },
    "EVA": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": _timm("eva_test_clip", "token", None, 32),
        "text_cfg": TEXT,
    },
    "Custom": {  # open_clip's own Attention class, with a bare in_proj_weight
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": VIT | {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True},
        "text_cfg": TEXT | {"block_type": "custom", "scale_fc": True, "proj_bias": True},
    },
}
FAMILIES: tuple[str, ...] = tuple(CONFIGS)
PREPROCESS: dict[str, dict[str, Any]] = {
    "SigLIP": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    "SigLIP2": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
}


def _register() -> None:
    """Small sizes of timm's own ConvNeXt, SigLIP ViT and EVA-02 classes."""
    from timm.models import ConvNeXt, Eva, VisionTransformer, is_model, register_model

    if is_model("vit_test_siglip"):
        return

    def convnext_test_clip(pretrained: bool = False, **options: Any) -> nn.Module:
        return _with_config(ConvNeXt(depths=(1, 1, 2, 1), dims=(16, 24, 32, 40), **_own(options)), pool_size=(2, 2))

    def vit_test_siglip(pretrained: bool = False, **options: Any) -> nn.Module:
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
        return _with_config(VisionTransformer(**sizes, class_token=False, **_own(options)), pool_size=None)

    def eva_test_clip(pretrained: bool = False, **options: Any) -> nn.Module:
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0}
        rope = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4), "swiglu_mlp": True, "scale_mlp": True}
        return _with_config(Eva(**sizes, **rope, scale_attn_inner=True, **_own(options)), pool_size=None)

    for factory in (convnext_test_clip, vit_test_siglip, eva_test_clip):
        factory.__module__ = "timm.models.vision_transformer"
        register_model(factory)


def _own(options: dict[str, Any]) -> dict[str, Any]:
    """The options that timm's factory hands to the model's own class."""
    return {key: value for key, value in options.items() if not key.startswith(("pretrained", "cache"))}


def _with_config(model: nn.Module, pool_size: tuple[int, int] | None) -> nn.Module:
    model.default_cfg = {"pool_size": pool_size}  # type: ignore[assignment]
    return model


def build(family: str, seed: int = 0) -> nn.Module:
    """The family's open_clip module with random weights that are not tiny anywhere (biases and gains included)."""
    from open_clip import CLIP, CoCa, CustomTextCLIP

    _register()
    config = copy.deepcopy(CONFIGS[family])
    custom = config.pop("custom_text", False)
    torch.manual_seed(seed)
    kind = CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP
    module: nn.Module = kind(**config)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.dim() < 2 and name not in ("logit_scale", "logit_bias"):
                value.add_(0.1 * torch.randn_like(value))
            elif name == "text_decoder.text_projection" or not value.any():  # open_clip leaves the first unset
                value.normal_(std=0.02)
        for layer in module.modules():  # timm starts so small that some layers would hardly show in the features
            if isinstance(layer, nn.Linear | nn.Conv2d):
                spread = layer.weight[0].numel() ** -0.5
                if layer.weight.std() < spread / 2:
                    layer.weight.normal_(std=spread)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return module.eval()


def write_checkpoint(family: str, folder: Path, seed: int = 0) -> str:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` into `folder`; returns `local-dir:FOLDER`."""
    folder.mkdir(parents=True, exist_ok=True)
    module = build(family, seed)
    state = {name: value.contiguous().clone() for name, value in module.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": CONFIGS[family], "preprocess_cfg": PREPROCESS.get(family, {})}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    return f"local-dir:{folder}"
