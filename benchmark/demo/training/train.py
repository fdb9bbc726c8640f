"""Train the demo's tiny CLIP: `python -m benchmark.demo.training.train --out DIR`.

The suite itself never trains a model; this script made the committed fixture and nobody has to run it again.

The recipe, and why. A small ViT trained from scratch on these scenes with the plain contrastive loss learns the colours
at once and then sits at chance on the shapes. So
1. a curriculum begins with large centred shapes on flat ground and ends with the real scenes;
2. every step scores the images against the captions of *all* training classes, each written with a template drawn at
   random, and not only against the captions that happen to be in the batch;
3. captions that name the shape or the colour alone ("a photo of a star.") make the text tower factorise;
4. a throw-away head on the patch tokens predicts the signed distance to the shape's edge, the shape and the colour.
Held-out combinations occur neither as images nor as captions. The rate is constant after the warm-up and falls to zero
at the end; the weights that are kept are a running mean.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from benchmark.demo.catalogue import SPLITS
from benchmark.demo.training.data import Batch, Captions, Stage, batches
from benchmark.demo.training.model import CONFIG, PatchHead, build, encode_text, encode_vision, finished, save


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a run; lengths in steps. `decay_steps` and `mean_over` concern the end of the run."""

    seed: int = 0
    scenes: int = 56
    digits: int = 8
    rate: float = 2e-3
    warmup: int = 100
    steps: int = 7_400
    decay_steps: int = 1_400
    mean_over: int = 200
    weight_decay: float = 0.05
    part_weight: float = 0.5
    patch_weight: float = 1.0
    digit_weight: float = 0.3
    stages: tuple[Stage, ...] = (
        Stage(0.1, 2_000, 0),
        Stage(0.3, 4_000, 220),
        Stage(0.6, 8_000, 600),
        Stage(1.0, 24_000, 1_000),
        Stage(1.0, 24_000, 6_200, small=12_000),
    )


class Trainer:
    """Model, throw-away head, optimiser, running mean and random streams of one run."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.step = recipe, 0
        self.rng = np.random.Generator(np.random.PCG64(recipe.seed))
        self.captions = Captions()
        self.model = build(self.captions.words)
        self.head = PatchHead(CONFIG.width)
        self.mean = copy.deepcopy(self.model)
        decayed = [p for n, p in self.model.named_parameters() if p.ndim >= 2 and "embedding" not in n]
        others = [p for n, p in self.model.named_parameters() if p.ndim < 2 or "embedding" in n]
        groups = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": [*others, *self.head.parameters()], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)

    def rate(self) -> float:
        """Linear warm-up, a plateau, and a linear fall to zero over the last `decay_steps`."""
        recipe = self.recipe
        rise = (self.step + 1) / recipe.warmup
        fall = (recipe.steps - self.step) / recipe.decay_steps
        return recipe.rate * min(1.0, rise, fall)

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Total loss and the numbers for the log."""
        recipe, scenes = self.recipe, len(batch.labels)
        texts = encode_text(self.model, self.captions.draw(self.rng))
        features, tokens = encode_vision(self.model, batch.pixels)
        logits = self.model.logit_scale.exp() * features @ texts.T
        seen, digit, shape, colour = logits.split(self.captions.sizes, 1)
        whole = torch.cat([seen, digit], 1)
        target = self.captions.targets(batch.labels, batch.digits)
        shape_of, colour_of = batch.labels // 8, batch.labels % 8
        match = F.cross_entropy(whole, target)
        parts = F.cross_entropy(shape[:scenes], shape_of) + F.cross_entropy(colour[:scenes], colour_of)
        patches, distance = self.head.scenes(tokens[:scenes], batch.distances, shape_of, colour_of)
        patches = patches + recipe.digit_weight * self.head.digits(tokens[scenes:], batch.digits)
        total = match + recipe.part_weight * parts + recipe.patch_weight * patches
        right = (whole.argmax(1) == target).float()
        numbers = {
            "loss": match.item(),
            "accuracy": right[:scenes].mean().item(),
            "digits": right[scenes:].mean().item(),
            "shape": (shape[:scenes].argmax(1) == shape_of).float().mean().item(),
            "colour": (colour[:scenes].argmax(1) == colour_of).float().mean().item(),
            "distance": distance.item(),
        }
        return total, numbers

    def advance(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; the running mean follows with a horizon of `mean_over` steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        total, numbers = self.losses(batch)
        self.optimizer.zero_grad()
        torch.autograd.backward([total])
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
            share = max(1 / self.recipe.mean_over, 1 / self.step)
            torch._foreach_lerp_(list(self.mean.parameters()), list(self.model.parameters()), share)
        return numbers

    def stage(self) -> Stage:
        """The stage that the next step belongs to."""
        return [stage for stage in self.recipe.stages if stage.start <= self.step][-1]

    def feed(self, cache: Path | None) -> Iterator[Batch]:
        """Batches of the current stage, and of the next ones as their time comes."""
        while True:
            stage = self.stage()
            source = batches(stage, self.recipe.scenes, self.recipe.digits, self.rng, cache)
            while self.stage() == stage:
                yield next(source)

    def state(self) -> dict[str, object]:
        return {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "step": self.step,
        }

    def resume(self, file: Path) -> None:
        saved = torch.load(file, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.head.load_state_dict(saved["head"])
        self.mean.load_state_dict(saved["mean"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.rng.bit_generator.state = json.loads(saved["rng"])
        self.step = saved["step"]


def train(recipe: Recipe, log: TextIO, out: Path, state: Path | None, cache: Path | None) -> CLIP:
    """Run to `recipe.steps`; a line of means over 100 steps goes to `log`, snapshots to `out` and `state`."""
    trainer = Trainer(recipe)
    if state is not None and state.exists():
        trainer.resume(state)
        print(f"resumed at step {trainer.step}", file=log, flush=True)
    started, sums = time.monotonic(), dict[str, float]()
    feed = trainer.feed(cache)
    while trainer.step < recipe.steps:
        numbers = trainer.advance(next(feed))
        sums = {key: sums.get(key, 0.0) + value / 100 for key, value in numbers.items()}
        if trainer.step % 100 == 0:
            means = " ".join(f"{key} {value:.3f}" for key, value in sums.items())
            scale, seconds = trainer.model.logit_scale.exp().item(), time.monotonic() - started
            line = f"step {trainer.step} rate {trainer.rate():.5f} {means} scale {scale:.1f} seconds {seconds:.0f}"
            print(line, file=log, flush=True)
            sums = {}
        if state is not None and trainer.step % 200 == 0:
            torch.save(trainer.state(), state)
            save(finished(trainer.mean, trainer.captions.words), out)
    return finished(trainer.mean, trainer.captions.words)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's tiny CLIP.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and its log")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--state", type=Path, help="file to resume from and to keep the run's state in")
    parser.add_argument("--cache", type=Path, help="folder that keeps rendered stages")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    recipe = replace(Recipe(), steps=arguments.steps)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "training.log").open("a") as log:
        versions = {"python": platform.python_version(), "torch": torch.__version__, "open_clip": open_clip.__version__}
        print(
            json.dumps(
                {
                    "recipe": asdict(recipe),
                    "style": asdict(SPLITS["train"].style),
                    "config": CONFIG.as_json(),
                    "versions": versions,
                }
            ),
            file=log,
        )
        digest = save(train(recipe, log, arguments.out, arguments.state, arguments.cache), arguments.out)
        print(f"sha256 {digest}", file=log)


if __name__ == "__main__":
    main()
