"""What it saves not to run the padding of prompts: `python -m tests.performance.bench_texts`.

The text tower of ViT-B/32 (random weights: times do not depend on them) on open_clip's 80 templates for ImageNet, once
with the whole context of 77 tokens and once as the engine runs it, in turns.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmark.data.prompts import fill, imagenet_templates
from benchmark.models import resolve
from benchmark.models.texts import Shortened
from tests.performance.material import write_model

NAMES, ROUNDS = ("tench", "great white shark", "Staffordshire Bull Terrier"), 3


def main() -> None:
    """Print the lengths, both times, their ratio, and how far the features lie apart."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model", "vit", real_size=True)
        model = resolve(f"local-dir:{folder}/model").load()
    if not isinstance(model.tokenizer, Shortened):
        raise SystemExit("this model's prompts are not shortened")
    prompts = [fill(template, name) for name in NAMES for template in imagenet_templates()]
    whole, short = model.tokenizer.inner(prompts), model.tokenizer(prompts)
    seconds: dict[int, list[float]] = {}
    features = {}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for tokens in (whole, short):
                start = time.perf_counter()
                features[tokens.shape[1]] = model.text_encoder(model.module, tokens)
                seconds.setdefault(tokens.shape[1], []).append(time.perf_counter() - start)
    longer, shorter = (median(seconds[tokens.shape[1]]) for tokens in (whole, short))
    apart = (features[whole.shape[1]] - features[short.shape[1]]).abs().max() / features[whole.shape[1]].abs().max()
    print(f"{len(prompts)} prompts of ViT-B/32, median of {ROUNDS}:")
    print(
        f"  {whole.shape[1]} tokens {longer:.2f} s, {short.shape[1]} tokens {shorter:.2f} s: {shorter / longer:.2f} x"
    )
    print(f"  largest difference of a feature: {apart:.1e} of the largest feature")


if __name__ == "__main__":
    main()
