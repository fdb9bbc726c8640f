"""The six tasks computed a second time, plainly, from the files of a suite: it shares no code with the packages.

open_clip, Pillow, NumPy and scikit-learn; one image and one prompt at a time, in float64; nothing is kept. Definitions:
docs/conventions.md; scales of quantized weights are torchao's. Left out: activations and methods other than `rtn`
(rounding flips cascade, so only layers can be compared: test_quant_methods_reference.py), GL-MCM's patch features
(test_metrics_ood_reference.py), corruptions with random numbers (test_corruptions.py), mCE against AlexNet (it needs 75
variants), data options `subset`, `half` and `part` (tests/unit/data). Two corruptions are computed here.
"""

import hashlib
import io
import math
import tarfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import open_clip
import pyarrow.parquet
import torch
from PIL import Image

CORRUPTIONS = {"contrast": (0.4, 0.3, 0.2, 0.1, 0.05), "pixelate": (0.9, 0.8, 0.7, 0.6, 0.5)}  # Tiny-ImageNet-C: 64 px
LAYERS = ("conv1.weight", "in_proj_weight", "out_proj.weight", "c_fc.weight", "c_proj.weight", ".proj", "_projection")


@dataclass
class Seen:
    """What a model makes of one data set: features (N, D) and (C, D), labels, names, ids; the logit scale; captions."""

    image: Any
    text: Any
    label: Any
    names: list[str]
    ids: list[str]
    group: Any
    scale: float
    owner: Any  # (P,) the image of each caption
    words: list[str]  # the captions
    said: Any  # (P, D) their features

    def cos(self, text: Any = None) -> Any:
        """Cosines (N, C)."""
        return unit(self.image) @ unit(self.text if text is None else text).T


def unit(x: Any) -> Any:
    """Rows of length 1."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def listed(spec: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Rows, class names and templates, as the files have them."""
    root, options = Path(spec["path"]), spec.get("options", {})
    lines = {path.stem: path.read_text().split("\n") for path in root.glob("*.txt")}
    found = lines.get("classnames"), lines.get("zeroshot_classification_templates", ["a photo of a {}."])
    if spec["source"] == "parquet":
        rows = pyarrow.parquet.read_table(root).to_pylist()
        names = sorted({row["label"] for row in rows if isinstance(row.get("label"), str)})
        for i, row in enumerate(rows):
            row |= {"id": f"{i:08d}", "image": row["image"]["bytes"], "group": row.get(options.get("group"))}
            row["label"] = names.index(row["label"]) if names else row.get("label", -1)
        return rows, names, found[1]
    if spec["source"] == "webdataset":
        keys: dict[str, dict[str, bytes]] = {}
        for shard in root.rglob("*.tar"):
            with tarfile.open(shard) as tar:
                for member in tar:
                    key, suffix = member.name.split(".")
                    keys.setdefault(key, {})[suffix] = tar.extractfile(member).read()  # type: ignore[union-attr]
        made = [
            (key, int(m.get("cls", -1)), m["png"], m.get("txt", b"").decode().splitlines())
            for key, m in sorted(keys.items())
        ]
        return [dict(zip(("id", "label", "image", "caption"), row, strict=True)) for row in made], *found  # type: ignore[return-value]
    if spec["source"] == "imagenet_c":
        root = root / spec["corruption"] / str(spec["severity"])
    folders = sorted(
        (p.name for p in root.iterdir() if p.is_dir()), key=lambda n: (int(n) if n.isdigit() else math.inf, n)
    )
    files = [(f, y, p) for y, f in enumerate(folders) for p in sorted((root / f).iterdir())]
    rows = [{"id": f"{f}/{p.name}", "label": y, "image": p.read_bytes()} for f, y, p in files]
    return rows, found[0] or [folder.replace("_", " ") for folder in folders], found[1]


def limited(rows: list[dict[str, Any]], names: list[str], limit: int) -> list[dict[str, Any]]:
    """Classes in turn, in the order of the hashes of their names; within a class by the hash of the sample id."""
    place: dict[str, tuple[int, bytes, bytes]] = {}
    turns: dict[int, int] = {}
    for row in sorted(rows, key=lambda row: sha(row["id"])):
        y = row["label"]
        place[row["id"]] = turns.get(y, 0), sha(f"class {names[y] if 0 <= y < len(names) else y}"), sha(row["id"])
        turns[y] = turns.get(y, 0) + 1
    kept = set(sorted(place, key=place.__getitem__)[:limit])
    return [row for row in rows if row["id"] in kept]


def sha(text: str) -> bytes:
    """The first 8 bytes of SHA-256."""
    return hashlib.sha256(text.encode()).digest()[:8]


def opened(encoded: bytes) -> Any:
    """An RGB image; None for a broken file."""
    try:
        return Image.open(io.BytesIO(encoded)).convert("RGB")
    except OSError:
        return None


