"""Checkpoints, images and suites of the benchmarks, made once below build/performance and kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from tests.layouts import Sample, encoded, picture, write_shards
from tests.performance.setting import ROOT, Setting

QUANTIZATIONS = (
    "fp32",
    "rtn-w8a8-channel-token-vision",
    "rtn-w8a8-channel-token-vision+text",
    "rtn-w6a8-channel-token-vision",
    "rtn-w6a8-channel-token-vision+text",
    "rtn-w4a8-channel-token-vision",
    "rtn-w4a8-channel-token-vision+text",
    "rtn-w4-g64-vision",
)
"""Eight configurations with five different image towers, as a grid over bits and scopes has them."""

SHARES = {"test": 1.0, "other": 0.4, "shifted": 0.4, "common": 0.2, "counter": 0.2}
"""Size of each data set in units of the test set."""

CORRUPTIONS = ("contrast", "defocus_blur", "gaussian_noise", "jpeg_compression", "pixelate")
CLASSES, TEMPLATES, SHARDS = 16, 16, 4
PROMPTS_PER_IMAGE = 1.6
"""Of the test set, where prompts matter: ImageNet has 1,000 classes x 80 templates for 50,000 images."""

SMALL_VIT = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 32, "head_width": 32}
SMALL_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}


@dataclass(frozen=True)
class Material:
    """A folder with a checkpoint `model` and the webdatasets, and the suite on them."""

    folder: Path
    suite: Path
    images: int


def images_of(test: int) -> int:
    """Images that one configuration embeds."""
    return sum(count(test, name) for name in SHARES) + len(CORRUPTIONS) * count(test, "corrupted")


def count(test: int, name: str) -> int:
    """Images of one data set; a fifth of the test set is corrupted in five ways."""
    return max(8, round(test * SHARES.get(name, 0.2)))


def make(setting: Setting, name: str, test: int, size: int, checkpoint: str, templates: int = TEMPLATES) -> Material:
    """Write what is not there yet.

    Args:
        test: images of the test set. size: of their shorter side in pixels. checkpoint: `vit` or `demo`.
        templates: prompts for each class.
    """
    folder = setting.folder / "material" / f"{name}-{test}"
    if not (folder / "suite.yaml").is_file():
        setting.say(f"writing {images_of(test)} images and a checkpoint into {folder.relative_to(ROOT)}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number, part in enumerate(SHARES):
            write_set(folder / part, count(test, part), size, 100_000 * number, templates)
        write_model(folder / "model", checkpoint, setting.sizes.vit)
        (folder / "suite.yaml").write_text(yaml.safe_dump(suite(folder, name, test)))
    return Material(folder, folder / "suite.yaml", images_of(test))


def write_set(folder: Path, number: int, size: int, seed: int, templates: int) -> None:
    """A webdataset of JPEG files, a quarter larger than the model's input, in CLIP_benchmark's layout."""
    rng = np.random.default_rng(seed)
    base = [np.asarray(picture(seed + i, (size * 5 // 4, size))) for i in range(min(number, 40))]
    samples = []
    for index in range(number):
        shift = rng.integers(-40, 40, 3)
        pixels = np.clip(np.roll(base[index % len(base)], index, axis=1) + shift, 0, 255).astype(np.uint8)
        from PIL import Image

        data = encoded(Image.fromarray(pixels), "jpg")
        samples.append(Sample(f"s{index:07d}", "jpg", data, index % CLASSES))
    names = [f"thing number {i}" for i in range(CLASSES)]
    write_shards(
        folder,
        [samples[k::SHARDS] for k in range(SHARDS)],
        names,
        [f"a photo of a {{c}}, seen in manner {i}." for i in range(templates)],
    )


def write_model(folder: Path, checkpoint: str, real_size: bool) -> None:
    """The demo's checkpoint, or open_clip's ViT-B/32 with random weights; local-dir layout."""
    demo = ROOT / "benchmark" / "demo" / "checkpoint"
    if checkpoint == "demo":
        shutil.copytree(demo, folder)
        return
    import open_clip

    config: dict[str, Any] = dict(open_clip.get_model_config("ViT-B-32") or {})
    if not real_size:
        config = {"embed_dim": 32, "vision_cfg": SMALL_VIT, "text_cfg": SMALL_TEXT}
    torch.manual_seed(0)
    module = open_clip.CLIP(**config)
    folder.mkdir(parents=True)
    save_file(
        {k: v.contiguous().clone() for k, v in module.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


def suite(folder: Path, name: str, test: int) -> dict[str, Any]:
    """Six tasks on the five sets and the corrupted one."""
    data: dict[str, Any] = {part: {"source": "webdataset", "path": str(folder / part)} for part in SHARES}
    data["other"] |= {"text": "none"}
    corrupted = {"corruptions": list(CORRUPTIONS), "severities": [3], "limit": count(test, "corrupted")}
    return {
        "name": f"bench-{name}",
        "version": 1,
        "models": [f"local-dir:{folder / 'model'}"],
        "quantizations": list(QUANTIZATIONS),
        "data": {**data, "test-c": {"base": "test", **corrupted}},
        "tasks": {
            "zero_shot": {"test": {"test": "test"}},
            "calibration": {"test": {"test": "test", "fit": "shifted"}},
            "ood": {"other": {"id": "test", "ood": "other"}},
            "corruption": {"test": {"clean": "test", "corrupted": "test-c"}},
            "covariate_shift": {"test": {"source": "test", "shifted": ["shifted"]}},
            "spurious": {"test": {"common": "common", "counter": "counter"}},
        },
    }


def vit(setting: Setting, test: int) -> Material:
    """ViT-B/32 and images of its size."""
    return make(setting, "vit", test, 224 if setting.sizes.vit else 64, "vit")


def demo(setting: Setting, test: int) -> Material:
    """The demo's checkpoint and images of its size (64 pixels)."""
    return make(setting, "demo", test, 64, "demo")


def sweep(setting: Setting, checkpoint: str) -> Material:
    """The sweeps that stand beside CLIP_benchmark: as many prompts for an image as ImageNet has."""
    vit, sizes = checkpoint == "vit", setting.sizes
    test, size = (sizes.sweep, 224 if sizes.vit else 64) if vit else (sizes.small, 64)
    return make(setting, f"sweep-{checkpoint}", test, size, checkpoint, round(PROMPTS_PER_IMAGE * test / CLASSES))
