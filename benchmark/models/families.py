"""The family of an open_clip architecture, read from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TIMM_FAMILIES = (
    ("convnext", "ConvNeXt"),
    ("siglip", "SigLIP"),
    ("eva", "EVA"),
    ("vit_pe_", "PE"),
    ("vitamin", "ViTamin"),
    ("fastvit", "MobileCLIP"),
    ("mci", "MobileCLIP"),
    ("swin", "Swin"),
    ("vit", "ViT"),
)
SIGLIP2_VOCABULARY = 256000
"""Gemma's vocabulary, which SigLIP 2 uses; SigLIP has 32,000 or 250,000 tokens."""


def family_of(config: Mapping[str, Any]) -> str:
    """`model_cfg` of open_clip -> `ViT`, `ConvNeXt`, `ResNet`, `SigLIP`, `SigLIP2`, `CoCa`, `EVA`, ..."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "multimodal_cfg" in config:
        return "CoCa"
    trunk = vision.get("timm_model_name")
    if not trunk:
        return "ResNet" if isinstance(vision.get("layers"), list | tuple) else "ViT"
    family = next((family for part, family in _TIMM_FAMILIES if part in trunk), "timm")
    second = text.get("vocab_size") == SIGLIP2_VOCABULARY or "SigLIP2" in str(text.get("hf_tokenizer_name"))
    return "SigLIP2" if family == "SigLIP" and second else family
