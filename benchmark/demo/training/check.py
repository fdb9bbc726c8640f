"""Print what the demo's checkpoint reaches in full precision: `python -m benchmark.demo.training.check`.

A self-contained look at the fixture (zero-shot accuracy, shifts, OOD, noise and blur, round-to-nearest weights), with
none of the suite's own code in it; the suite's numbers come from the suite.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from benchmark.demo.catalogue import CLASS_NAMES, DIGIT_NAMES, DIGIT_TEMPLATES, HELD_OUT, TEMPLATES
from benchmark.demo.scenes import render

CHECKPOINT = Path(__file__).parent.parent / "checkpoint"
Images = NDArray[np.uint8]
Floats = NDArray[np.float64]


class Tower:
    """The checkpoint, its preprocessing and its zero-shot class weights."""

    def __init__(self, checkpoint: Path) -> None:
        name = f"local-dir:{checkpoint}"
        self.model, _, preprocess = open_clip.create_model_and_transforms(name)
        self.model.eval()
        normalise = preprocess.transforms[-1]
        self.mean, self.std = torch.tensor(normalise.mean), torch.tensor(normalise.std)
        self.tokenize = open_clip.get_tokenizer(name)
        self.scale = self.model.logit_scale.exp().item()
        self.scene_text = self.class_weights(CLASS_NAMES, TEMPLATES)
        self.digit_text = self.class_weights(DIGIT_NAMES, DIGIT_TEMPLATES)

    @torch.inference_mode()
    def class_weights(self, names: tuple[str, ...], templates: tuple[str, ...]) -> Floats:
        """Every template -> encode -> normalise -> mean -> normalise: float64 (C, D)."""
        rows = []
        for name in names:
            tokens = self.tokenize([template.format(name) for template in templates])
            rows.append(self.model.encode_text(tokens, normalize=True).double().mean(0).numpy())
        text = np.stack(rows)
        return np.asarray(text / np.linalg.norm(text, axis=1, keepdims=True))

    @torch.inference_mode()
    def embed(self, images: Images, model: open_clip.CLIP | None = None) -> Floats:
        """uint8 (N, 64, 64, 3) -> unit features float64 (N, D), by `model` if given."""
        used = self.model if model is None else model
        parts = []
        for batch in np.array_split(images, -(-len(images) // 256)):
            pixels = (torch.from_numpy(batch).float() / 255 - self.mean) / self.std
            parts.append(used.encode_image(pixels.permute(0, 3, 1, 2), normalize=True).double().numpy())
        return np.concatenate(parts)


def accuracy(features: Floats, text: Floats, labels: NDArray[np.int64]) -> float:
    return float(np.mean((features @ text.T).argmax(1) == labels))


def scores(features: Floats, text: Floats, scale: float) -> dict[str, Floats]:
    """MSP at the model's own scale, MCM at temperature 1 and MaxLogit; higher: in distribution."""
    cosine = features @ text.T

    def top_probability(logits: Floats) -> Floats:
        return np.asarray(1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1))

    return {"msp": top_probability(scale * cosine), "mcm": top_probability(cosine), "maxlogit": cosine.max(1)}


def rtn(model: open_clip.CLIP, bits: int) -> open_clip.CLIP:
    """A copy whose vision matrices are rounded to `bits`, symmetric, one scale per output channel."""
    rounded = copy.deepcopy(model)
    top = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for name, weight in rounded.visual.named_parameters():
            if weight.ndim >= 2 and "embedding" not in name:
                matrix = weight.T if name == "proj" else weight  # `proj` is stored as inputs x outputs
                rows = matrix.flatten(1)
                step = rows.abs().amax(1, keepdim=True) / top
                whole = (torch.clamp(torch.round(rows / step), -top - 1, top) * step).reshape(matrix.shape)
                weight.copy_(whole.T if name == "proj" else whole)
    return rounded


def measure(tower: Tower, limit: int | None) -> dict[str, float]:
    """All figures by name; fractions, but for images per second."""
    out: dict[str, float] = {}
    images, labels, _ = render("test", limit)
    started = time.monotonic()
    features = tower.embed(images)
    out["images_per_second"] = len(images) / (time.monotonic() - started)
    out["accuracy/test"] = accuracy(features, tower.scene_text, labels)
    held = np.isin(labels, HELD_OUT)
    out["accuracy/test/seen"] = accuracy(features[~held], tower.scene_text, labels[~held])
    out["accuracy/test/held_out"] = accuracy(features[held], tower.scene_text, labels[held])
    guess = (features @ tower.scene_text.T).argmax(1)
    out["accuracy/test/shape"] = float(np.mean(guess // 8 == labels // 8))
    out["accuracy/test/colour"] = float(np.mean(guess % 8 == labels % 8))
    for name in ("sketch", "textured", "v2", "common", "counter"):
        shifted, truth, _ = render(name, limit)
        out[f"accuracy/{name}"] = accuracy(tower.embed(shifted), tower.scene_text, truth)
    digits, truth, _ = render("digits", limit)
    out["accuracy/digits"] = accuracy(tower.embed(digits), tower.digit_text, truth)
    inside = scores(features, tower.scene_text, tower.scale)
    for name in ("near_ood", "far_ood"):
        outside = scores(tower.embed(render(name, limit)[0]), tower.scene_text, tower.scale)
        for score, values in inside.items():
            truth = np.repeat([1, 0], [len(values), len(outside[score])])
            out[f"auroc/{name}/{score}"] = float(roc_auc_score(truth, np.concatenate([values, outside[score]])))
    out["confidence/test/msp"] = float(inside["msp"].mean())
    for bits in (8, 6, 5, 4, 3, 2):
        out[f"accuracy/test/w{bits}"] = accuracy(tower.embed(images, rtn(tower.model, bits)), tower.scene_text, labels)
    rng = np.random.default_rng(0)
    for sigma in (10, 20, 30, 45, 60):
        noisy = np.clip(np.rint(images + rng.normal(0, sigma, images.shape)), 0, 255).astype(np.uint8)
        out[f"accuracy/test/noise{sigma}"] = accuracy(tower.embed(noisy), tower.scene_text, labels)
    for width in (0.7, 1.2, 2.0, 3.0, 4.0):
        blurred = gaussian_filter(images, (0, width, width, 0))
        out[f"accuracy/test/blur{width}"] = accuracy(tower.embed(blurred), tower.scene_text, labels)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--limit", type=int, default=None, help="only the first so many images of each split")
    arguments = parser.parse_args()
    tower = Tower(arguments.checkpoint)
    print(f"logit_scale {tower.scale:.2f}")
    for name, value in measure(tower, arguments.limit).items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    main()
