"""How long quantizing ViT-B/32's image tower takes, and how much memory.

    python -m tests.performance.bench_quantizing [--images 1000] [--fresh] [--quant NAME ...]

Weights and images are random: times and memory do not depend on them. Each quantization runs in a process of its own,
whose peak memory is given with the images (0.15 MB each) and both models in it. Statistics of the calibration data are
kept in a temporary folder, so a method that needs what an earlier one collected is quicker; `--fresh` gives each a
folder of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmark.ledger.store import Store
from benchmark.quantization import Calibration, parse, quantize
from benchmark.quantization.calibrate import STATISTICS_BYTES
from benchmark.utils.progress import open_progress
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


def measure(name: str, images: int, folder: Path) -> tuple[float, float, int, int]:
    """Wall and processor seconds of a quantization, and the process's memory before and at its peak in MiB."""
    base = vit_b_32()
    pixels = np.random.default_rng(0).integers(0, 256, (images, 3, 224, 224), dtype=np.uint8)
    calibration = Calibration(pixels, ["a"] * images, f"random {images}")
    before, wall, processor = peak(), time.perf_counter(), time.process_time()
    with open_progress(quiet=False) as progress:
        quantize(base, parse(name), calibration, progress, statistics=Store(folder))
    return time.perf_counter() - wall, time.process_time() - processor, before, peak()


def peak() -> int:
    """Most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--quant", nargs="+", default=list(QUANTIZATIONS))
    options = parser.parse_args()
    print(f"{options.images} images, {torch.get_num_threads()} threads, statistics {STATISTICS_BYTES >> 20} MiB a pass")
    print(f"{'quantization':40} {'wall s':>8} {'cpu s':>8} {'before MiB':>11} {'peak MiB':>9}", flush=True)
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes,
    ):
        for name in options.quant:
            place = Path(folder) / (name if options.fresh else "shared")
            wall, processor, before, most = processes.submit(measure, name, options.images, place).result()
            print(f"{name:40} {wall:8.1f} {processor:8.1f} {before:11} {most:9}", flush=True)


if __name__ == "__main__":
    main()
