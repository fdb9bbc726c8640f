"""Images as each model's makers prepare them: 39 tags of open_clip against its own transform, and transformers'."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from safetensors.torch import save_file

from benchmark.data import decode
from benchmark.engine.request import RunRequest
from benchmark.engine.requested import requested_plan
from benchmark.models import hub, resolve
from benchmark.models.preprocess import RGB_ONLY, Preprocess, from_transformers
from benchmark.models.pretrained import tags
from benchmark.utils.hub import Repository, Snapshot
from tests import layouts

with warnings.catch_warnings():  # its optional imports warn about themselves while they are byte-compiled
    warnings.simplefilter("ignore")
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    transformers: Any = pytest.importorskip("transformers")

# reference, image size, mean and standard deviation, resizing, interpolation, QuickGELU: as the makers publish them
PUBLISHED = [
    ("RN50/openai", 224, "openai", "shortest", "bicubic", True),
    ("RN50/yfcc15m", 224, "openai", "shortest", "bicubic", True),
    ("RN50/cc12m", 224, "openai", "shortest", "bicubic", True),
    ("ViT-B-32/openai", 224, "openai", "shortest", "bicubic", True),
    ("ViT-B-16/openai", 224, "openai", "shortest", "bicubic", True),
    ("ViT-L-14/openai", 224, "openai", "shortest", "bicubic", True),
    ("ViT-B-32/laion400m_e32", 224, "openai", "shortest", "bicubic", True),
    ("ViT-B-16/laion400m_e32", 224, "openai", "shortest", "bicubic", False),
    ("ViT-B-32/laion2b_s34b_b79k", 224, "openai", "shortest", "bicubic", False),
    ("ViT-B-16/laion2b_s34b_b88k", 224, "openai", "shortest", "bicubic", False),
    ("ViT-L-14/laion2b_s32b_b82k", 224, "inception", "shortest", "bicubic", False),
    ("ViT-H-14/laion2b_s32b_b79k", 224, "openai", "shortest", "bicubic", False),
    ("ViT-B-32/datacomp_xl_s13b_b90k", 224, "openai", "shortest", "bicubic", False),
    ("ViT-B-16/datacomp_xl_s13b_b90k", 224, "openai", "shortest", "bicubic", False),
    ("ViT-L-14/datacomp_xl_s13b_b90k", 224, "openai", "shortest", "bicubic", False),
    ("ViT-B-16/dfn2b", 224, "openai", "shortest", "bicubic", True),
    ("ViT-L-14/dfn2b", 224, "openai", "shortest", "bicubic", True),
    ("ViT-H-14/dfn5b", 224, "openai", "squash", "bicubic", True),
    ("ViT-B-32/metaclip_400m", 224, "openai", "shortest", "bicubic", True),
    ("ViT-B-16/metaclip_fullcc", 224, "openai", "shortest", "bicubic", True),
    ("ViT-L-14-CLIPA/datacomp1b", 224, "imagenet", "squash", "bilinear", False),
    ("convnext_base/laion400m_s13b_b51k", 224, "openai", "shortest", "bicubic", False),
    ("convnext_base_w/laion2b_s13b_b82k_augreg", 256, "openai", "shortest", "bicubic", False),
    ("convnext_base_w/laion_aesthetic_s13b_b82k", 256, "openai", "shortest", "bicubic", False),
    ("convnext_large_d/laion2b_s26b_b102k_augreg", 256, "openai", "shortest", "bicubic", False),
    ("coca_ViT-B-32/laion2b_s13b_b90k", 224, "openai", "shortest", "bicubic", False),
    ("coca_ViT-L-14/laion2b_s13b_b90k", 224, "openai", "shortest", "bicubic", False),
    ("EVA02-B-16/merged2b_s8b_b131k", 224, "openai", "shortest", "bicubic", False),
    ("EVA02-L-14/merged2b_s4b_b131k", 224, "openai", "shortest", "bicubic", False),
    ("ViT-B-16-SigLIP/webli", 224, "inception", "squash", "bicubic", False),
    ("ViT-L-16-SigLIP-256/webli", 256, "inception", "squash", "bicubic", False),
    ("ViT-SO400M-14-SigLIP/webli", 224, "inception", "squash", "bicubic", False),
    ("ViT-B-16-SigLIP2/webli", 224, "inception", "squash", "bicubic", False),
    ("ViT-L-16-SigLIP2-256/webli", 256, "inception", "squash", "bicubic", False),
    ("ViT-SO400M-16-SigLIP2-384/webli", 384, "inception", "squash", "bicubic", False),
    ("MobileCLIP-S1/datacompdr", 256, "none", "shortest", "bilinear", False),
    ("MobileCLIP-S2/datacompdr", 256, "none", "shortest", "bilinear", False),
    ("MobileCLIP-B/datacompdr", 224, "none", "shortest", "bilinear", False),
    ("MobileCLIP2-S2/dfndr2b", 256, "none", "shortest", "bilinear", False),
]
NORMS = {
    "openai": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def _tiny(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    return "png", layouts.encoded(layouts.picture(seed, size), "png")


def _one_transparent_colour(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    image = layouts.picture(seed, size)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=image.getpixel((0, 0)))
    return "png", buffer.getvalue()


def _grey_one_transparent(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    layouts.picture(seed, size).convert("L").save(buffer, "PNG", transparency=128)
    return "png", buffer.getvalue()


def _animated(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    frames = [layouts.picture(seed + i, size).quantize(64) for i in range(3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], transparency=3)
    return "gif", buffer.getvalue()


KINDS = {name: make for name, make in layouts.MODES.items() if name != "I;16"}  # the stated difference of its own
KINDS |= {"tRNS": _one_transparent_colour, "L tRNS": _grey_one_transparent, "GIF": _animated}
ODD = [
    *((name, make, (48, 40)) for name, make in KINDS.items()),
    *((f"{width}x{height}", _tiny, (width, height)) for width, height in ((1, 1), (7, 9), (2, 60), (300, 11))),
    *((f"RGBA {size}", KINDS["RGBA"], size) for size in ((333, 77), (64, 224), (224, 224), (513, 512))),
]
"""Name, maker and size of 20 images and more."""


def odd_images() -> list[tuple[str, bytes]]:
    return [(name, make(number, size)[1]) for number, (name, make, size) in enumerate(ODD)]


def opened(encoded: bytes) -> Image.Image:
    """As open_clip's own loaders open it: torchvision's `pil_loader` and webdataset's `pilrgb`."""
    image = Image.open(io.BytesIO(encoded))
    image.load()
    image.info.pop("transparency", None)  # Pillow would only warn about it
    return image.convert("RGB")


