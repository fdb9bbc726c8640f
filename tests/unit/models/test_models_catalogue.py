"""`reliquant list models`, and the named groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmark.models import list_models, resolve
from benchmark.models.pretrained import architectures
from benchmark.spec.groups import groups


def test_the_demo_and_open_clips_models_are_listed() -> None:
    from open_clip import list_pretrained

    models = {info.ref: info for info in list_models()}
    assert {f"{name}/{tag}" for name, tag in list_pretrained()} < set(models)
    assert models["ViT-B-32/openai"].family == "ViT"
    assert models["ViT-B-32/openai"].parameters == 151277313
    assert models["xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"].parameters is None
    assert models["demo"].cached
    assert models["demo"].parameters == resolve("demo").parameters


def test_the_paper_group_has_ten_models_that_exist() -> None:
    from open_clip import list_pretrained_tags_by_model

    specs = groups()["paper"]
    assert len({spec.ref for spec in specs}) == 10
    for spec in specs:
        name, _, tag = spec.ref.partition("/")
        if not spec.ref.startswith("transformers:"):
            assert name in architectures()
            assert tag in list_pretrained_tags_by_model(name)
    families = {info.family for info in list_models() if info.group == "paper"}
    assert families == {"ViT", "ConvNeXt", "SigLIP", "CoCa", "ALIGN"}


def test_cached_weights_are_seen_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert [info.ref for info in list_models() if info.cached] == ["demo"]
    root = tmp_path / "models--timm--vit_base_patch16_clip_224.openai"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    (root / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file({"x": torch.zeros(1)}, root / "snapshots" / ("0" * 40) / "open_clip_model.safetensors")
    assert [info.ref for info in list_models() if info.cached] == [
        "demo",
        "ViT-B-16/openai",
        "ViT-B-16-quickgelu/openai",
    ]