def corrupted(image: Any, kind: str, severity: int) -> Any:
    """ImageNet-C's formula, at the model's input size."""
    amount, x = CORRUPTIONS[kind][severity - 1], np.asarray(image) / 255.0
    if kind == "pixelate":
        small = image.resize([int(side * amount) for side in image.size], Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.BOX)
    mean = x.mean(axis=(0, 1), keepdims=True)
    return Image.fromarray((np.clip((x - mean) * amount + mean, 0, 1) * 255 + 1e-4).astype(np.uint8))


def rounded(weight: torch.Tensor, bits: int, kind: str, asymmetric: bool) -> torch.Tensor:
    """Round to nearest over the minimum and maximum of each tensor, channel or group `g<size>`."""
    columns = weight[0].numel()
    size = weight.numel() if kind == "tensor" else int(kind[1:]) if kind[0] == "g" else columns
    rows = weight.reshape(-1, size)
    low, high = rows.amin(1, keepdim=True).clamp(max=0), rows.amax(1, keepdim=True).clamp(min=0)
    if not asymmetric:
        high = torch.maximum(high, -low)
        low = -high
    bottom, top, scale = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, (high - low) / (2**bits - 1)
    zero = (bottom - torch.round(low / scale)).clamp(bottom, top) if asymmetric else torch.zeros(())
    return (((torch.round(rows * (1 / scale)) + zero).clamp(bottom, top) - zero) * scale).reshape(weight.shape)


def load(ref: str, quant: str) -> tuple[Any, Any, Any]:
    """Model, transform and tokenizer; `quant` is fp32 or rtn-wBITS-GRANULARITY[-asym][-skip_PATTERN]-SCOPE."""
    model, _, transform = open_clip.create_model_and_transforms(ref)
    parts = quant.split("-")
    skipped = [unquote(part[5:]) for part in parts if part.startswith("skip_")]
    for name, weight in model.named_parameters():
        wanted = ("vision" if name.startswith("visual.") else "text") in parts[-1].split("+") and name.endswith(LAYERS)
        if wanted and not any(fnmatchcase(name.removesuffix(".weight"), pattern) for pattern in skipped):
            turned = name.endswith((".proj", "_projection"))  # `x @ weight`, columns are output channels
            plain = weight.data.T.contiguous() if turned else weight.data
            made = rounded(plain, int(parts[1][1:]), parts[2], "asym" in parts)
            weight.data = made.T if turned else made
    return model.double().eval(), transform, open_clip.get_tokenizer(ref)


@torch.inference_mode()
def weights(names: list[str], templates: list[str], model: Any, tokenizer: Any) -> Any:
    """(C, D): each template -> encode -> normalise -> mean -> normalise."""
    prompts = [[template.replace("{c}", "{}").replace("{}", name) for template in templates] for name in names]
    texts = [[unit(model.encode_text(tokenizer([text]))[0].numpy()) for text in some] for some in prompts]
    return np.array([unit(np.mean(some, axis=0)) for some in texts])


@torch.inference_mode()
def look(spec: dict[str, Any], limit: int | None, model: Any, transform: Any, tokenizer: Any) -> Seen:
    """The features of one single data set (one corruption of it); images that cannot be opened are left out."""
    rows, names, templates = listed(spec)
    text, templates = spec.get("text", "classes"), spec.get("templates", templates)
    names = list(spec.get("classes", names)) if text == "classes" else []
    if sizes := [size for size in (limit, spec.get("limit")) if size is not None]:
        rows = limited(rows, names, min(sizes))
    if text == "captions":  # all of them are classes, also that of an image that cannot be opened
        names, templates = sorted({row["caption"][0] for row in rows}), ["{}"]
    rows = [row for row in rows if opened(row["image"]) is not None]
    label = [row["label"] if text == "classes" else -1 for row in rows]
    if text == "captions":
        label = [names.index(row["caption"][0]) for row in rows]
    images = []
    for row in rows:
        image = opened(row["image"])
        for step in transform.transforms[:3]:  # resize, crop, RGB
            image = step(image)
        if "corruption" in spec and spec["source"] != "imagenet_c":
            image = corrupted(image, spec["corruption"], spec["severity"])
        images.append(model.encode_image(transform.transforms[4](transform.transforms[3](image)).double()[None])[0])
    group, scale = np.array([row.get("group") for row in rows]), float(model.logit_scale.exp())
    loaded = model, tokenizer
    text_features = weights(names, templates, *loaded)
    pairs = [(i, words) for i, row in enumerate(rows) if text == "captions" for words in row["caption"]]
    captions = np.array([i for i, _ in pairs]), [w for _, w in pairs], weights([w for _, w in pairs], ["{}"], *loaded)
    ids = [row["id"] for row in rows]
    return Seen(unit(np.stack(images)), text_features, np.array(label), names, ids, group, scale, *captions)