def ours(encoded: bytes, preprocess: Preprocess) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(decode.pixels(encoded, preprocess))).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return (pixels - mean) / std


@pytest.fixture
def _every_weight_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that references name, without their content: preprocessing and architecture come from elsewhere."""
    save_file({"x": torch.zeros(3)}, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_text("{}")

    class Here(Snapshot):
        folder = property(lambda self: tmp_path)  # type: ignore[assignment]

        def take(self, names: Sequence[str]) -> Path:
            return tmp_path / ("model.safetensors" if names[0].endswith("safetensors") else names[0])

    def open_model(name: str, **_: object) -> Snapshot:
        return Here(Repository(name), "0" * 40, {"tokenizer.json": ""}, closed="a test")

    monkeypatch.setattr(hub, "open_model", open_model)


def test_there_are_20_odd_images() -> None:
    assert len(ODD) >= 20
    assert len({data for _, data in odd_images()}) == len(ODD)


@cache
def compared(preprocess: Preprocess, official: tuple[tuple[str, Any], ...]) -> float:
    """The largest difference between our input and that of open_clip's own transform over all odd images."""
    transform = image_transform_v2(PreprocessCfg(**dict(official)), is_train=False)
    return max(float((ours(data, preprocess) - transform(opened(data))).abs().max()) for _, data in odd_images())


