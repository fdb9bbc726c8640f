"""How long a quantized forward pass takes, in units of the full-precision one, on ViT-B/32's image tower.

    python tests/performance/bench_quantized_forward.py [--batch 32] [--rounds 7] [--threads 2] [--quant NAME ...]

All configurations run side by side, one batch each per round, so that a busy machine slows all of them alike; the
ratios are medians over rounds, of wall time and of processor time. Weights are random: times do not depend on them.
Targets: 0.5 for configurations on an int8 matrix product (CUDA, or a CPU with AVX512-VNNI), 1.15 for other simulated
ones. Where there is no fast int8 product all simulated configurations run on floats, and the first target cannot apply.
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

QUANTIZATIONS = (
    "rtn-w8a8-channel-token-vision",
    "rtn-w8a8-channel-tensor-vision",
    "rtn-w4a8-channel-token-actasym-vision",
    "smoothquant-w8a8-channel-token-vision",
    "rtn-w4-channel-vision",
    "rtn-w4a8-g64-token-vision",
    "rotation-w8a8-channel-token-vision",
    "rotation-w4-channel-vision",
    "fp8-w8a8-channel-token-vision",
    "bnb-nf4-vision",
)
INT8_TARGET, FLOAT_TARGET = 0.5, 1.15


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
    parser.add_argument("--quant", nargs="+", default=list(QUANTIZATIONS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ratios, full = measure(options.quant, options.batch, options.rounds, options.device)
    print(f"\nfp32: {full:.3f} s a batch of {options.batch}, {options.threads} threads, {cpu_capability()}")
    print(f"{'quantization':44} {'wall':>6} {'cpu':>6}  {'target':>6}  engine")
    for name, (wall, processor, engine) in ratios.items():
        simulated = {"float-simulated": FLOAT_TARGET, "int8-gemm": INT8_TARGET}.get(engine)
        verdict = "" if simulated is None else f"{simulated:6.2f} {'ok' if wall <= simulated else 'MISSED'}"
        print(f"{name:44} {wall:6.2f} {processor:6.2f}  {verdict:13}  {engine}")


if __name__ == "__main__":
    main()
