"""How long a quantized forward pass takes, in units of the full-precision one, on ViT-B/32's image tower.

    python tests/performance/bench_quantized_forward.py [--batch 32] [--rounds 7] [--threads 2] [--quant NAME ...]

All configurations run side by side, one batch each per round, so that a busy machine slows all of them alike; the
ratios are medians over rounds, of wall time and of processor time. Weights are random: times do not depend on them.
Limits of the wall time: 0.5 where all layers run on an integer product, 1.15 where any of them is simulated on floats.
Other libraries' kernels have none. Which engine a configuration gets depends on the device: the last column says it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from benchmark.models.attention import unroll
from benchmark.models.base import ClipModel, Preprocess
from benchmark.quantization import Calibration, cpu_capability, parse, quantize
from benchmark.quantization.kernels.selection import FLOAT_ENGINE, INT8_ENGINE, ONEDNN_ENGINE

QUANTIZATIONS = {
    "W8A8 token": "rtn-w8a8-channel-token-vision",
    "W8A8 tensor": "rtn-w8a8-channel-tensor-vision",
    "W6A8 token": "rtn-w6a8-channel-token-vision",
    "W6A8 tensor": "rtn-w6a8-channel-tensor-vision",
    "W4A8 token": "rtn-w4a8-channel-token-vision",
    "W4A8 token, asymmetric": "rtn-w4a8-channel-token-actasym-vision",
    "W8A8 token, weights asymmetric": "rtn-w8a8-channel-token-asym-vision",
    "W4A8 in groups": "rtn-w4a8-g64-token-vision",
    "W8A8, smoothed": "smoothquant-w8a8-channel-token-vision",
    "W8A8, rotated": "rotation-w8a8-channel-token-vision",
    "W4A8, rotated": "rotation-w4a8-channel-token-vision",
    "W4, weights only": "rtn-w4-channel-vision",
    "W4, weights only, rotated": "rotation-w4-channel-vision",
    "8-bit floats": "fp8-w8a8-channel-token-vision",
    "bitsandbytes' kernel": "bnb-nf4-vision",
}
INTEGER_LIMIT, FLOAT_LIMIT = 0.5, 1.15


def vit_b_32() -> ClipModel:
    """open_clip's ViT-B/32 image tower (a small text tower beside it) with random weights and plain attention."""
    torch.manual_seed(0)
    vision = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
    text = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
    module = unroll(open_clip.CLIP(512, vision, text)).eval()

    def encode(m: nn.Module, pixels: Tensor) -> Tensor:
        return m.visual(pixels)  # type: ignore[operator,no-any-return]

    return ClipModel(
        name="ViT-B-32",
        family="ViT",
        digest="random",
        module=module,
        preprocess=Preprocess((224, 224), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        tokenizer=lambda texts: torch.zeros(len(texts), 8, dtype=torch.int64),
        image_encoder=encode,
        text_encoder=lambda m, tokens: m.encode_text(tokens),  # type: ignore[operator]
        towers={"vision": ("visual",), "text": ("transformer", "token_embedding", "text_projection", "ln_final")},
        blocks={"vision": (), "text": ()},
        logit_scale=100.0,
    )


def seconds(model: ClipModel, pixels: Tensor) -> tuple[float, float]:
    """Wall and processor time of one batch."""
    if pixels.device.type == "cuda":
        torch.cuda.synchronize()
    wall, processor = time.perf_counter(), time.process_time()
    model.encode_image(pixels)
    if pixels.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(
    names: Sequence[str], batch: int, rounds: int, device: str
) -> tuple[dict[str, tuple[float, float, str]], float]:
    """Median ratios (wall, processor) and engine per configuration, and the median full-precision seconds."""
    base = vit_b_32()
    base.module.to(device)
    random = np.random.default_rng(0)
    calibration = Calibration(random.integers(0, 256, (16, 3, 224, 224), dtype=np.uint8), ["a"] * 16, "random")
    models, engines = {"fp32": base}, {}
    for name in names:
        start = time.perf_counter()
        models[name], report = quantize(base, parse(name), calibration)
        engines[name] = report.engine
        print(f"{name}: quantized in {time.perf_counter() - start:.1f} s, {report.engine}", flush=True)
    pixels = torch.from_numpy(random.integers(0, 256, (batch, 3, 224, 224), dtype=np.uint8)).to(device)
    for model in models.values():
        seconds(model, pixels)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            times[name].append(seconds(model, pixels))
    ratios = {}
    for name in names:
        pairs = list(zip(times[name], times["fp32"], strict=True))
        wall = statistics.median(mine[0] / full[0] for mine, full in pairs)
        processor = statistics.median(mine[1] / full[1] for mine, full in pairs)
        ratios[name] = (wall, processor, engines[name])
    return ratios, statistics.median(wall for wall, _ in times["fp32"])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quant", nargs="+", default=list(QUANTIZATIONS.values()))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ratios, full = measure(options.quant, options.batch, options.rounds, options.device)
    classes = {name: title for title, name in QUANTIZATIONS.items()}
    print(f"\nfp32: {full:.3f} s a batch of {options.batch}, {options.threads} threads, {cpu_capability()}")
    print(f"{'class':34} {'quantization':38} {'wall':>5} {'cpu':>5}  {'limit':>5} {'':6}  engine")
    for name, (wall, processor, engine) in ratios.items():
        limit = limit_of(engine)
        verdict = " " * 12 if limit is None else f"{limit:5.2f} {'holds' if wall <= limit else 'MISSED':6}"
        print(f"{classes.get(name, '-'):34} {name:38} {wall:5.2f} {processor:5.2f}  {verdict}  {engine}")


def limit_of(engine: str) -> float | None:
    """The limit for a report's engines; None for another library's kernel."""
    used = set(engine.split("+"))
    if FLOAT_ENGINE in used:
        return FLOAT_LIMIT
    return INTEGER_LIMIT if used <= {INT8_ENGINE, ONEDNN_ENGINE} else None


if __name__ == "__main__":
    main()