@pytest.mark.usefixtures("_every_weight_is_cached")
@pytest.mark.parametrize(("ref", "size", "norm", "resize", "interpolation", "quick_gelu"), PUBLISHED)
def test_a_tag_is_prepared_as_its_makers_do(
    ref: str, size: int, norm: str, resize: str, interpolation: str, quick_gelu: bool
) -> None:
    found = resolve(ref)
    preprocess = found.preprocess
    assert (preprocess.size, preprocess.resize, preprocess.interpolation) == ((size, size), resize, interpolation)
    assert (preprocess.mean, preprocess.std) == NORMS[norm]
    assert found.recipe is not None
    assert bool(found.recipe.architecture.get("quick_gelu")) == quick_gelu
    official = merge_preprocess_dict(asdict(PreprocessCfg()), tags().get_pretrained_cfg(*ref.split("/")))
    official["size"] = found.recipe.architecture["vision_cfg"]["image_size"]  # as open_clip's factory does
    assert compared(preprocess, tuple(sorted(official.items()))) < 1e-6


@pytest.mark.usefixtures("_every_weight_is_cached")
def test_the_activation_is_that_of_the_tag_and_the_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "mine.safetensors"
    save_file({"x": torch.zeros(3)}, weights)
    request = RunRequest(
        suite="demo",
        tasks=["zero_shot"],
        models=["ViT-B-32/openai", f"ViT-B-32/{weights}", "ViT-B-32/datacomp_xl_s13b_b90k"],
    )
    plan = requested_plan(request)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "ViT-B-32/openai: built with QuickGELU, with which these weights were trained",
        f"ViT-B-32/{weights}: built with GELU; weights trained with QuickGELU (OpenAI, DFN, MetaCLIP) need "
        f"ViT-B-32-quickgelu/{weights}",
    ]
    assert {c.model.notes for c in plan.configurations} == {(), *((line.partition(": ")[2],) for line in said)}


PROCESSORS = {
    "CLIP": transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "SigLIP": transformers.SiglipImageProcessor(size={"height": 32, "width": 32}),
    "ChineseCLIP": transformers.ChineseCLIPImageProcessor(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=False
    ),
}


@pytest.mark.parametrize("kind", sorted(PROCESSORS))
@pytest.mark.parametrize("name", ["RGBA", "LA", "P", "tRNS", "L tRNS", "GIF", "rgb", "L", "CMYK", "1"])
def test_transparent_images_lie_on_white_for_transformers(kind: str, name: str) -> None:
    """The image already has the model's size: resizing is another matter, the library has two backends for it."""
    processor = PROCESSORS[kind]
    encoded = KINDS[name](5, (32, 32))[1]
    expected = processor(Image.open(io.BytesIO(encoded)), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(
        ours(encoded, from_transformers(processor.to_dict(), "here")), expected, atol=1e-5, rtol=0
    )


def test_white_and_dropped_differ_where_something_is_transparent() -> None:
    encoded = KINDS["RGBA"](5, (32, 32))[1]
    white = from_transformers(PROCESSORS["CLIP"].to_dict(), "here")
    assert white.alpha == "white"
    dropped = from_transformers(PROCESSORS["CLIP"].to_dict() | {"do_convert_rgb": False}, "here")
    assert np.abs(decode.pixels(encoded, white).astype(int) - decode.pixels(encoded, dropped)).max() > 50


@pytest.mark.parametrize("name", ["CLIP", "Siglip", "ChineseCLIP", "Blip", "EfficientNet", "ViT", "Flava"])
@pytest.mark.parametrize("suffix", ["", "Pil", "Fast"])
def test_which_processors_convert_is_as_the_library_has_it(name: str, suffix: str) -> None:
    converts = bool(getattr(getattr(transformers, f"{name}ImageProcessor"), "do_convert_rgb", None))
    assert converts == (f"{name}ImageProcessor" not in RGB_ONLY)
    config = {**PROCESSORS["CLIP"].to_dict(), "image_processor_type": f"{name}ImageProcessor{suffix}"}
    config.pop("do_convert_rgb")
    assert from_transformers(config, "here").alpha == ("white" if converts else "dropped")
