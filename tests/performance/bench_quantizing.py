"""How long quantizing ViT-B/32's image tower takes, and how much memory.

    python tests/performance/bench_quantizing.py [--images 1000] [--quant NAME ...]

Weights and images are random: times and memory do not depend on them. Statistics of the calibration data are kept in
the process, so a method that needs what an earlier one collected is quicker; `--fresh` forgets them in between.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from benchmark.quantization import Calibration, parse, quantize
from benchmark.quantization.calibrate import STATISTICS_BYTES, forget
from tests.performance.bench_quantized_forward import vit_b_32

QUANTIZATIONS = (
    "rtn-w4-channel-vision",
    "mse-w4-channel-vision",
    "hqq-w4-g64-vision",
    "smoothquant-w8a8-channel-token-vision",
    "gptq-w4-g128-vision",
    "gptq-w3-channel-vision",
    "awq-w4-g128-vision",
)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--quant", nargs="+", default=list(QUANTIZATIONS))
    options = parser.parse_args()
    base = vit_b_32()
    pixels = np.random.default_rng(0).integers(0, 256, (options.images, 3, 224, 224), dtype=np.uint8)
    calibration = Calibration(pixels, ["a"] * options.images, "random")
    print(f"{options.images} images, {torch.get_num_threads()} threads, statistics {STATISTICS_BYTES >> 20} MiB a pass")
    print(f"{'quantization':40} {'wall s':>8} {'cpu s':>8} {'peak MiB':>9}")
    for name in options.quant:
        if options.fresh:
            forget()
        wall, processor = time.perf_counter(), time.process_time()
        quantize(base, parse(name), calibration)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        seconds = time.perf_counter() - wall
        print(f"{name:40} {seconds:8.1f} {time.process_time() - processor:8.1f} {peak:9}", flush=True)


if __name__ == "__main__":
    main()
